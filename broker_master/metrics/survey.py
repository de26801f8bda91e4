"""Measures the broker, its streams and the disk from time to time, not in a scrape."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from broker_client.runtime.streams import Streams
from broker_master.core.findings import Findings, StreamSize
from broker_master.core.room import StoreRoom
from broker_master.plane import Plane
from broker_master.store.facts import AUDIT, EVENTS, HISTORY, LOGS, REGISTRY
from schemas.faults import MeshError

log = structlog.get_logger()

PERIOD_S: Final = 5.0
ROWS_PERIOD_S: Final = 30.0
RTT_S: Final = 2.0
# Period of the check that the loop is on time.
PULSE_S: Final = 0.1
READMODEL_FILE: Final = "readmodel.db"


class Survey:
    """Asks the broker every few seconds; values are absent while the broker does not answer.

    Ready after the first answer: before that the room in the event store is not known.
    """

    name = "survey"

    def __init__(self, plane: Plane, streams: Streams, folder: Path, room: StoreRoom) -> None:
        self._plane = plane
        self._room = room
        self._streams = streams
        self._readmodel = folder / READMODEL_FILE
        self._rows_due_s = 0.0
        self.findings = Findings()

    async def run(self, ready: asyncio.Event) -> None:
        while True:
            try:
                await self.look()
            except MeshError as error:
                # Only gaps in a curve, while the broker is away.
                self.findings.streams, self.findings.broker_rtt_s = {}, None
                log.debug("survey_delayed", error=str(error))
            ready.set()
            await asyncio.sleep(PERIOD_S)

    async def look(self) -> None:
        clock, findings = self._plane.clock, self.findings
        began_s = clock.elapsed()
        await self._plane.link.flush(RTT_S)
        findings.broker_rtt_s = clock.elapsed() - began_s
        appended = self._plane.facts.appended_bytes
        found = {}
        for name in (EVENTS, HISTORY, LOGS, AUDIT, f"KV_{REGISTRY}"):
            info = await self._streams.info(name)
            found[name] = StreamSize(info.messages, info.size_bytes)
        findings.streams = found
        self._room.note_size(found[EVENTS].size_bytes, appended)
        findings.disk_free = await asyncio.to_thread(_disk_free, self._readmodel.parent)
        findings.readmodel_bytes = await asyncio.to_thread(_size, self._readmodel)
        if clock.elapsed() >= self._rows_due_s:
            findings.readmodel_rows = await self._plane.readmodel.count()
            self._rows_due_s = clock.elapsed() + ROWS_PERIOD_S


class Pulse:
    """Measures the delay of the loop's timers, and looks at the agents' statuses."""

    name = "pulse"

    def __init__(self, findings: Findings, look: Callable[[], None]) -> None:
        self._findings = findings
        self._look = look

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        loop = asyncio.get_running_loop()
        pulses = 0
        while True:
            due = loop.time() + PULSE_S
            await asyncio.sleep(PULSE_S)
            self._findings.loop_lag_s = max(self._findings.loop_lag_s, loop.time() - due)
            pulses += 1
            if pulses % 10 == 0:
                self._look()


def _disk_free(folder: Path) -> float:
    """Free share of the folder's disk, 0 to 1."""
    found = os.statvfs(folder)
    return found.f_bavail / found.f_blocks if found.f_blocks else 1.0


def _size(database: Path) -> int:
    """Size in bytes, with its write-ahead log."""
    files = (database, database.with_name(database.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())
