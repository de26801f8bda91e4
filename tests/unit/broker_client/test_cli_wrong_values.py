"""A wrong value of any option of any program is told in words, with an example."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from cyclopts import CycloptsError

import broker_agent.cli
import broker_master.cli
from broker_client.cli.mistakes import in_words
from broker_client.cli.table import COMMANDS
from broker_client.cli.tree import build
from tests.unit.raw_texts import raw_in

if TYPE_CHECKING:
    from cyclopts import App

BAD = ("x y!", "", "-1", "1e400", "9" * 40, "nan", "ünsinn")
EXAMPLE = re.compile("[Cc]hoose from|give |write it as|use |sort by |ask for ")
TOOLS: dict[str, Callable[[], "App"]] = {
    "mesh": lambda: build(()),
    "broker-agent": broker_agent.cli.build,
    "broker-master": lambda: broker_master.cli.app,
}


def options() -> list[tuple[str, str, str]]:
    """Program, words of a command and an option of it that takes a value."""
    found = []
    for tool, made in TOOLS.items():
        app = made()
        paths = [(noun, verb) if verb else (noun,) for noun, verb, *_ in COMMANDS]
        if tool != "mesh":
            paths = [(name,) for name in app if not name.startswith("-")]
        for path in paths:
            command = app
            for word in path:
                command = command[word]
            found += [
                (tool, " ".join(path), name)
                for each in command.assemble_argument_collection()
                for name in each.names
                if name.startswith("--") and each.hint is not bool
            ]
    return found


def refusals(tool: str, path: str, option: str) -> list[str]:
    """Messages of the parser on each of the bad values of an option."""
    said = []
    for value in BAD:
        try:
            TOOLS[tool]().parse_args(
                [*path.split(), f"{option}={value}"], exit_on_error=False, print_error=False
            )
        except CycloptsError as error:
            said.append(in_words(error))
    return [each for each in said if "requires an argument" not in each]


def test_every_program_has_options() -> None:
    assert {tool for tool, _, _ in options()} == {*TOOLS}
    assert len(options()) > 200


@pytest.mark.parametrize("tool", TOOLS)
def test_wrong_value_of_each_option_is_explained_in_words(tool: str) -> None:
    told = 0
    for each, path, option in options():
        if each != tool:
            continue
        for said in refusals(tool, path, option):
            told += 1
            assert not raw_in(said), (path, option, said)
            assert option in said, (path, option, said)
            assert EXAMPLE.search(said), (path, option, said)
    assert told > (10 if tool == "mesh" else 0)
