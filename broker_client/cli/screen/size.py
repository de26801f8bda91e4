"""Size of the screen at stdout. Light: the help of a command waits for it."""

import os
import sys
from typing import Final

PIPE_WIDTH: Final = 80
_LEAST_WIDTH: Final = 20
_HEIGHT: Final = 24


def screen_width() -> int:
    """Return the cells of a line: COLUMNS, the terminal's, or 80 for a pipe or a file."""
    given = os.environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and int(given):
        return max(_LEAST_WIDTH, int(given))
    if not sys.stdout.isatty():
        return PIPE_WIDTH
    # 0 means unknown: serial lines, some terminals of containers and editors.
    return max(_LEAST_WIDTH, terminal_size().columns or PIPE_WIDTH)


def screen_height() -> int:
    """Return the lines of the terminal, or 24 if unknown."""
    return terminal_size().lines or _HEIGHT


def terminal_size() -> os.terminal_size:
    """Return the size of the terminal at stdout; zeros if it is none."""
    try:
        return os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return os.terminal_size((0, 0))
