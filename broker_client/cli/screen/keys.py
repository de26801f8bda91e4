"""Single keys of a terminal, while something is shown on it."""

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections.abc import Iterator
from typing import Final

_LEAVE: Final = frozenset(b"qQ")


def _own_terminal() -> int | None:
    """Stdin, if it is a terminal. A process in the background is stopped for changing it."""
    try:
        fd = sys.stdin.fileno()
        return fd if os.isatty(fd) and os.tcgetpgrp(fd) == os.getpgrp() else None
    except (OSError, ValueError, AttributeError):
        return None


@contextlib.contextmanager
def q_leaves() -> Iterator[asyncio.Event]:
    """An event that the key `q` sets; never, where stdin is no terminal of ours to read.

    Keys are not echoed meanwhile, and Ctrl-C does what it always does.
    """
    pressed = asyncio.Event()
    fd = _own_terminal()
    if fd is None:
        yield pressed
        return

    def read() -> None:
        try:
            data = os.read(fd, 1024)
        except OSError:
            data = b""
        if not data:  # the terminal is gone
            loop.remove_reader(fd)
        if not data or _LEAVE.intersection(data):
            pressed.set()

    loop = asyncio.get_running_loop()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd, termios.TCSANOW)
    try:
        loop.add_reader(fd, read)
        yield pressed
    finally:
        loop.remove_reader(fd)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSANOW, before)
