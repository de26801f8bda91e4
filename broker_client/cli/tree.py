"""The tree of commands, and the handling of their errors.

Commands are named in the table and imported on use: `mesh --help` must not wait for them, nor for
the libraries that parse and connect.
"""

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from broker_client.cli.table import COMMANDS, examples_of
from broker_client.cli.words import (
    ALSO,
    HELP_FLAGS,
    INTERRUPTED,
    NOUNS,
    asked_output,
    hoist,
    with_mark,
)
from broker_client.runtime.stdio import OutputFailed, flush_output, give_up_output

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError

    from broker_client.cli.words import Output
    from schemas.faults import MeshError

_PACKAGE: Final = "broker_client.cli"
_HELP: Final = """Run programs on hosts that nobody can reach, and see what became of them.

Every command takes --context, --output table|json, --timeout and --no-color.
"""

# Missing commands that people look for, with the reason and the alternative.
_WHY_NOT: Final[dict[tuple[str, ...], tuple[str, str]]] = {
    ("agent", "rename"): (
        "an agent keeps its name for life: certificate, rights, audit trail and history have it",
        "`mesh agent create NEW`, set it up there, then `mesh agent delete OLD`; see docs/cli.md",
    ),
}


def build(tokens: Sequence[str] = ("--help",)) -> "App":
    """Return the part of the tree that `tokens` can reach; functions are imported on first use."""
    from cyclopts import App

    wanted = [tokens[0]] if tokens[:1] and tokens[0] in NOUNS else [*NOUNS]
    app = App(name="mesh", help=_HELP, version_flags=[])
    nouns = {name: App(name=name, help=NOUNS[name], version_flags=[]) for name in wanted}
    for noun, verb, target, text, _ in COMMANDS:
        path = f"{_PACKAGE}.{target}"
        if noun in NOUNS and noun not in nouns:
            continue
        if verb:
            nouns[noun].command(path, name=verb, help=text)
        else:
            app.command(path, name=noun, help=text)
    for noun_app in nouns.values():
        app.command(noun_app)
    return app


def run(tokens: Sequence[str]) -> int:
    """Run a command line; returns the exit code and never raises a fault."""
    code = _run(tokens)
    try:
        flush_output()
    except (OutputFailed, BrokenPipeError):
        give_up_output()  # the exit code is already of a worse failure
    return code


def _run(tokens: Sequence[str]) -> int:
    ordered = hoist(_spelled(tokens))
    output = asked_output(ordered)
    try:
        result = _overview(ordered) or _manual(ordered) or _command(ordered, output)
        flush_output()
    except BrokenPipeError:
        return _broken_pipe()
    except OutputFailed as error:
        return _unwritable(error)
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:  # noqa: BLE001  (faults are said, all else is raised again)
        return _fault(error, ordered, output)
    return result if isinstance(result, int) else 0


def _spelled(tokens: Sequence[str]) -> list[str]:
    """Replace `help [COMMAND]` and `version` by the equal options."""
    if tokens[:1] == ["version"]:
        return ["--version", *tokens[1:]]
    return [*tokens[1:], "--help"] if tokens[:1] == ["help"] else [*tokens]


def _manual(tokens: Sequence[str]) -> str:
    """Print the help of a command if it is asked for, with examples; returns what is printed."""
    before = [*tokens][: tokens.index("--")] if "--" in tokens else tokens
    path = _path(tokens)
    is_command = len(path) == 2 or (path and path[0] not in NOUNS)
    if not is_command or not HELP_FLAGS.intersection(before):
        return ""
    from broker_client.cli.shell.manual import manual

    command = build(tokens)
    for word in path:
        command = command[word]
    noun, verb = [*path, ""][:2]
    about = next(row.does for row in COMMANDS if (row.noun, row.verb) == (noun, verb))
    examples = [f"  {line}" for line in examples_of(noun, verb)]
    text = "\n".join(
        [manual(" ".join(["mesh", *path]), about, command), "", "Examples:", *examples]
    )
    print(text)
    return text


def _overview(tokens: Sequence[str]) -> str:
    """Print the answer without a command: the version, or the list of commands."""
    from broker_client.cli.shell.manual import overview

    first, second = [*tokens[:2], "", ""][:2]
    text = ""
    if first == "--version":
        text = _version()
    elif not first or first in HELP_FLAGS:
        rows = [*((noun, line) for noun, verb, _, line, _ in COMMANDS if not verb), *NOUNS.items()]
        text = overview("mesh COMMAND", _HELP, [*rows, *ALSO])
    elif first in NOUNS and (not second or second in HELP_FLAGS):
        rows = [(verb, line) for noun, verb, _, line, _ in COMMANDS if noun == first]
        text = overview(f"mesh {first} COMMAND", NOUNS[first], rows)
    if text:
        print(text)
    return text


def _command(tokens: Sequence[str], output: "Output") -> object:
    from cyclopts import CycloptsError

    try:
        return build(tokens)(
            with_mark(tokens), exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        return _usage(error, tokens, output)


def _usage(error: "CycloptsError", tokens: Sequence[str], output: "Output") -> int:
    from broker_client.cli.mistakes import as_filter, in_words
    from broker_client.cli.screen.report import print_usage

    why_not = _WHY_NOT.get((*tokens[:2],))
    if why_not:
        return print_usage(*why_not, output)
    words = " ".join(["mesh", *_path(tokens)])
    message = in_words(error)
    return print_usage(message, f"{as_filter(message, tokens)}see `{words} --help`", output)


def _path(tokens: Sequence[str]) -> list[str]:
    """Return the words of `tokens` that name a command."""
    words = [*tokens[:2], "", ""]
    known = {(noun, verb) for noun, verb, *_ in COMMANDS}
    if (words[0], words[1]) in known:
        return words[:2]
    return words[:1] if words[0] in NOUNS or (words[0], "") in known else []


def _fault(error: Exception, tokens: Sequence[str], output: "Output") -> int:
    """Print a fault of the mesh; any other error is a defect, and is shown with its traceback."""
    from broker_client.cli.screen.report import print_fault
    from broker_client.runtime.extras import fault_of_import
    from schemas.faults import MeshError

    fault = fault_of_import(error) if isinstance(error, ImportError) else error
    if not isinstance(fault, MeshError):
        raise error
    return print_fault(_of_options(fault, tokens), output)


def _of_options(fault: "MeshError", tokens: Sequence[str]) -> "MeshError":
    """Return a fault about a field with the option that the field came from, if there is one."""
    path = _path(tokens)
    if fault.code != "field_invalid" or not path:
        return fault
    from broker_client.cli.mistakes import with_options
    from schemas.faults import MeshError

    command = build(tokens)
    for word in path:
        command = command[word]
    options = {name for each in command.assemble_argument_collection() for name in each.names}
    message = with_options(fault.message, options)
    advice = fault.advice
    if message != fault.message or message.startswith("--"):
        advice = f"see `{' '.join(['mesh', *path])} --help`"
    return MeshError(fault.code, message, effect=fault.effect, advice=advice)


def _broken_pipe() -> int:
    """End silently after the reader of stdout has closed it, without a second error at exit."""
    from broker_client.cli.outcomes import BROKEN_PIPE

    give_up_output()
    return BROKEN_PIPE


def _unwritable(error: OutputFailed) -> int:
    from broker_client.cli.outcomes import UNWRITABLE
    from broker_client.cli.screen.report import say

    give_up_output()
    said = getattr(error, "__notes__", [])
    say("; ".join([f"the output cannot be written: {error.strerror}", *said]))
    return UNWRITABLE


def _interrupted() -> int:
    """Say so without an import: the interrupt may have left any module half imported."""
    with contextlib.suppress(OSError, ValueError):
        print("mesh: interrupted", file=sys.stderr, flush=True)
    return INTERRUPTED


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("agent-mesh")
    except PackageNotFoundError:
        return "unknown"
