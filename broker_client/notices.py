"""Notices about a broker or a master that does not answer, while a client works or waits."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from broker_client.asking import Asker
from broker_client.outages import TURN_S, Outages, Step
from broker_client.runtime.link import Link, NoResponders
from schemas import codec
from schemas.faults import MeshError
from schemas.messages.fanouts import FanoutList
from schemas.verbs import FANOUT_LIST

# NATS service protocol: the question that costs a master least.
_PING: Final = "$SRV.PING.mesh"
_PING_S: Final = 10.0
_READ: Final = codec.encode_request(FanoutList(limit=1))


class Notices:
    """Says each change once. say: gets one line, with times in RFC 3339; may be replaced.

    goes_on: what an outage does not end, as part of a line; empty for nothing.
    """

    def __init__(self, link: Link, asker: Asker) -> None:
        self.say: Callable[[str], None] | None = None
        self.goes_on = ""
        self._link = link
        self._asker = asker
        self._outages = Outages("", 0.0)
        self._asked: set[asyncio.Task[None]] = set()
        self._connect_by_s: float | None = None

    @contextlib.asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """Watch and say during the block; without `say` nothing is watched."""
        if self.say is None:
            yield
            return
        self._outages = Outages(self._link.addresses, time.time())
        self._listen()
        watching = asyncio.ensure_future(self._watch())
        try:
            yield
        finally:
            for each in (watching, *self._asked):
                each.cancel()
            await asyncio.wait({watching, *self._asked})

    def _listen(self) -> None:
        outages = self._outages
        self._link.on_connected(lambda: outages.on_connected(time.time()))
        self._link.on_disconnected(lambda reason: outages.on_lost(reason.message, time.time()))
        self._asker.on_heard.append(self._on_heard)
        self._asker.on_absent.append(self._on_absent)

    async def connecting(self, timeout_s: float) -> None:
        """Wait for the connection as `Link.wait_connected`, and say until when."""
        self._connect_by_s = asyncio.get_running_loop().time() + timeout_s
        try:
            await self._link.wait_connected(timeout_s)
        finally:
            self._connect_by_s = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TURN_S)
            error = self._link.last_error
            if error is not None and not self._link.is_connected:
                self._outages.on_lost(error.message, time.time())
            self._ask(self._outages.turn())
            self._tell()

    def _tell(self) -> None:
        line = self._outages.news(time.time(), self._until(), self.goes_on)
        if line and self.say is not None:
            self.say(line)

    def _until(self) -> float:
        """Unix time at which connecting or the requests are given up; 0 if nothing is awaited."""
        until_s = self._connect_by_s or self._asker.until_s
        if until_s is None:
            return 0.0
        return time.time() + until_s - asyncio.get_running_loop().time()

    # -- signs of life

    def _ask(self, step: Step) -> None:
        if step:
            task = asyncio.ensure_future(self._ping() if step == "ping" else self._read())
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)

    async def _ping(self) -> None:
        try:
            await self._link.request(_PING, b"", _PING_S)
        except NoResponders:
            self._on_absent()
        except MeshError:
            return
        else:
            self._on_heard()

    async def _read(self) -> None:
        """Ask for something that has no rate limit; any answer, also a fault, is a sign of life."""
        with contextlib.suppress(MeshError):
            await self._asker.send(FANOUT_LIST.noun, FANOUT_LIST.verb, _READ, _PING_S)

    def _on_heard(self) -> None:
        """Told at once: the command may be about to end."""
        self._outages.on_heard(time.time())
        self._tell()

    def _on_absent(self) -> None:
        """Requests that an ended master has held are answered by nobody: ask the next one."""
        if self._outages.on_absent(time.time()):
            self._link.fail_requests("the master has lost its connection, or has ended")
