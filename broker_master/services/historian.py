"""Writes one complete record per ended command, then its row, then forgets it."""

import asyncio
import contextlib
from collections import deque
from typing import NamedTuple

import structlog

from broker_client.runtime.batch import BatchWriter, Entry
from broker_master.core.book import Command
from broker_master.core.records import history_record
from broker_master.plane import Plane
from broker_master.store.readmodel import Row
from schemas import codec, subjects
from schemas.faults import MeshError
from schemas.messages.facts import CommandRecord, HistoryRecord

log = structlog.get_logger()

_BATCH = 400
_BATCH_BYTES = 1024 * 1024
# A part that is not full is written so long after the one before: a write costs the broker about as
# much for one record as for a hundred, and nobody waits for these.
_LINGER_S = 1.0
_RETRY_S = 1.0


class _Waiting(NamedTuple):
    """since_s: when it came, by the clock. payload: the encoded record."""

    since_s: float
    history: HistoryRecord
    payload: bytes


class Historian:
    """Behind the hot path: it may lag, and says by how much.

    A command leaves the book only when its record is in the history stream and its row can be
    looked up, so that at no moment its id is unknown.
    """

    name = "historian"

    def __init__(self, plane: Plane, writer: BatchWriter) -> None:
        self._plane = plane
        self._writer = writer
        self._queue: deque[_Waiting] = deque()
        # Of the head of the queue: in the stream already, their rows not yet in the read model.
        self._stored: list[Row] = []
        self._wake = asyncio.Event()
        # Whether the last part left some behind that had been waiting with it.
        self._is_cut = False

    def add(self, command: Command, record: CommandRecord) -> None:
        """Hand over an ended command. The queue is bounded by the limit of open commands."""
        self.amend(history_record(command, record))
        if len(self._queue) >= _BATCH:
            self._wake.set()

    def amend(self, history: HistoryRecord) -> None:
        """Write a record again that a late result has changed; the newest of an id counts."""
        now_s = self._plane.clock.elapsed()
        self._queue.append(_Waiting(now_s, history, codec.encode(history)))

    def lag_s(self) -> float:
        """How long the oldest ended command has been waiting for its record."""
        return self._plane.clock.elapsed() - self._queue[0].since_s if self._queue else 0.0

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        # Submissions are refused once history lags by a tenth of the time that facts are kept.
        linger_s = min(_LINGER_S, self._plane.settings.retention.facts_s / 50)
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), linger_s)
            self._wake.clear()
            if self._queue:
                await self._write_some()
            if self._is_cut or len(self._queue) >= _BATCH:
                self._wake.set()

    async def _write_some(self) -> None:
        try:
            if not self._stored:
                with self._plane.timed_write("history"):
                    self._stored = await self._store(self._next_part())
            with self._plane.timed_write("readmodel"):
                await self._plane.readmodel.add(self._stored)
        except MeshError as error:
            # Kept at the head of the queue: nothing is forgotten, lag_s says how late it is.
            log.warning("history_delayed", commands=len(self._queue), error=str(error))
            await asyncio.sleep(_RETRY_S)
            return
        for _ in self._stored:
            waiting = self._queue.popleft()
            self._plane.book.forget(waiting.history.record.id)
        self._stored = []

    def _next_part(self) -> list[_Waiting]:
        """As many as fit into one batch: records with output in them are large."""
        part: list[_Waiting] = []
        size_bytes = 0
        for waiting in self._queue:
            size_bytes += len(waiting.payload)
            if part and (len(part) == _BATCH or size_bytes > _BATCH_BYTES):
                break
            part.append(waiting)
        self._is_cut = len(part) < len(self._queue)
        return part

    async def _store(self, part: list[_Waiting]) -> list[Row]:
        sequences = await self._writer.append_many(
            [
                Entry(subjects.history(waiting.history.record.group), waiting.payload)
                for waiting in part
            ]
        )
        return [
            Row(sequence, waiting.history, waiting.payload)
            for sequence, waiting in zip(sequences, part, strict=True)
        ]
