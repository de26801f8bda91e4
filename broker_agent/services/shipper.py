"""Brings what tasks print into the log stream: while they run, and whole before their end is told.

Chunks carry offsets, so one that is sent twice, or after a later one, does no harm. At most WINDOW
chunks are under way, whatever the number of tasks: that bounds the memory, not the output's size.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from broker_agent.core.tasks import Key
from broker_agent.services.wire import Station
from broker_agent.store.folders import TaskFolder
from broker_client.runtime.supervise import TaskSet
from schemas import codec, limits
from schemas.faults import MeshError
from schemas.messages.work import LogChunk
from schemas.subjects import STREAMS

WINDOW: Final = 12
# How often running tasks are looked at for new bytes.
LOOK_S: Final = 0.25
ACK_TIMEOUT_S: Final = 5.0
# A stream that keeps refusing must not keep a command open for ever.
REFUSED_MAX_S: Final = 60.0
_RETRY_S: Final = 0.5
_PASSES_MAX: Final = 100_000


class _PubAck(msgspec.Struct):
    """The log stream's answer to a chunk: a number, or why not."""

    seq: int = 0
    error: dict[str, str | int] | None = None


class Shipment:
    """One attempt's output on its way. done: called once, when all of it is stored or given up."""

    def __init__(self, key: Key, folder: TaskFolder, limit_bytes: int) -> None:
        self.key = key
        self.folder = folder
        self.limit_bytes = limit_bytes
        self.offsets = [0, 0]
        self.truncated = False
        self.ended: Callable[[], None] | None = None
        self.is_busy = False
        self.is_dropped = False
        self.refused_since: float | None = None

    @property
    def sent_bytes(self) -> int:
        return sum(self.offsets)

    def has_new(self) -> bool:
        if self.truncated:
            return False
        sizes = self.folder.sizes()
        return sizes[0] > self.offsets[0] or sizes[1] > self.offsets[1]

    def next_chunk(self, stream: int, size: int) -> tuple[int, bytes] | None:
        """The next bytes of a stream up to `size`, and where they stand; None if there are none."""
        offset = self.offsets[stream]
        left = self.limit_bytes - self.sent_bytes
        wanted = min(limits.CHUNK_BYTES, size - offset)
        if wanted > left:
            self.truncated = True
            wanted = left
        data = self.folder.read(stream, wanted, offset) if wanted > 0 else b""
        if not data:
            return None
        self.offsets[stream] = offset + len(data)
        return offset, data


class Shipper:
    name = "shipper"

    def __init__(self, station: Station) -> None:
        self._wire = station.wire
        self._address = station.address
        self._clock = station.clock
        self._followed: dict[Key, Shipment] = {}
        self._window = asyncio.Semaphore(WINDOW)
        self._passes = TaskSet("shipper", limit=_PASSES_MAX)
        self._wake = asyncio.Event()
        self.chunks = 0
        self.refused = 0

    def follow(self, shipment: Shipment) -> None:
        """Store new bytes of it as they come, from now until `finish` or `drop`."""
        self._followed[shipment.key] = shipment
        self._look(shipment)
        self._wake.set()

    def get(self, key: Key) -> Shipment | None:
        return self._followed.get(key)

    def finish(self, shipment: Shipment, done: Callable[[], None]) -> None:
        """The task has ended: call `done` once all that it printed is stored."""
        self._followed[shipment.key] = shipment
        shipment.ended = done
        if not shipment.is_busy:
            self._begin_pass(shipment)

    def drop(self, key: Key) -> None:
        """The attempt is released: nobody wants its output any more, and `done` is not called."""
        shipment = self._followed.pop(key, None)
        if shipment is not None:
            shipment.is_dropped = True

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        try:
            while True:
                await self._wake.wait()
                while self._followed:
                    await asyncio.sleep(LOOK_S)
                    for shipment in list(self._followed.values()):
                        self._look(shipment)
                self._wake.clear()
        finally:
            await self._passes.aclose(0)

    def _look(self, shipment: Shipment) -> None:
        if not shipment.is_busy and shipment.has_new():
            self._begin_pass(shipment)

    def _begin_pass(self, shipment: Shipment) -> None:
        shipment.is_busy = True
        _ = self._passes.spawn(self._pass(shipment))

    async def _pass(self, shipment: Shipment) -> None:
        """Store what is there now; if the task has ended, all there is, and then say so."""
        while not shipment.is_dropped:
            # Asked first: what a task wrote before it ended is in the sizes that are read after.
            was_ended = shipment.ended is not None
            await self._send_new(shipment)
            if was_ended and shipment.ended is not None and not shipment.is_dropped:
                self._followed.pop(shipment.key, None)
                shipment.ended()
                return
            if shipment.ended is None:
                break
        shipment.is_busy = False

    async def _send_new(self, shipment: Shipment) -> None:
        sizes = shipment.folder.sizes()
        async with asyncio.TaskGroup() as chunks:
            for stream, size in enumerate(sizes):
                subject = self._address.log(*shipment.key, STREAMS[stream])
                while not (shipment.is_dropped or shipment.truncated):
                    await self._window.acquire()
                    chunk = shipment.next_chunk(stream, size)
                    if chunk is None:
                        self._window.release()
                        break
                    offset, data = chunk
                    payload = codec.encode(LogChunk(offset=offset, data=data, at=self._clock.now()))
                    _ = chunks.create_task(self._store(shipment, subject, payload))

    async def _store(self, shipment: Shipment, subject: str, payload: bytes) -> None:
        """Send one chunk until the stream has it, or has refused long enough."""
        try:
            while not shipment.is_dropped and not await self._try_store(shipment, subject, payload):
                if shipment.refused_since is not None:
                    refused_s = self._clock.elapsed() - shipment.refused_since
                    if refused_s > REFUSED_MAX_S:
                        shipment.truncated = True
                        return
                await asyncio.sleep(_RETRY_S)
        finally:
            self._window.release()

    async def _try_store(self, shipment: Shipment, subject: str, payload: bytes) -> bool:
        if not self._wire.is_connected:
            return False
        try:
            answer = await self._wire.request(subject, payload, timeout_s=ACK_TIMEOUT_S)
        except MeshError:
            return False  # the link is gone, or slow: it is sent again
        if is_stored(answer.data):
            self.chunks += 1
            shipment.refused_since = None
            return True
        self.refused += 1
        if shipment.refused_since is None:
            shipment.refused_since = self._clock.elapsed()
        return False


def is_stored(answer: bytes) -> bool:
    """Whether the log stream's answer says that it has the chunk."""
    try:
        ack = msgspec.json.decode(answer, type=_PubAck)
    except msgspec.MsgspecError:
        return False
    return ack.error is None and ack.seq > 0
