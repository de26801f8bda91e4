"""The command line of `broker-agent` and `broker-master`, in the style of `mesh`."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from broker_client.cli import examples
from broker_client.cli.shell.manual import manual, overview
from broker_client.cli.words import ALSO, HELP_FLAGS, asked_output
from broker_client.runtime.stdio import tell

if TYPE_CHECKING:
    from cyclopts import App

USAGE: Final = 2
_VERSION: Final = ("version", "--version")


def call_tool(app: "App", tokens: Sequence[str]) -> None:
    """Run a command line. Exits with 2 and two lines on stderr if it is wrong.

    `help [COMMAND]` and `version` are the same as `--help` and `--version`.
    """
    from cyclopts import CycloptsError

    from broker_client.cli.mistakes import in_words

    name = app.name[0]
    words = [*tokens]
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[:1] in ([flag] for flag in HELP_FLAGS):
        print(_overview(app))
    elif words[0] in _VERSION:
        print(app.version() if callable(app.version) else app.version)
    elif words[0] == "completion":
        _complete(app, words[1:])
    else:
        if _manual(app, words):
            return
        try:
            app(words, exit_on_error=False, print_error=False)
        except CycloptsError as error:
            raise SystemExit(_usage(name, words, app, in_words(error))) from error


def _manual(app: "App", words: Sequence[str]) -> bool:
    """Print the help of a command if it is asked for, with examples."""
    if not HELP_FLAGS.intersection(words) or words[0] not in commands_of(app):
        return False
    name, command = app.name[0], app[words[0]]
    about = command.help.partition("\n\n")[0]
    print(f"{manual(f'{name} {words[0]}', about, command)}\n\n{examples.shown(name, words[0])}")
    return True


def _complete(app: "App", words: Sequence[str]) -> None:
    from broker_client.cli.shell.tool_completion import SHELLS, script

    if len(words) != 1 or words[0] not in SHELLS:
        name = app.name[0]
        tell(f"{name}: name one of {', '.join(SHELLS)} (usage)\n  see `{name} --help`\n")
        raise SystemExit(USAGE)
    print(script(app, commands_of(app), words[0]), end="")


def _overview(app: "App") -> str:
    """Return the list of commands."""
    name = app.name[0]
    rows = [(verb, app[verb].help.partition("\n")[0]) for verb in commands_of(app)]
    rows.append(("completion", "Print what bash, zsh or fish needs to complete this program."))
    return overview(f"{name} COMMAND", app.help, [*rows, *ALSO])


def commands_of(app: "App") -> list[str]:
    return [verb for verb in app if not verb.startswith("-")]


def _usage(name: str, words: Sequence[str], app: "App", said: str) -> int:
    verb = f" {words[0]}" if words[0] in commands_of(app) else ""
    sys.stdout.flush()
    advice = f"see `{name}{verb} --help`"
    if asked_output(words) == "json":
        fault = {"code": "usage", "message": said, "retry": "never", "advice": advice}
        tell(json.dumps(fault) + "\n")
    else:
        tell(f"{name}: {said} (usage)\n  {advice}\n")
    return USAGE
