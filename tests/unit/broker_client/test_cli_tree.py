"""The tree of commands: every one takes the common options, and mistakes are usage errors."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker_client.cli import table, tree
from broker_client.cli.options import Common
from broker_client.cli.words import asked_output, hoist

REQUIRED = {
    ("completion", ""): ["bash"],
    ("run", ""): ["--group", "web", "--", "true"],
    ("command", "show"): ["c1"],
    ("command", "wait"): ["c1"],
    ("command", "cancel"): ["c1"],
    ("command", "retry"): ["c1"],
    ("command", "logs"): ["c1"],
    ("command", "decide"): ["c1", "fail"],
    ("fanout", "show"): ["f1"],
    ("fanout", "wait"): ["f1"],
    ("fanout", "cancel"): ["f1"],
    ("fanout", "retry"): ["f1"],
    ("deadletter", "show"): ["c1"],
    ("deadletter", "retry"): ["c1"],
    ("group", "create"): ["web"],
    ("group", "set"): ["web", "--balance", "weighted"],
    ("group", "show"): ["web"],
    ("group", "delete"): ["web"],
    ("group", "rotate"): ["web"],
    ("do", ""): ["erp-db", "sql.query", "--arg", "sql=select 1"],
    ("connection", "create"): ["erp-db", "--group", "db", "--kind", "postgresql"],
    ("connection", "set"): ["erp-db", "--at-once", "4"],
    ("connection", "show"): ["erp-db"],
    ("connection", "pin"): ["erp-db", "9f3c21ab"],
    ("connection", "enable"): ["erp-db"],
    ("connection", "disable"): ["erp-db"],
    ("connection", "test"): ["erp-db"],
    ("connection", "delete"): ["erp-db"],
    ("agent", "create"): ["web-1", "--group", "web"],
    ("agent", "token"): ["web-1"],
    ("agent", "set"): ["web-1", "--tag", "site=berlin"],
    ("agent", "show"): ["web-1"],
    ("agent", "enable"): ["web-1"],
    ("agent", "disable"): ["web-1"],
    ("agent", "pause"): ["web-1", "--for", "2h"],
    ("agent", "move"): ["web-1", "--group", "db"],
    ("agent", "forget"): ["--silent-for", "30d"],
    ("agent", "rotate"): ["web-1"],
    ("agent", "revoke"): ["web-1"],
    ("agent", "delete"): ["web-1"],
    ("ca", "rotate"): ["prepare"],
    ("client", "create"): ["ann", "--role", "viewer", "--out", "ann"],
    ("client", "revoke"): ["ann"],
    ("context", "use"): ["ops"],
}
COMMANDS = [(noun, verb) for noun, verb, *_ in table.COMMANDS]


def words(noun: str, verb: str) -> list[str]:
    return [noun, verb] if verb else [noun]


def parsed(tokens: list[str]) -> dict[str, Any]:
    """Arguments with which a command line would call its command."""
    _, bound, _ = tree.build().parse_args(hoist(tokens), exit_on_error=False, print_error=False)
    return {**bound.arguments, "args": bound.args}


def common_of(tokens: list[str]) -> Common:
    arguments = parsed(tokens)
    found = arguments.get("shared") or arguments.get("common")
    assert isinstance(found, Common)
    return found


@pytest.mark.parametrize(("noun", "verb"), COMMANDS)
@pytest.mark.parametrize(
    "place",
    [
        lambda path, common, rest: [*common, *path, *rest],
        lambda path, common, rest: [path[0], *common, *path[1:], *rest],
        lambda path, common, rest: [*path, *common, *rest],
    ],
    ids=["before", "between", "after"],
)
def test_every_command_takes_the_common_options_anywhere(
    noun: str, verb: str, place: Callable[..., list[str]]
) -> None:
    rest = REQUIRED.get((noun, verb), [])
    common = ["--context", "some.toml", "--output=json", "--no-color"]
    found = common_of(place(words(noun, verb), common, rest))
    assert (found.context, found.output, found.no_color) == ("some.toml", "json", True)


@pytest.mark.parametrize(("noun", "verb"), COMMANDS)
def test_every_command_takes_a_timeout(noun: str, verb: str) -> None:
    arguments = parsed(["--timeout", "2.5", *words(noun, verb), *REQUIRED.get((noun, verb), [])])
    shared = arguments.get("shared")
    assert (shared.timeout if shared else arguments["timeout"]) == 2.5


@pytest.mark.parametrize(("noun", "verb"), COMMANDS)
def test_every_command_refuses_what_it_does_not_know(
    noun: str, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = [*words(noun, verb), "--frobnicate", *REQUIRED.get((noun, verb), [])]
    if noun == "run":
        tokens = ["run", "--output", "yaml", "--group", "web", "--", "true"]
    assert tree.run(tokens) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith(" (usage)")
    assert lines[1] == f"  see `mesh {' '.join(words(noun, verb))} --help`"


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("command list --since 1d", "it is a word of the filter, since:VALUE; see"),
        ("command list --label a=b", "it is a word of the filter, label:NAME=VALUE; see"),
        ("agent list --tag site=a", "it is a word of the filter, tag:NAME=VALUE; see"),
        ("events --kind agent", "it is a word of the filter, kind:VALUE; see"),
        ("group list --status active", "see"),
    ],
)
def test_option_that_is_a_word_of_a_filter_is_named_as_one(
    line: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tree.run(line.split()) == 2
    assert capsys.readouterr().err.splitlines()[1].startswith(f"  {advice} `mesh ")


def test_agent_is_not_renamed_and_the_way_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert tree.run(["agent", "rename", "web-1", "web-2"]) == 2
    said = capsys.readouterr().err
    assert "keeps its name for life" in said
    assert "mesh agent create NEW" in said


@pytest.mark.parametrize(
    "tokens",
    [
        ["frobnicate"],
        ["group", "frobnicate"],
        ["group", "create"],
        ["group", "create", "a", "b"],
        ["agent", "create", "web-1"],
        ["agent", "list", "--status", "happy"],
        ["command", "list", "--state", "done"],
        ["command", "list", "--limit", "0"],
        ["command", "list", "--limit", "many"],
        ["command", "decide", "c1"],
        ["command", "decide", "c1", "maybe"],
        ["deadletter", "list", "--limit", "0"],
        ["deadletter", "retry"],
        ["client", "create", "ann", "--role", "king", "--out", "x"],
        ["status", "--timeout", "0"],
        ["status", "--timeout", "nan"],
        ["status", "--timeout", "-1"],
        ["run", "--", "true"],
        ["run", "--group", "web"],
        ["run", "--group", "web", "--agent", "web-1", "--", "true"],
        ["run", "--group", "web", "--timeout", "soon", "--", "true"],
        ["run", "--all", "--", "true"],
        ["run", "--all", "--agent", "a", "--group", "web", "--", "true"],
        ["run", "--all", "--group", "web", "--batch", "0", "--", "true"],
        ["run", "--group", "web", "--batch", "2", "--", "true"],
        ["run", "--all", "--group", "web", "--on-inactive", "refuse", "--", "true"],
        ["run", "--agent", "web-1", "--max-failures", "2", "--", "true"],
        ["run", "--group", "web", "--loss", "hold", "--", "true"],
        ["agent", "pause", "web-1"],
        ["agent", "pause", "web-1", "--for", "soon"],
        ["agent", "forget"],
        ["agent", "forget", "--silent-for", "-1"],
        ["run", "--group", "web", "--loss", "kill", "--hold", "60", "--", "true"],
        ["run", "--group", "web", "--loss", "shrug", "--", "true"],
        ["run", "--group", "web", "--hold", "0", "--", "true"],
        ["run", "--group", "web", "--on-lost", "shrug", "--", "true"],
    ],
    ids=" ".join,
)
def test_mistake_in_a_command_line_is_a_usage_error(
    tokens: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert tree.run(tokens) == 2
    assert capsys.readouterr().out == ""
    split = tokens.index("--") if "--" in tokens else len(tokens)
    assert tree.run([*tokens[:split], "--output", "json", *tokens[split:]]) == 2
    assert json.loads(capsys.readouterr().err)["code"] == "usage"


@pytest.mark.parametrize(("noun", "verb"), COMMANDS)
def test_every_command_without_a_context_ends_with_78(
    noun: str, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("MESH_CONTEXT", raising=False)
    monkeypatch.chdir(tmp_path)
    without = {("doctor", ""): 1, ("completion", ""): 0, ("context", "ls"): 0}
    expected = without.get((noun, verb), 78)
    assert tree.run([*words(noun, verb), *REQUIRED.get((noun, verb), [])]) == expected


def test_arguments_of_a_program_stay_what_they_are() -> None:
    program = ["ls", "--output", "json", "--context=x", "-o", "--", "--help"]
    arguments = parsed(["--output", "table", "run", "--group", "web", "--", *program])
    assert arguments["args"] == tuple(program)
    assert arguments["common"].output == "table"
    assert asked_output(["run", "--group", "web", "--", *program]) == "table"


def test_environment_of_a_program_is_repeatable() -> None:
    arguments = parsed(["run", "--agent", "a", "--env", "A=1", "--env", "B=x=y", "--", "env"])
    assert arguments["env"] == ["A=1", "B=x=y"]


@pytest.mark.parametrize("tokens", [[], ["--help"], ["-h"], ["group"], ["group", "--help"]])
def test_overview_needs_no_context(tokens: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert tree.run(tokens) == 0
    assert capsys.readouterr().out.startswith("Usage: mesh ")


@pytest.mark.parametrize("tokens", [["xyzzyx"], ["group", "xyzzyx"]], ids=" ".join)
def test_unknown_command_is_named_in_a_whole_sentence(
    tokens: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert tree.run(tokens) == 2
    first, hint = capsys.readouterr().err.splitlines()
    assert first == 'mesh: unknown command "xyzzyx" (usage)'
    assert hint == f"  see `{' '.join(['mesh', *tokens[:-1]])} --help`"


@pytest.mark.parametrize(("noun", "verb"), COMMANDS)
def test_every_command_is_on_the_page_of_commands(noun: str, verb: str) -> None:
    page = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
    heads = [line for line in page.splitlines() if line.startswith("`mesh ")]
    wanted = rf"`mesh {noun} (\w+\|)*{verb}\b" if verb else rf"`mesh {noun}\b"
    assert any(re.search(wanted, head) for head in heads)
