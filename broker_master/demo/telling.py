"""Output of the demonstrations: steps, the commands to type, and their results."""

import os
import shlex
import sys
from collections.abc import Sequence
from typing import Final

WIDTH: Final = 80


def heading(text: str) -> None:
    print(f"\n{_styled(text, '1')}")


def typed(line: str) -> None:
    print(_styled(f"$ {line}", "36"), flush=True)


def typed_program(command: Sequence[str], program: Sequence[str], end: str = "") -> None:
    """A command line that ends in a program of its own, on two lines if one is too short."""
    line = shlex.join([*command, *program]) + end
    if len(line) + 2 > WIDTH:
        line = f"{shlex.join(command)} \\\n    {shlex.join(program)}{end}"
    typed(line)


def say(text: str) -> None:
    print(text, flush=True)


def _styled(text: str, style: str) -> str:
    is_plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
    return text if is_plain else f"\x1b[{style}m{text}\x1b[0m"
