"""Writes one complete record per ended command, then its row, then drops the command."""

import asyncio
import contextlib
from collections import deque
from typing import NamedTuple

import structlog

from broker_client.runtime.batch import BatchEntry, BatchWriter
from broker_master.core.commands import Command
from broker_master.core.fit import bare_history, fit_history
from broker_master.core.recent import Recents
from broker_master.core.records import history_record
from broker_master.plane import Plane
from broker_master.services.settle import is_too_large
from broker_master.store.readmodel import HistoryRow
from schemas import codec, subjects
from schemas.faults import MeshError
from schemas.listed import last_agent
from schemas.messages.facts import CommandRecord, HistoryRecord

log = structlog.get_logger()

_BATCH = 400
_BATCH_BYTES = 1024 * 1024
# A part that is not full is written this long after the one before: a write costs the broker about
# as much for one record as for a hundred, and no caller waits for these.
_LINGER_S = 1.0
_RETRY_S = 1.0


class _Waiting(NamedTuple):
    """since_s: when it came, on the monotonic clock. payload: the encoded record.

    is_bare: the broker has refused it for its size, and all that can be cut is cut.
    """

    since_s: float
    history: HistoryRecord
    payload: bytes
    is_bare: bool = False


class Historian:
    """Writes history behind the hot path: it may lag, and reports its lag.

    A command leaves the book only when its record is in the history stream and its row can be
    looked up, so its id is never unknown. A record that the broker refuses for its size never
    blocks the others: it is found, cut to its id and state, and finally left out.
    """

    name = "historian"

    def __init__(self, plane: Plane, writer: BatchWriter) -> None:
        self._plane = plane
        self._writer = writer
        # Outcomes of the last commands of each agent.
        self.recents = Recents(self._last_of)
        self._queue: deque[_Waiting] = deque()
        # Of the head of the queue: in the stream, with rows not yet in the read model.
        self._stored: list[HistoryRow] = []
        self._wake = asyncio.Event()
        # Whether the last part left waiting records behind.
        self._is_cut = False
        # Records of one write: fewer while an oversized one is searched.
        self._most: int | None = None

    def _last_of(self, agent: str, most: int) -> list[tuple[str, str]]:
        return self._plane.readmodel.last_of(agent, most)

    def add(self, command: Command, record: CommandRecord) -> None:
        """Queue an ended command. The queue is bounded by the limit of open commands."""
        self._enter(history_record(command, record), is_new=True)
        if len(self._queue) >= _BATCH:
            self._wake.set()

    def amend(self, history: HistoryRecord) -> None:
        """Write a record again that a late result has changed; the newest of an id counts."""
        self._enter(history, is_new=False)

    def _enter(self, history: HistoryRecord, *, is_new: bool) -> None:
        now_s = self._plane.clock.elapsed()
        history = fit_history(history)
        self._queue.append(_Waiting(now_s, history, codec.encode(history)))
        record = history.record
        self.recents.note(last_agent(record), record.id, record.state, is_new=is_new)

    def lag_s(self) -> float:
        """Seconds that the oldest ended command has been waiting for its record."""
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
        part: list[_Waiting] = [] if self._stored else self._next_part()
        try:
            if part:
                with self._plane.timed_write("history"):
                    self._stored = await self._store(part)
            with self._plane.timed_write("readmodel"):
                await self._plane.readmodel.add(self._stored)
        except MeshError as error:
            if is_too_large(error) and part:
                self._narrow(part, error)
                return
            # Kept at the head of the queue: no record is lost, lag_s shows the delay.
            log.warning("history_delayed", commands=len(self._queue), error=str(error))
            await asyncio.sleep(_RETRY_S)
            return
        for _ in self._stored:
            self._forget(self._queue.popleft().history.record)
        self._stored = []
        self._most = None

    def _forget(self, record: CommandRecord) -> None:
        self._plane.book.forget(record.id)
        self.recents.on_written(last_agent(record), record.id, record.state)

    def _narrow(self, part: list[_Waiting], error: MeshError) -> None:
        """Find the one record that is refused for its size, and separate it from the others."""
        self._wake.set()
        if len(part) > 1:
            self._most = len(part) // 2
            return
        waiting = self._queue.popleft()
        self._most = None
        if not waiting.is_bare:
            history = bare_history(waiting.history)
            bare = _Waiting(waiting.since_s, history, codec.encode(history), is_bare=True)
            self._queue.appendleft(bare)
            self._tell("cut", waiting, error, "only its id, its state and its end are kept")
            return
        self._forget(waiting.history.record)
        self._tell("set_aside", waiting, error, "history does not have it")

    def _tell(self, how: str, waiting: _Waiting, error: MeshError, what: str) -> None:
        """Raise an alarm for a record that was cut or left out, with the reason."""
        record = waiting.history.record
        action = f"history.{how}"
        self._plane.count("history", how)
        detail = f"{len(waiting.payload)} bytes are more than the broker takes: {what}; {error}"
        log.error("history_record_refused", event_kind=action, command_id=record.id, reason=detail)
        self._plane.note(action, record.id, result="alarm", code=error.code, detail=detail)

    def _next_part(self) -> list[_Waiting]:
        """Records that fit into one batch: those with output are large."""
        part: list[_Waiting] = []
        size_bytes, most = 0, self._most or _BATCH
        for waiting in self._queue:
            size_bytes += len(waiting.payload)
            if part and (len(part) == most or size_bytes > _BATCH_BYTES):
                break
            part.append(waiting)
        self._is_cut = len(part) < len(self._queue)
        return part

    async def _store(self, part: list[_Waiting]) -> list[HistoryRow]:
        sequences = await self._writer.append_many(
            [
                BatchEntry(subjects.history(waiting.history.record.group), waiting.payload)
                for waiting in part
            ]
        )
        return [
            HistoryRow(sequence, waiting.history, waiting.payload)
            for sequence, waiting in zip(sequences, part, strict=True)
        ]
