"""Notices to a service manager: ready, alive, stopping, and the status of this process.

Source: sd_notify(3): datagrams of `NAME=value` lines to the socket in NOTIFY_SOCKET; without the
variable nothing is sent.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final, Self

# Notices in one watchdog interval, as sd_watchdog_enabled(3) advises.
_PART: Final = 2
_STATUS_S: Final = 10.0


class ServiceManager:
    """The service manager that started this process. address: of its socket, empty for none."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s

    @classmethod
    def take_from(cls, environ: MutableMapping[str, str]) -> Self:
        """Read the environment, and remove the variables, which are for this process alone."""
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        watched = microseconds.isdigit() and pid in ("", str(os.getpid()))
        return cls(address, int(microseconds) / 1e6 if watched else 0.0)

    def give_to(self, environ: MutableMapping[str, str]) -> None:
        """Restore the variables, for the program that this process executes next."""
        if self._address:
            environ["NOTIFY_SOCKET"] = self._address.replace("\0", "@", 1)
        if self.watchdog_s:
            environ["WATCHDOG_USEC"] = str(int(self.watchdog_s * 1e6))

    def tell(self, *lines: str) -> None:
        """Send the lines once; a failure is ignored."""
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender,
        ):
            sender.sendto("\n".join(lines).encode(), self._address)


class Notices:
    """Service that notifies of readiness, then of a live loop; the last service to start.

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
