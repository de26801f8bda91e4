"""Lists with chosen columns, exit codes and the words of faults, as an operator meets them."""

import asyncio
import csv
import json

import pytest

from broker_client.cli.shell.completion import values
from tests.harness import MeshProcesses
from tests.integration.test_cli import in_terminal, lists
from tests.meshes import mesh_fixture

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


mesh = mesh_fixture({"web": ("web-1", "web-2"), "db": ("db-1",)}, slots=4)


# -- lists


async def test_every_list_has_the_columns_that_are_asked_for(mesh: MeshProcesses) -> None:
    """In a table and in CSV, where they are the stable heading whatever is in the list."""
    ran = await mesh.cli("run", "--all", "--group", "web", "--id", "columns", "--", "true")
    assert ran.code == 0, ran.err
    known = values()
    for words in [*lists(), ["context", "ls"]]:
        noun, verb = [*words, ""][:2] if words[0] not in ("events", "ping") else [words[0], ""]
        names = known[noun, verb, "--columns"]
        assert len(names) > 2, words
        chosen = [names[-1], names[0]]
        asked = await mesh.cli(*words, "--columns", ",".join(chosen), "--output", "csv")
        assert (asked.code, asked.out.splitlines()[0]) == (0, ",".join(chosen)), asked.err
        assert all(len(row) == 2 for row in csv.reader(asked.out.splitlines())), words


async def test_cells_of_csv_are_plain(mesh: MeshProcesses) -> None:
    assert (await mesh.cli("run", "--agent", "web-1", "--id", "plain-1", "--", "true")).code == 0
    listed = await mesh.cli("command", "list", "plain-1", "--output", "csv")
    [row] = csv.DictReader(listed.out.splitlines())
    assert "agent=web-1 state=succeeded" in row["attempts"]
    assert not {"True", "False"}.intersection(row.values())


async def test_limit_of_an_agent_is_its_room(mesh: MeshProcesses) -> None:
    assert (await mesh.cli("agent", "set", "db-1", "--limit", "2")).code == 0
    table = await mesh.cli("agent", "list", "db-1", "--columns", "agent,running")
    assert table.out.splitlines()[1].split() == ["db-1", "0/2"]
    shown = await mesh.cli("agent", "show", "db-1")
    assert "0 of 2 by its own limit, 4 slots" in shown.out
    assert (await mesh.cli("agent", "set", "db-1", "--limit", "0")).code == 0


# -- programs


async def test_program_that_cannot_start_ends_with_126_and_the_reason(mesh: MeshProcesses) -> None:
    for where in ("/nonexistent-folder", "/etc/passwd"):
        ran = await mesh.cli("run", "--agent", "web-1", "--cwd", where, "--", "true")
        assert ran.code == 126, ran.err
        assert f"cannot enter {where}: " in ran.err
    as_json = await mesh.cli(
        *("run", "--agent", "web-1", "--cwd", "/nonexistent-folder", "-o", "json", "--", "true")
    )
    assert as_json.code == 126
    assert json.loads(as_json.out)["attempts"][0]["exit_code"] == 126


async def test_control_characters_of_a_program_are_spelled_as_a_shell_does(
    mesh: MeshProcesses,
) -> None:
    ran = await mesh.cli("run", "--agent", "web-1", "--id", "tab-1", "--", "printf", "%s", "a\tb")
    assert (ran.code, ran.out) == (0, "a\tb")
    shown = await mesh.cli("command", "list", "tab-1", "--columns", "program")
    assert shown.out.splitlines()[1] == "printf %s $'a\\tb'"


# -- events


async def test_gaps_are_a_kind_of_events(mesh: MeshProcesses) -> None:
    found = await mesh.cli("events", "kind:gap", "--since", "30d", "-o", "jsonl")
    assert found.code == 0, found.err
    assert [json.loads(line)["kind"] for line in found.out.splitlines()] == ["gap"]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("what:faild", "did you mean failed?"),
        ("comand", "'comand' is taken as a name: did you mean kind:command?"),
        ("faild", "'faild' is taken as a name: did you mean what:failed?"),
    ],
)
async def test_typing_error_in_a_filter_of_events_is_told(
    mesh: MeshProcesses, word: str, hint: str
) -> None:
    found = await mesh.cli("events", word)
    assert found.out == ""
    assert hint in found.err


async def test_each_event_is_one_line_on_a_terminal(mesh: MeshProcesses) -> None:
    count = len((await mesh.cli("events", "-o", "jsonl")).out.splitlines())
    assert count > 3
    for columns in (80, 120):
        code, lines = await asyncio.to_thread(in_terminal, mesh, columns, "events")
        assert code == 0
        assert len(lines) >= count
        assert max(map(len, lines)) <= columns
        assert not [line for line in lines if line.startswith(" ")], "none is broken"


# -- words of faults


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("agent", "pause", "web-1", "--for", "9999w"), "--for is more than"),
        (
            ("run", "--all", "--group", "web", "--max-failures=-1", "--", "true"),
            "--max-failures is less than 0",
        ),
        (("agent", "forget", "--silent-for", "1"), "--silent-for is less than lost_s"),
    ],
)
async def test_fault_names_the_option(
    mesh: MeshProcesses, words: tuple[str, ...], said: str
) -> None:
    ran = await mesh.cli(*words)
    assert (ran.code, ran.out) == (2, ""), ran.err
    first, advice = ran.err.splitlines()
    assert said in first, first
    assert "_s " not in first.replace("lost_s", "")
    assert advice.startswith("  see `mesh ")


async def test_choice_that_means_nobody_is_told_with_near_names(mesh: MeshProcesses) -> None:
    ran = await mesh.cli("run", "--all", "wib-*", "--", "true")
    assert (ran.code, "no agent passes 'wib-*': did you mean web-*?" in ran.err) == (6, True)
    ping = await mesh.cli("ping", "wib-*")
    assert (ping.code, "did you mean web-*?" in ping.err) == (3, True), ping.err
    for words in (["ping", "group:wib"], ["top", "--once", "group:wib"]):
        unknown = await mesh.cli(*words)
        assert (unknown.code, unknown.out) == (3, ""), unknown.err
        assert "no group wib: did you mean web?" in unknown.err
    known = await mesh.cli("top", "--once", "status:disabled")
    assert known.code == 0, known.err


async def test_list_that_is_cut_says_so_in_words(mesh: MeshProcesses) -> None:
    for _ in range(2):
        assert (await mesh.cli("run", "--agent", "web-1", "--", "true")).code == 0
    for noun in ("command", "audit"):
        listed = await mesh.cli(noun, "list", "--limit", "1")
        assert "there may be more than this one: see --limit" in listed.err
