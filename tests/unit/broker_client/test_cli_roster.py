"""Agents in lists: filters, order and columns."""

import fcntl
import os
import pty
import struct
import sys
import termios
from collections.abc import Sequence

import msgspec
import pytest

from broker_client.cli.agent.listing import print_agents, table_of
from broker_client.cli.agent.manage import _described
from broker_client.cli.agent.roster import TRAITS, USUAL, columns_of, in_order, rows_of
from broker_client.cli.filters import unmatched
from broker_client.cli.options import Listing
from broker_client.cli.screen.report import print_csv
from broker_client.cli.screen.size import screen_height, screen_width
from broker_client.cli.screen.tables import fit
from schemas.faults import Refused
from schemas.listed import AGENTS, passes
from schemas.messages.api import AgentRecord, CertificateRecord, DetailsRecord, PingAnswer

NOW = 1763755200.0  # 2025-11-21T20:00:00Z


def agent(
    name: str,
    *,
    status: str = "active",
    ends: str | None = "2026-02-19T20:00:00.000Z",
    uptime_s: float = 60.0,
    running: int = 0,
    version: str = "1.4",
) -> AgentRecord:
    certificate = None
    if ends:
        certificate = CertificateRecord(serial="1", not_after=ends, days_left=1.0)
    return AgentRecord(
        agent=name,
        group=name.partition("-")[0],
        status=status,
        reason="beats arrive and are answered",
        since="2025-11-21T19:00:00.000Z",
        next="",
        admin="enabled",
        liveness="live",
        certificate=certificate,
        details=DetailsRecord(id=name, host="h.example", uptime_s=uptime_s, version=version),
        running=running,
        slots=8,
        tags={"site": "a"} if name == "web-1" else {},
    )


FLEET = [
    agent("web-1", uptime_s=7200.0, running=3),
    agent("web-2", ends="2025-12-01T20:00:00.000Z", version="1.3"),
    agent("db-1", status="no_response", uptime_s=0.0),
    agent("db-2", status="awaiting_setup", ends=None),
]


def passing(*words: str) -> list[str]:
    parsed = AGENTS.parse(" ".join(words), NOW)
    return [each.agent for each in FLEET if passes(parsed, each, NOW)]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ((), ["web-1", "web-2", "db-1", "db-2"]),
        (("status:no_response",), ["db-1"]),
        (("status:no_response,awaiting_setup",), ["db-1", "db-2"]),
        (("!status:active",), ["db-1", "db-2"]),
        (("group:web",), ["web-1", "web-2"]),
        (("name:web-*",), ["web-1", "web-2"]),
        (("*-1",), ["web-1", "db-1"]),
        (("expires:<14d",), ["web-2"]),
        (("expires:>=14d",), ["web-1", "db-1"]),
        (("uptime:>1h",), ["web-1"]),
        (("running:>0",), ["web-1"]),
        (("running:3",), ["web-1"]),
        (("version:!=1.4",), ["web-2"]),
        (("since:>59m", "since:<=1h"), ["web-1", "web-2", "db-1", "db-2"]),
        (("group:web running:0",), ["web-2"]),
        (("reason:*answered",), ["web-1", "web-2", "db-1", "db-2"]),
        (("tag:site=a",), ["web-1"]),
        (("tag:site",), ["web-1"]),
        (("!tag:site=b*",), ["web-1", "web-2", "db-1", "db-2"]),
    ],
    ids=str,
)
def test_filter_keeps_what_all_its_words_hold_for(words: tuple[str, ...], names: list[str]) -> None:
    assert passing(*words) == names


@pytest.mark.parametrize(
    "word", ["colour:red", "expires:<soon", "status:<3", "running:>many", "status:", "!nope:1"]
)
def test_wrong_word_of_a_filter_is_named(word: str) -> None:
    with pytest.raises(Refused, match=word.strip("!").partition(":")[0]) as caught:
        AGENTS.parse(f"web-* {word}", NOW)
    assert caught.value.code == "filter_invalid"
    assert "at character 7: " in caught.value.message


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("agent", ["db-1", "db-2", "web-1", "web-2"]),
        ("-agent", ["web-2", "web-1", "db-2", "db-1"]),
        ("-uptime", ["web-1", "db-2", "web-2", "db-1"]),
        ("expires", ["web-2", "db-1", "web-1", "db-2"]),
        ("-running", ["web-1", "db-1", "db-2", "web-2"]),
    ],
)
def test_order_by_any_column_puts_what_is_not_known_last(by: str, names: list[str]) -> None:
    found = [each.agent for each in in_order(FLEET, by, NOW)]
    if by == "-running":
        assert found[0] == "web-1"
    else:
        assert found == names


@pytest.mark.parametrize("by", sorted(TRAITS))
def test_every_column_can_be_sorted_by(by: str) -> None:
    assert {each.agent for each in in_order(FLEET, by, NOW)} == {each.agent for each in FLEET}


def test_usual_columns_fit_80_cells_with_nothing_left_out() -> None:
    fleet = [agent("a-rather-long-name-1", status="awaiting_setup", running=8), *FLEET]
    table = fit([TRAITS[name].column for name in USUAL], rows_of(fleet, USUAL, NOW), 80)
    assert table.hidden == []
    assert max(map(len, table.lines)) <= 80
    assert "…" not in "".join(table.lines)


def test_all_columns_on_a_narrow_screen_say_what_was_left_out() -> None:
    names = columns_of("all")
    table = fit([TRAITS[name].column for name in names], rows_of(FLEET, names, NOW), 80)
    assert table.hidden
    assert max(map(len, table.lines)) <= 80


def test_columns_are_chosen_by_name_and_a_wrong_one_is_named() -> None:
    assert columns_of("name,host,host") == ("agent", "host")
    with pytest.raises(ValueError, match="nope"):
        columns_of("agent,nope")
    with pytest.raises(ValueError, match="no column 'statsu': did you mean status"):
        columns_of("agent,statsu")


class Inner(msgspec.Struct, kw_only=True):
    c: int = 0
    d: list[str] = []


class Outer(msgspec.Struct, kw_only=True):
    a: str | None = None
    b: Inner | None = None
    e: dict[str, str] = {}


class Row(msgspec.Struct, kw_only=True):
    yes: bool
    many: list[Inner] = []
    size: float = 2.0


def test_cells_of_csv_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    """No cell is in a notation of Python or JSON."""
    print_csv(Row, [Row(yes=True, many=[Inner(c=1), Inner(d=["p", "q"])]), Row(yes=False)])
    assert capsys.readouterr().out == "yes,many,size\ntrue,c=1;c=0 d=p;q,2\nfalse,,2\n"


def test_csv_has_the_fields_of_json_with_nothing_that_breaks_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [Outer(a="x,y\n", b=Inner(c=1, d=["p", "q"]), e={"k": "v", "i": "w"}), Outer()]
    print_csv(Outer, rows)
    assert capsys.readouterr().out == 'a,b.c,b.d,e\n"x,y\\n",1,p;q,i=w;k=v\n,,,\n'


@pytest.mark.parametrize(
    ("value", "cell"),
    [(50.97637605667114, "50.976376"), (0.00005, "0.00005"), (1e-9, "0"), (600.0, "600")],
)
def test_number_in_csv_has_six_places_at_most(
    value: float, cell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_csv(PingAnswer, [PingAnswer(agent="web-1", status="active", rtt_s=value)])
    assert capsys.readouterr().out.splitlines()[1].split(",")[2] == cell


def test_csv_has_the_same_heading_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    headings = set()
    fleets: Sequence[Sequence[AgentRecord]] = ([], FLEET[:1], FLEET)
    for agents in fleets:
        print_agents(Listing(output="csv"), agents)
        headings.add(capsys.readouterr().out.splitlines()[0])
    assert len(headings) == 1
    names = headings.pop().split(",")
    assert {"agent", "certificate.not_after", "details.host", "tags"} <= {*names}


def test_csv_has_the_columns_that_are_asked_for_as_values(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_agents(Listing(output="csv"), FLEET[:1], "agent,running,load")
    agent = FLEET[0]
    heading, row = capsys.readouterr().out.splitlines()
    assert heading == "agent,running,load"
    assert row.split(",")[:2] == [agent.agent, str(agent.running)]


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (40, 120)])
def test_terminal_that_does_not_know_its_size_is_80_by_24(
    rows: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    monkeypatch.delenv("COLUMNS", raising=False)
    with os.fdopen(ours, "w") as screen:
        monkeypatch.setattr(sys, "stdout", screen)
        assert (screen_height(), screen_width()) == (rows or 24, columns or 80)
    os.close(theirs)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["web-1", "db-1"], ": all words have to hold; for any of these names: web-1,db-1"),
        (["active"], ": active is taken as a name; did you mean status:active?"),
        (["web-9"], ""),
        (["web-*", "!group:db"], ""),
        (["web-*", "status:active", "tag:site=a"], ""),
    ],
)
def test_filter_without_a_match_says_what_it_may_have_meant(words: list[str], said: str) -> None:
    assert unmatched(words, AGENTS) == said


def test_agent_that_is_not_heard_has_no_slots_and_no_release_that_are_made_up() -> None:
    heard = msgspec.structs.replace(agent("web-1"), addresses="unknown")
    silent = msgspec.structs.replace(heard, liveness="silent", running=1, slots=0)
    said = _described(silent)
    assert "running      1, slots not known until it is heard" in said
    assert "addresses    not known until it is heard" in said
    assert table_of([silent], "agent,running").lines[1].split() == ["web-1", "1/?"]
    old = "addresses    does not say where it looks for brokers (release 0.1.0)"
    assert old in _described(heard)
