"""Pushed results: one subscription for all commands of a client.

Results that were missed while the link was down are requested, so that no caller waits for a lost
message. A master that lost its own link repeats the recent pushes.
"""

import asyncio
import contextlib
from collections import deque
from typing import Final

from broker_client.asking import Asker
from broker_client.runtime.link import Msg
from schemas import codec, subjects
from schemas.faults import MeshError
from schemas.messages.api import CommandQuery
from schemas.messages.facts import CommandRecord
from schemas.states import TERMINAL
from schemas.verbs import COMMAND_SHOW

# A result that was lost without a loss of the link is noticed after at most twice this, in seconds.
CATCH_UP_S: Final = 30.0
# Requests in flight while catching up: enough to be quick, too few to delay new work.
CATCH_UP_WIDTH: Final = 16
# As many results as a master repeats after the loss of its link.
REPEATED_MAX: Final = 10_000


class Waiter:
    """Wait for the end of one command: `done` gets the encoded record."""

    __slots__ = ("command", "done", "is_old")

    def __init__(self, command: str, done: "asyncio.Future[bytes]") -> None:
        self.command = command
        self.done = done
        self.is_old = False

    async def record(self) -> CommandRecord:
        return codec.decode_trusted(CommandRecord, await self.done)


class Reader:
    """Results received while it is open, oldest first, at most `limit` unread ones.

    missed: number of results that were dropped unread, oldest first.
    """

    def __init__(self, limit: int) -> None:
        self._unread: deque[bytes] = deque()
        self._limit = limit
        self._arrived = asyncio.Event()
        self.missed = 0

    def add(self, data: bytes) -> None:
        if len(self._unread) >= self._limit:
            self._unread.popleft()
            self.missed += 1
        self._unread.append(data)
        self._arrived.set()

    def __aiter__(self) -> "Reader":
        return self

    async def __anext__(self) -> CommandRecord:
        while not self._unread:
            self._arrived.clear()
            await self._arrived.wait()
        return codec.decode_trusted(CommandRecord, self._unread.popleft())


class Results:
    """Waiters by command, and the received results. Belongs to one loop."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._prefix = subjects.result(asker.name, "")
        self._waiters: dict[str, list[Waiter]] = {}
        self._readers: list[Reader] = []
        # Pushes that readers have got, by subject: the hash of the newest. Oldest first.
        self._read: dict[str, int] = {}
        self._is_behind = asyncio.Event()
        asker.link.subscribe(subjects.result(asker.name, "*"), self._note)
        asker.link.on_connected(self._is_behind.set)

    def expect(self, command: str) -> Waiter:
        """Wait for the end of `command` from now on; `forget` it when the wait is over."""
        waiter = Waiter(command, asyncio.get_running_loop().create_future())
        self._waiters.setdefault(command, []).append(waiter)
        return waiter

    def forget(self, waiter: Waiter) -> None:
        waiters = self._waiters.get(waiter.command, [])
        if waiter in waiters:
            waiters.remove(waiter)
        if not waiters:
            self._waiters.pop(waiter.command, None)
        waiter.done.cancel()

    def open_reader(self, limit: int) -> Reader:
        reader = Reader(limit)
        self._readers.append(reader)
        return reader

    def close_reader(self, reader: Reader) -> None:
        self._readers.remove(reader)

    def _note(self, msg: Msg) -> None:
        if self._readers and self._is_new(msg):
            for reader in self._readers:
                reader.add(msg.data)
        self._resolve(msg.subject[len(self._prefix) :], msg.data)

    def _is_new(self, msg: Msg) -> bool:
        """Whether this is no repetition of what readers have got."""
        digest = hash(msg.data)
        if self._read.pop(msg.subject, None) == digest:
            self._read[msg.subject] = digest
            return False
        self._read[msg.subject] = digest
        if len(self._read) > REPEATED_MAX:
            del self._read[next(iter(self._read))]
        return True

    def _resolve(self, command: str, data: bytes) -> None:
        for waiter in self._waiters.get(command, ()):
            if not waiter.done.done():
                waiter.done.set_result(data)

    async def catch_up(self) -> None:
        """Request results that may be missed: all after a reconnect, old ones periodically."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CATCH_UP_S):
                    await self._is_behind.wait()
            wanted = self._wanted(all_of_them=self._is_behind.is_set())
            self._is_behind.clear()
            for start in range(0, len(wanted), CATCH_UP_WIDTH):
                async with asyncio.TaskGroup() as group:
                    for command in wanted[start : start + CATCH_UP_WIDTH]:
                        group.create_task(self.look_up(command))

    def _wanted(self, *, all_of_them: bool) -> list[str]:
        wanted = []
        for command, waiters in self._waiters.items():
            pending = [waiter for waiter in waiters if not waiter.done.done()]
            if any(all_of_them or waiter.is_old for waiter in pending):
                wanted.append(command)
            for waiter in pending:
                waiter.is_old = True
        return wanted

    async def look_up(self, command: str) -> None:
        """Resolve `command` if it has ended. A fault is ignored: the next round retries."""
        with contextlib.suppress(MeshError):
            query = CommandQuery(id=command, with_output=True)
            record = await self._asker.ask(COMMAND_SHOW, query)
            if record.state in TERMINAL:
                self._resolve(command, codec.encode(record))
