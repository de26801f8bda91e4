"""Lengths of time as people write them."""

from typing import get_args

import pytest

from broker_client.cli.spans import moment_of, span_s, to_seconds
from broker_client.cli.tree import COMMANDS, build
from schemas.spans import size_bytes, time_left


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0),
        ("90s", 90.0),
        ("1.5m", 90.0),
        ("2h", 7200.0),
        ("30d", 2_592_000.0),
        ("1h30m", 5400.0),
        ("1d12h", 129_600.0),
        ("0.5", 0.5),
    ],
)
def test_span_has_one_unit(text: str, seconds: float) -> None:
    assert span_s(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0d", "-1h", "30m1h", "1m1m", "1h30", "forever", "1 h", "nan", "1e3"]
)
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no length of time"):
        span_s(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-01T00:01:40+00:00", 100.0),
        ("1970-01-02T00:00:00Z", 86_400.0),
        ("30d", 10_000_000.0 - 30 * 86_400),
        ("90", 10_000_000.0 - 90),
    ],
)
def test_moment_is_a_date_or_so_long_ago(text: str, moment: float) -> None:
    assert moment_of(text, now=10_000_000.0) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "12 parsecs", "2026-13-01", "-3d"])
def test_what_is_no_moment_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="2026-01-31, 12h, 30d"):
        moment_of(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", 1024**2),
        ("64KiB", 65_536),
        ("64k", 65_536),
        ("1.5GiB", 1_610_612_736),
        ("2MB", 2 * 1024**2),
    ],
)
def test_size_has_a_unit_or_is_of_bytes(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1", "1 GiB x", "1XB", "1GiBB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no size: write it as"):
        size_bytes(text)


def spans() -> list[tuple[str, str, str]]:
    """Each option of the command line whose value is a number of seconds."""
    app = build(())
    found = []
    for noun, verb, _, _ in COMMANDS:
        command = app[noun][verb] if verb else app[noun]
        found += [
            (noun, verb, name)
            for each in command.assemble_argument_collection()
            for name in each.names
            if name.startswith("--") and float in (each.hint, *get_args(each.hint))
        ]
    return found


@pytest.mark.parametrize(("noun", "verb", "option"), spans())
def test_every_option_that_is_a_time_takes_one_grammar_and_says_so(
    noun: str, verb: str, option: str
) -> None:
    app = build(())
    command = app[noun][verb] if verb else app[noun]
    found = next(each for each in command.assemble_argument_collection() if option in each.names)
    converter = found.parameter.converter
    assert converter is to_seconds, "a number of seconds is read by one grammar"
    assert "(seconds)" in (found.parameter.help or "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (89.9 * 86_400, "89 days"),
        (86_400.0, "1 day"),
        (86_399.0, "23h 59m 59s"),
        (61.0, "1m 1s"),
        (0.4, "0s"),
        (-5.0, "0s"),
    ],
)
def test_what_is_left_is_told_to_the_second_under_a_day(seconds: float, text: str) -> None:
    assert time_left(seconds) == text
