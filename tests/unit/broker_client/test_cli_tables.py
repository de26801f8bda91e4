"""Tables fit the screen, and say what they left out."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_client.cli.screen.tables import (
    Column,
    cells_of,
    cut,
    duration,
    facts,
    fit,
    hung,
    local_and_utc,
    short_time,
    utc_time,
)

COLUMNS = (
    Column("AGENT"),
    Column("STATUS"),
    Column("REASON", 2, least=10),
    Column("RUNNING", 3, right=True),
    Column("HOST", 4),
)
ROW = ("web-1", "active", "beats arrive and are answered", "0/8", "host.example")


def test_wide_screen_shows_all_columns_aligned() -> None:
    table = fit(COLUMNS, [ROW], 200)
    assert table.hidden == []
    assert table.lines == [
        "AGENT  STATUS  REASON                         RUNNING  HOST",
        "web-1  active  beats arrive and are answered      0/8  host.example",
    ]


def test_texts_are_broken_into_lines_before_columns_are_left_out() -> None:
    table = fit(COLUMNS, [ROW], 55)
    assert table.hidden == []
    assert table.lines[1:] == [
        "web-1  active  beats arrive and       0/8  host.example",
        "               are answered",
    ]


def test_reason_keeps_readable_lines_beside_a_long_text_that_is_cut() -> None:
    columns = (Column("ID"), Column("PROGRAM", least=7, is_cut=True), Column("REASON", least=8))
    why = "ended by signal SIGKILL"
    table = fit(columns, [("a9", "sh -c 'echo one; echo two; kill -9 $$'", why)], 40)
    assert table.lines == [
        "ID  PROGRAM             REASON",
        "a9  sh -c 'echo one; …  ended by signal",
        "                        SIGKILL",
    ]


def test_text_takes_four_lines_at_most() -> None:
    lines = fit((Column("A"), Column("WHY", least=4)), [("a", "one two six ten and more")], 7).lines
    assert lines == ["A  WHY", "a  one", "   two", "   six", "   ten…"]


def test_columns_are_left_out_by_rank_and_named() -> None:
    table = fit(COLUMNS, [ROW], 30)
    assert table.hidden == ["RUNNING", "HOST"]
    assert table.lines == [
        "AGENT  STATUS  REASON",
        "web-1  active  beats arrive",
        "               and are",
        "               answered",
    ]


def test_a_text_takes_the_room_of_a_column_that_was_left_out() -> None:
    columns = (Column("AT"), Column("ACTION", least=6), Column("DETAIL", 1, least=16))
    table = fit(columns, [("now", "agent.confirm", "certificate 4711 is in use")], 24)
    assert table.hidden == ["DETAIL"]
    assert table.lines == ["AT   ACTION", "now  agent.confirm"]


def test_moments_in_utc_are_those_of_the_record_wherever_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert utc_time("2027-02-19T05:56:30.000Z") == "2027-02-19 05:56:30"
    finally:
        monkeypatch.undo()
        time.tzset()
    assert utc_time("never") == "never"
    assert utc_time(None) == ""


@given(
    rows=st.lists(st.tuples(*[st.text(max_size=120)] * len(COLUMNS)), max_size=5),
    width=st.integers(min_value=20, max_value=120),
)
def test_no_line_is_wider_than_the_screen(rows: list[tuple[str, ...]], width: int) -> None:
    table = fit(COLUMNS, rows, width)
    assert max(cells_of(line) for line in table.lines) <= width
    assert len(table.lines) >= len(rows) + 1
    assert "\n" not in "".join(table.lines)


@pytest.mark.parametrize(
    ("text", "cells"), [("abc", 3), ("世界", 4), ("e\u0301", 1), ("…", 1), ("", 0)]
)
def test_cells_are_counted_as_a_terminal_does(text: str, cells: int) -> None:
    assert cells_of(text) == cells


def test_cut_never_exceeds_its_width_with_wide_characters() -> None:
    assert cut("世界世界", 6) == "世界…"


def test_facts_leave_out_what_is_empty() -> None:
    assert facts([("name", "web-1"), ("reason", ""), ("x", "y\x1b")]) == [
        "name  web-1",
        "x     y\\x1b",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0s"), (9.94, "9.9s"), (61, "1m 1s"), (3600, "1h"), (90_061, "1d 1h")],
)
def test_duration_names_the_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_time_is_local_with_utc_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        shown = local_and_utc("2025-11-21T20:00:00.500Z")
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert shown == "2025-11-22 01:30:00 +0530 (20:00:00 UTC)"


@pytest.mark.parametrize("text", ["", "nonsense", "2025-11-21T20:00:00"])
def test_cell_without_a_moment_stays_as_it_is(text: str) -> None:
    assert local_and_utc(text) == text


def test_short_time_is_of_today_or_names_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    now = 1763755200.0  # 2025-11-21 20:00:00
    try:
        assert short_time("2025-11-21T19:59:58.500Z", now) == "19:59:58"
        assert short_time("2025-11-20T19:59:58Z", now) == "11-20 19:59"
        assert short_time("2024-11-21T19:59:58Z", now) == "2024-11-21"
        assert short_time("", now) == ""
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


LONG = "0123456789" * 3


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        ("reason  short", ["reason  short"]),
        (
            "reason       beats arrive and are answered",
            ["reason       beats arrive and", "             are answered"],
        ),
        (f"next  {LONG} x", ["next", f"      {LONG}", "      x"]),
        ("words without a name before them", ["words without a name before", "  them"]),
    ],
)
def test_line_that_is_too_long_goes_on_below_its_text(line: str, lines: list[str]) -> None:
    assert hung(line, 30) == lines


@given(st.text(alphabet="ab  ", max_size=80), st.integers(20, 60))
def test_no_word_is_lost_when_lines_are_broken(line: str, width: int) -> None:
    assert " ".join(hung(line, width)).split() == line.split()
