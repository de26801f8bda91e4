"""What a service manager is told: that we are ready, alive, stopping, and how things stand.

Source: sd_notify(3): datagrams of `NAME=value` lines to the socket that NOTIFY_SOCKET names. Where
there is none, nothing is said.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final, Self

# Twice in the time after which we would be taken for hung, as sd_watchdog_enabled(3) advises.
_PART: Final = 2
_STATUS_S: Final = 10.0


class ServiceManager:
    """Whoever started this process and may want to know. address: empty for nobody."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s

    @classmethod
    def take_from(cls, environ: MutableMapping[str, str]) -> Self:
        """As the environment says; what was meant for us alone is taken out of it."""
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        watched = microseconds.isdigit() and pid in ("", str(os.getpid()))
        return cls(address, int(microseconds) / 1e6 if watched else 0.0)

    def give_to(self, environ: MutableMapping[str, str]) -> None:
        """For the program that this process turns into."""
        if self._address:
            environ["NOTIFY_SOCKET"] = self._address.replace("\0", "@", 1)
        if self.watchdog_s:
            environ["WATCHDOG_USEC"] = str(int(self.watchdog_s * 1e6))

    def tell(self, *lines: str) -> None:
        """Say it once. Whether anybody listens makes no difference to us."""
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender,
        ):
            sender.sendto("\n".join(lines).encode(), self._address)


class Notices:
    """The last service to start: says that all before it are ready, then that the loop goes round.

    status: one line for people.
    """

    name = "notices"

    def __init__(self, manager: ServiceManager, status: Callable[[], str]) -> None:
        self._manager = manager
        self._status = status

    async def run(self, ready: asyncio.Event) -> None:
        manager = self._manager
        manager.tell("READY=1", f"STATUS={self._status()}")
        ready.set()
        pause_s = manager.watchdog_s / _PART if manager.watchdog_s else _STATUS_S
        while True:
            await asyncio.sleep(min(pause_s, _STATUS_S))
            manager.tell("WATCHDOG=1", f"STATUS={self._status()}")
