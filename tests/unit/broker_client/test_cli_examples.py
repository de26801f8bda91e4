"""Help of the three programs: examples that parse, `help` and `version`, one look."""

import re
import shlex
from collections.abc import Callable

import pytest
from cyclopts import App

import broker_agent.cli
import broker_master.cli
from broker_client.cli import tree
from broker_client.cli.examples import EXAMPLES as TOOL_EXAMPLES
from broker_client.cli.shell.tool import call_tool, commands_of
from broker_client.cli.table import COMMANDS
from broker_client.cli.words import hoist

TOOLS: dict[str, App] = {
    "broker-master": broker_master.cli.app,
    "broker-agent": broker_agent.cli.build(),
}
EXAMPLES = {(row.noun, row.verb): row.lines for row in COMMANDS} | TOOL_EXAMPLES
LINES = [line for lines in EXAMPLES.values() for line in lines]


def tool(name: str) -> Callable[[list[str]], int]:
    """A program as a function of its words; returns its exit code."""

    def run(words: list[str]) -> int:
        try:
            call_tool(TOOLS[name], words)
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return tree.run if name == "mesh" else run


@pytest.mark.parametrize("line", LINES)
def test_example_parses(line: str) -> None:
    program, *words = shlex.split(line)
    app, words = (
        (TOOLS[program], [word.replace("-", "x") if word == "-" else word for word in words])
        if program in TOOLS
        else (tree.build(), hoist(words))
    )
    command, _, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert command.__name__


def test_every_command_has_three_examples_of_its_own() -> None:
    commands = {(noun, verb) for noun, verb, *_ in COMMANDS}
    commands |= {(name, verb) for name, app in TOOLS.items() for verb in commands_of(app)}
    assert set(EXAMPLES) == commands
    assert len(set(LINES)) == 3 * len(commands)
    for (noun, verb), lines in EXAMPLES.items():
        start = f"{noun} {verb}" if noun in TOOLS else f"mesh {noun} {verb}".rstrip()
        assert all(line == start or line.startswith(f"{start} ") for line in lines)


@pytest.mark.parametrize(("noun", "verb"), EXAMPLES)
def test_help_of_a_command_ends_with_its_examples(
    noun: str, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program, path = (noun, [verb]) if noun in TOOLS else ("mesh", [noun, *verb.split()])
    lines = "\n".join(f"  {line}" for line in EXAMPLES[noun, verb])
    assert tool(program)([*path, "--help"]) == 0
    asked = capsys.readouterr().out
    assert asked.startswith(f"Usage: {program} {' '.join(path)}")
    assert asked.endswith(f"\nExamples:\n{lines}\n")
    assert tool(program)(["help", *path]) == 0
    assert capsys.readouterr().out == asked


@pytest.mark.parametrize("program", ["mesh", *TOOLS])
def test_programs_have_one_look(program: str, capfd: pytest.CaptureFixture[str]) -> None:
    run = tool(program)
    overviews = []
    for words in ([], ["help"], ["--help"], ["-h"]):
        assert run(words) == 0
        overviews.append(capfd.readouterr().out)
    assert len(set(overviews)) == 1
    assert overviews[0].startswith(f"Usage: {program} COMMAND\n")
    assert overviews[0].endswith(f"\n`{program} NAME --help` shows the options of each.\n")
    assert run(["version"]) == 0
    version = capfd.readouterr().out
    assert version.strip()
    assert run(["--version"]) == 0
    assert capfd.readouterr().out == version
    assert run(["frobnicate"]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == (
        f'{program}: unknown command "frobnicate" (usage)\n  see `{program} --help`\n'
    )


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("program", ["mesh", *TOOLS])
def test_help_fits_the_screen_and_names_no_types(
    program: str, width: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    own = [
        (noun, verb)
        for noun, verb in EXAMPLES
        if noun == program or (program == "mesh" and noun not in TOOLS)
    ]
    paths = [[verb] if program in TOOLS else [noun, *verb.split()] for noun, verb in own]
    for path in [[], *paths]:
        assert tool(program)([*path, "--help"]) == 0
        text = capfd.readouterr().out
        assert max(map(len, text.splitlines())) <= width, (path, text)
        assert not re.search(r"\b(FLOAT|STR|INT|BOOL|CHOICE|PATH)\b(?! is)", _without_out(text)), (
            text
        )
        assert "\n\n\n" not in text
        assert "--no-" not in text.replace("--no-color", "").replace("--no-wait", ""), text
    assert tool(program)(["help"]) == 0
    text = capfd.readouterr().out
    assert re.search(r"^  help +\S", text, re.MULTILINE)
    assert re.search(r"^  version +\S", text, re.MULTILINE)


def _without_out(text: str) -> str:
    """Without the one option that is a file or a folder."""
    return text.replace("--out PATH", "")


def test_lengths_of_time_are_shown_as_such(capfd: pytest.CaptureFixture[str]) -> None:
    for words, option in (
        (["run"], "--queue-ttl TIME "),
        (["agent", "pause"], "--for TIME "),
        (["command", "wait"], "--timeout TIME "),
        (["agent", "forget"], "--silent-for TIME "),
    ):
        assert tree.run([*words, "--help"]) == 0
        assert option in capfd.readouterr().out


@pytest.mark.parametrize("program", TOOLS)
def test_wrong_option_of_a_program_is_a_usage_error(
    program: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for verb in commands_of(TOOLS[program]):
        assert tool(program)([verb, "--frobnicate"]) == 2
        first, hint = capfd.readouterr().err.splitlines()
        assert first.startswith(f"{program}: ")
        assert first.endswith(" (usage)")
        assert hint == f"  see `{program} {verb} --help`"


@pytest.mark.parametrize("program", TOOLS)
def test_other_shells_have_a_script_and_unknown_ones_a_usage_error(
    program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for shell in ("zsh", "fish"):
        assert tool(program)(["completion", shell]) == 0
        text = capsys.readouterr().out
        assert all(verb in text for verb in commands_of(TOOLS[program]))
    assert tool(program)(["completion", "tcsh"]) == 2
