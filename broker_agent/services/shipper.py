"""Sends the output of tasks into the log stream: while they run, and completely before their end.

Chunks carry offsets, so duplicates and reordering are harmless. A congestion window bounds the
bytes under way (`core.pace`), for all tasks together: heartbeats and reports share the link and
must not wait.

After a loss the newest output of running tasks goes first. The backlog follows, on at most half of
the window while there are newer bytes.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from broker_agent.core.pace import Pace
from broker_agent.core.tasks import AttemptKey
from broker_agent.services.shipment import Chunk, Shipment
from broker_agent.services.transit import Fate, Transit
from broker_agent.services.wire import Station
from broker_client.runtime.frames import Msg
from schemas import codec, limits
from schemas.messages.work import LogChunk
from schemas.subjects import STREAMS

__all__ = ["Shipment", "Shipper"]

# Interval of looks for new bytes of running tasks.
LOOK_S: Final = 0.25
# Time after which output is given up, so that a command does not stay open forever: for a stream
# that refuses, and for one that does not answer, which may be a broker without disk or majority.
REFUSED_MAX_S: Final = 60.0
UNANSWERED_MAX_S: Final = 900.0
RETRY_S: Final = 0.5

log = structlog.get_logger(__name__)


class Shipper:
    name = "shipper"

    def __init__(self, station: Station) -> None:
        self._wire = station.wire
        self._address = station.address
        self._clock = station.clock
        self._followed: dict[AttemptKey, Shipment] = {}
        self._ready: deque[Shipment] = deque()
        self._transit = Transit(station)
        self._lease = station.lease
        self._wake = asyncio.Event()
        self._was_connected = False
        self._older_in_flight = 0
        self.pace = Pace()
        self.chunks = 0
        self.refused = 0

    @property
    def waiting_bytes(self) -> int:
        """Bytes of output that are kept here and not yet in the log stream."""
        return sum(shipment.waiting_bytes for shipment in self._followed.values())

    def follow(self, shipment: Shipment) -> None:
        """Send new bytes of it as they come, until `finish` or `drop`."""
        self._followed[shipment.key] = shipment
        self._look(shipment)
        self._pump()
        self._wake.set()

    def finish(self, shipment: Shipment, done: Callable[[], None]) -> None:
        """Call `done` once all output of the ended task is stored."""
        self._followed[shipment.key] = shipment
        shipment.ended = done
        self._look(shipment)
        self._pump()
        self._wake.set()

    def drop(self, key: AttemptKey) -> None:
        """Stop sending output of a released attempt, without calling `done`."""
        shipment = self._followed.pop(key, None)
        if shipment is not None:
            shipment.is_dropped = True

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        while True:
            await self._wake.wait()
            while self._followed or self._transit:
                self._transit.sweep()
                self._look_at_all()
                self._pump()
                await asyncio.sleep(LOOK_S)
            self._wake.clear()

    def on_stored(self, msg: Msg) -> None:
        """Handle the acknowledgement of a stored chunk."""
        self._transit.on_stored(msg)

    def on_disconnected(self) -> None:
        """Send the chunks under way again after the reconnect."""
        self._transit.on_disconnected()

    def _look_at_all(self) -> None:
        shipments = list(self._followed.values())
        is_back = self._wire.is_connected and not self._was_connected
        self._was_connected = self._wire.is_connected
        for shipment in shipments:
            self._look(shipment)
            if is_back:
                shipment.prefer_newest()
        if is_back:
            self.pace.restart()

    def _look(self, shipment: Shipment) -> None:
        has_bytes = shipment.look()
        if has_bytes and not shipment.is_ready:
            shipment.is_ready = True
            self._ready.append(shipment)
        elif not has_bytes:
            self._complete(shipment)

    def _complete(self, shipment: Shipment) -> None:
        """Call `done` if the task has ended and all its output is stored."""
        done = shipment.ended
        if done is None or shipment.is_dropped or not shipment.is_finished:
            return
        if self._followed.pop(shipment.key, None) is not None:
            done()

    def _pump(self) -> None:
        """Fill the window, round-robin over the tasks."""
        turns = len(self._ready)
        while turns and self.pace.has_room() and self._wire.is_connected:
            shipment = self._ready.popleft()
            chunk = self._next_chunk(shipment)
            if chunk is None:
                turns -= 1
                if shipment.is_dropped or not shipment.has_bytes():
                    shipment.is_ready = False
                    self._complete(shipment)
                else:
                    self._ready.append(shipment)
                continue
            turns = len(self._ready) + 1
            self._ready.append(shipment)
            self._send(shipment, chunk)

    def _next_chunk(self, shipment: Shipment) -> Chunk | None:
        if shipment.is_dropped or self._clock.elapsed() < shipment.not_before:
            return None
        most = self.pace.chunk_bytes(limits.CHUNK_BYTES)
        half = self.pace.limit_bytes // 2
        # Older bytes get up to half of the window.
        if self._older_in_flight < half // 2:
            chunk = shipment.take(most, older=True)
            if chunk is not None:
                return chunk
        chunk = shipment.take(most, older=False)
        if chunk is None and (self._older_in_flight < half or shipment.ended is not None):
            chunk = shipment.take(most, older=True)
        return chunk

    def _send(self, shipment: Shipment, chunk: Chunk) -> None:
        size = len(chunk.data)
        self.pace.on_sent(size)
        self._older_in_flight += size * chunk.older
        message = LogChunk(
            offset=chunk.offset, data=chunk.data, skipped=chunk.skipped, at=self._clock.now()
        )
        subject = self._address.log(*shipment.key, STREAMS[chunk.stream])
        tell = partial(self._on_fate, shipment, chunk, self._clock.elapsed())
        self._transit.send(subject, codec.encode(message), tell)

    def _on_fate(self, shipment: Shipment, chunk: Chunk, sent_s: float, fate: Fate) -> None:
        """Handle the fate of one chunk, and send more."""
        size = len(chunk.data)
        self._older_in_flight -= size * chunk.older
        if fate is Fate.STORED:
            self.chunks += 1
            self.pace.on_stored(size, self._clock.elapsed() - sent_s)
            shipment.on_stored(chunk)
        else:
            self.pace.on_failed(size)
            shipment.on_failed(chunk)
            self._wait(shipment, fate)
        if not shipment.is_dropped:
            self._look(shipment)
        self._pump()

    def _wait(self, shipment: Shipment, fate: Fate) -> None:
        """Pause sending for a moment, and give up if the stream accepts nothing for long.

        A stream without answers counts as one that refuses, if echoes of the master come meanwhile:
        then the link works.
        """
        now = self._clock.elapsed()
        shipment.not_before = now + RETRY_S
        if fate is Fate.REFUSED:
            self.refused += 1
            most_s = REFUSED_MAX_S
        elif fate is Fate.UNANSWERED and self._lease.is_linked:
            most_s = UNANSWERED_MAX_S
        else:
            return
        if shipment.refused_since is None:
            shipment.refused_since = now
        elif now - shipment.refused_since > most_s:
            log.error("output_given_up", command_id=shipment.key[0], left=shipment.waiting_bytes)
            shipment.give_up()
