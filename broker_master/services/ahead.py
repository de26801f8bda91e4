"""Output that is read before it is asked for, for readers who were given much and will want more.

    held ├──────────────┤ coming ├ ─ ─ ─ ─ ─ ─┤
         ▲ offset: what the next request asks for

A broker that stores output as fast as it can lets a reader in between two writes only. So the next
bytes are asked for in good time, and many at once.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import msgspec

from broker_client.runtime.supervise import TaskSet
from schemas import limits
from schemas.faults import MeshError, Refused

# Read for one reader at a time, and for how many readers: held are at most 12 MiB.
PAGE_BYTES: Final = 8 * limits.CHUNK_BYTES
_READERS_MAX: Final = 8
# Who gets less than this reads along with a task that prints no faster.
_FROM_BYTES: Final = limits.CHUNK_BYTES


class Part(msgspec.Struct, frozen=True):
    """Bytes from an offset on. complete: nothing more of this stream will come.

    gap: how many bytes before them will never come. times: from which offset on they were printed
    when, as unix time.
    """

    data: bytes = b""
    complete: bool = False
    gap: int = 0
    times: tuple[tuple[int, float], ...] = ()


Read = Callable[[str, int, int], Coroutine[Any, Any, Part]]


class _Held:
    __slots__ = ("coming", "data", "offset")

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.data = b""
        self.coming: asyncio.Task[bytes] | None = None


class ReadAhead:
    """read: what follows an offset of a stream, so many bytes of it at most.

    A reader who stops leaves what was read for it until other readers need the room.
    """

    def __init__(self, tasks: TaskSet, read: Read) -> None:
        self._tasks = tasks
        self._read = read
        # By stream and the place that is asked for next: several may read one stream.
        self._held: OrderedDict[tuple[str, int], _Held] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    async def take(self, subject: str, offset: int, max_bytes: int) -> bytes:
        """What was read at just this place; nothing if that was nothing."""
        held = self._held.pop((subject, offset), None)
        if held is None:
            return b""
        if len(held.data) < max_bytes and held.coming is not None:
            held.data += await asyncio.shield(held.coming)
            held.coming = None
        data, held.data = held.data[:max_bytes], held.data[max_bytes:]
        held.offset += len(data)
        if data:
            self._keep(subject, held)
        return data

    def note(self, subject: str, end: int, size: int) -> None:
        """A reader has got `size` bytes that ended at `end`, and they were not from here."""
        if size >= _FROM_BYTES:
            self._keep(subject, _Held(end))

    def _keep(self, subject: str, held: _Held) -> None:
        self._held.pop((subject, held.offset), None)
        while len(self._held) >= _READERS_MAX:
            self._held.popitem(last=False)
        self._held[subject, held.offset] = held
        if held.coming is None and len(held.data) < PAGE_BYTES:
            # Too many tasks are under way: nobody needs this one.
            with suppress(Refused):
                held.coming = self._tasks.spawn(
                    self._bytes_from(subject, held.offset + len(held.data))
                )

    async def _bytes_from(self, subject: str, offset: int) -> bytes:
        """Nothing where bytes are missing, or the broker is away: whoever asks then is told why."""
        try:
            part = await self._read(subject, offset, PAGE_BYTES)
        except MeshError:
            return b""
        return b"" if part.gap else part.data
