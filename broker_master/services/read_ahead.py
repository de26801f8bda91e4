"""Reads output ahead of requests, for readers that got much and will want more.

    held ├──────────────┤ coming ├ ─ ─ ─ ─ ─ ─┤

A broker that stores output at full speed serves a reader only between two writes. So the next bytes
are requested early, and many at once.
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

# Bytes read ahead for one reader, and number of readers: at most 12 MiB are held.
PAGE_BYTES: Final = 8 * limits.CHUNK_BYTES
_READERS_MAX: Final = 8
# A reader that gets less than this keeps up with its task.
_FROM_BYTES: Final = limits.CHUNK_BYTES


class Part(msgspec.Struct, frozen=True):
    """Bytes from an offset on. complete: the stream will bring no more.

    gap: number of bytes before them that will never come. times: pairs of offset and unix time of
    printing.
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
    """Holds output that its reader will request next.

    read: fetches at most so many bytes after an offset of a stream. Bytes read for a reader that
    stops stay until other readers need the room.
    """

    def __init__(self, tasks: TaskSet, read: Read) -> None:
        self._tasks = tasks
        self._read = read
        # By stream and next offset: several may read one stream.
        self._held: OrderedDict[tuple[str, int], _Held] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    async def take(self, subject: str, offset: int, max_bytes: int) -> bytes:
        """Bytes held for exactly this offset; empty if there are none."""
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
        """Note that a reader has got `size` bytes up to `end`, and they were not read ahead."""
        if size >= _FROM_BYTES:
            self._keep(subject, _Held(end))

    def _keep(self, subject: str, held: _Held) -> None:
        self._held.pop((subject, held.offset), None)
        while len(self._held) >= _READERS_MAX:
            self._held.popitem(last=False)
        self._held[subject, held.offset] = held
        if held.coming is None and len(held.data) < PAGE_BYTES:
            # Too many tasks are under way: reading ahead is optional.
            with suppress(Refused):
                held.coming = self._tasks.spawn(
                    self._bytes_from(subject, held.offset + len(held.data))
                )

    async def _bytes_from(self, subject: str, offset: int) -> bytes:
        """Empty where bytes are missing, or the broker is away: the reader's own read shows why."""
        try:
            part = await self._read(subject, offset, PAGE_BYTES)
        except MeshError:
            return b""
        return b"" if part.gap else part.data
