"""The generated section of docs/cli.md: each command with its own options."""

from collections.abc import Callable
from typing import Final

from broker_client.cli.shell.completion import options
from broker_client.cli.table import COMMANDS
from tools.sections import table

_OF_EVERY_COMMAND: Final = frozenset({"--context", "--help", "--no-color", "--output", "--timeout"})


def commands() -> str:
    known = options()
    return table(
        ["command", "what", "options of its own"],
        [
            [
                f"`mesh {noun} {verb}`" if verb else f"`mesh {noun}`",
                text,
                " ".join(
                    f"`{each}`" for each in known[noun, verb] if each not in _OF_EVERY_COMMAND
                ),
            ]
            for noun, verb, _, text, _ in COMMANDS
        ],
    )


SECTIONS: Final[dict[str, Callable[[], str]]] = {"commands": commands}
