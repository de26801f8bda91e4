"""A wrong value of any option of any program is told in words, with an example."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import pytest
from cyclopts import CycloptsError

import broker_agent.cli
import broker_master.cli
from broker_client.cli.mistakes import in_words, with_options
from broker_client.cli.table import COMMANDS
from broker_client.cli.tree import build, run
from schemas.verbs import VERBS
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--for", "-5m"], "--for: '-5m' is negative: give a value, or --for=-5m if it is meant"),
        (["--for=-5m"], "'-5m' is negative, no length of time: write it as 90 (seconds)"),
        (["--for", "0"], "'0' is zero, no length of time: write it as 90 (seconds)"),
        (["--for", "--now"], "--for: '--now' looks like an option: give a value"),
        (["--for"], "--for needs a value: give one behind it"),
    ],
    ids=str,
)
def test_value_that_is_missing_or_negative_is_told(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["agent", "pause", "web-1", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("for_s is more than 31536000; give for example 1", "--for is more than 31536000; give"),
        ("args.timeout_s is not a number", "--timeout is not a number"),
        ("command.queue_ttl_s is more than 5", "--queue-ttl is more than 5"),
        ("max_failures is less than 0", "--max-failures is less than 0"),
        ("a name in tags is not a name", "a name in --tag is not a name"),
        ("labels[...] has more than 9 characters", "--label has more than 9 characters"),
        (
            "batch_sleep_s is between batches: say at_once",
            "--batch-sleep is between batches: say --batch",
        ),
        ("no group has the timeout", "no group has the timeout"),
        ("argv is missing", "argv is missing"),
    ],
)
def test_fault_of_a_field_names_the_option(fault: str, said: str) -> None:
    options = {f"--{name}" for name in ("timeout", "queue-ttl", "max-failures", "tag", "label")}
    assert with_options(fault, {*options, "--batch", "--batch-sleep", "--for"}).startswith(said)


def test_every_field_of_a_request_with_an_option_of_its_own_is_named_by_it() -> None:
    """No command leaves the name of a field where its option is meant."""
    app = build(())
    for verb in VERBS.values():
        if (verb.noun, verb.verb) not in {(noun, name) for noun, name, _, _, _ in COMMANDS}:
            continue
        command = app[verb.noun][verb.verb]
        names = {name for each in command.assemble_argument_collection() for name in each.names}
        for field in msgspec.structs.fields(verb.request):
            option = "--" + field.name.removesuffix("_s").removesuffix("_").replace("_", "-")
            if option in names:
                assert with_options(f"{field.name} is wrong", names) == f"{option} is wrong"
