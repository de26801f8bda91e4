"""Notifies of the exits of programs: one epoll of their pidfds, which the loop watches.

A reader of the loop for each pidfd would cost more than the rest of a short task: selectors keep a
record of each file.
"""

import asyncio
import os
import select
from collections.abc import Callable
from typing import Final

_AT_ONCE: Final = 64


class Exits:
    """Exits of one loop's programs; `close` it before the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._on_exit: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._on_ready)

    def watch(self, pid: int, on_exit: Callable[[], None]) -> None:
        """Call `on_exit` once child `pid` has ended and can be reaped."""
        pidfd = os.pidfd_open(pid)
        self._epoll.register(pidfd, select.EPOLLIN)
        self._on_exit[pidfd] = on_exit

    def _on_ready(self) -> None:
        for pidfd, _ in self._epoll.poll(0, _AT_ONCE):
            on_exit = self._on_exit.pop(pidfd, None)
            if on_exit is not None:
                # Closing it is not enough: a child that is being started may hold a copy, and the
                # epoll would report this number again when another file has it.
                self._epoll.unregister(pidfd)
                os.close(pidfd)
                try:
                    on_exit()
                except Exception as error:  # noqa: BLE001  one task must not hide another's end
                    context = {"message": "the end of a program went wrong", "exception": error}
                    self._loop.call_exception_handler(context)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        for pidfd in self._on_exit:
            os.close(pidfd)
        self._on_exit.clear()
