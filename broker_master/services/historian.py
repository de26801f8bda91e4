"""Writes one complete record per ended command, then its row, then forgets it."""

import asyncio
import contextlib
from collections import deque

import structlog

from broker_client.runtime.batch import BatchWriter
from broker_master.core.book import Command
from broker_master.core.records import history_record
from broker_master.plane import Plane
from schemas import codec, subjects
from schemas.faults import MeshError
from schemas.messages.facts import CommandRecord, HistoryRecord

log = structlog.get_logger()

_BATCH = 400
_LINGER_S = 0.05
_RETRY_S = 1.0


class Historian:
    """Behind the hot path: it may lag, and says by how much.

    A command leaves the book only when its record is in the history stream and its row can be
    looked up, so that at no moment its id is unknown.
    """

    name = "historian"

    def __init__(self, plane: Plane, writer: BatchWriter) -> None:
        self._plane = plane
        self._writer = writer
        self._queue: deque[tuple[float, HistoryRecord]] = deque()
        self._wake = asyncio.Event()

    def add(self, command: Command, record: CommandRecord) -> None:
        """Hand over an ended command. The queue is bounded by the limit of open commands."""
        self._queue.append((self._plane.clock.elapsed(), history_record(command, record)))
        if len(self._queue) >= _BATCH:
            self._wake.set()

    def amend(self, history: HistoryRecord) -> None:
        """Write a record again that a late result has changed; the newest of an id counts."""
        self._queue.append((self._plane.clock.elapsed(), history))

    def lag_s(self) -> float:
        """How long the oldest ended command has been waiting for its record."""
        return self._plane.clock.elapsed() - self._queue[0][0] if self._queue else 0.0

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _LINGER_S)
            self._wake.clear()
            while self._queue:
                await self._write_some()

    async def _write_some(self) -> None:
        part = [self._queue[index] for index in range(min(_BATCH, len(self._queue)))]
        try:
            rows = await self._store([record for _, record in part])
            await self._plane.readmodel.add(rows)
        except MeshError as error:
            # Kept at the head of the queue: nothing is forgotten, lag_s says how late it is.
            log.warning("history_delayed", commands=len(self._queue), error=str(error))
            await asyncio.sleep(_RETRY_S)
            return
        for _ in part:
            _, history = self._queue.popleft()
            self._plane.book.forget(history.record.id)

    async def _store(self, records: list[HistoryRecord]) -> list[tuple[int, HistoryRecord]]:
        stored = [
            self._writer.append(subjects.history(record.record.group), codec.encode(record), None)
            for record in records
        ]
        sequences = await asyncio.gather(*stored)
        return sorted(zip(sequences, records, strict=True), key=lambda row: row[0])
