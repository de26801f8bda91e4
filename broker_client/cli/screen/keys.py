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
    """Return stdin if it is a terminal in the foreground: a background process would be stopped."""
    try:
        fd = sys.stdin.fileno()
        return fd if os.isatty(fd) and os.tcgetpgrp(fd) == os.getpgrp() else None
    except (OSError, ValueError, AttributeError):
        return None


@contextlib.contextmanager
def q_leaves() -> Iterator[asyncio.Event]:
    """Yield an event that the key `q` sets, if stdin is a terminal of this process.

    Keys are not echoed meanwhile, and Ctrl-C works as usual.
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
        if not data:  # the terminal is closed
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
