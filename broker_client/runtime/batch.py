"""Group commit: many facts, few syncs, each fact stored exactly once or clearly not.

While one write is on its way to the broker, appended entries form the next write. A large write is
one atomic batch; a small write goes as single messages in parallel, since the broker takes some
4 ms for a batch of any size and 0.4 ms for a synced message (measured, 2.15.1; 20 ms and 0.6 ms
where creating a file is slow, as on ext4 without a journal).

Outcomes of a write:

    stored     ── all its futures get their sequences
    refused    ── split in halves, down to the faulty group; only this group is refused
    unsent     ── written again after the reconnect
    unknown    ── (no answer, connection lost) the stream is searched for its messages; the found
                  ones are reported as stored, the others are written again
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import structlog

from broker_client.runtime.backoff import Backoff
from broker_client.runtime.clock import Clock, SystemClock
from broker_client.runtime.commits import (
    ENTRY_OVERHEAD_BYTES,
    BatchEntry,
    Commit,
    Group,
    WriteOutcome,
    find_writes,
)
from broker_client.runtime.frames import check_subject
from broker_client.runtime.rates import Gathering
from broker_client.runtime.signals import Signal
from broker_client.runtime.stream_answers import ApiError, SequenceConflict, is_passing, store_fault
from broker_client.runtime.streams import Streams
from broker_client.runtime.write_queue import WriteQueue, WriterLimits, largest_of
from schemas.faults import MeshError, Misused, Refused, Unreachable

__all__ = ["BatchEntry", "BatchWriter", "SequenceConflict", "WriterLimits"]

log = structlog.get_logger(__name__)
T = TypeVar("T")

_GATHER_STEPS = 3
# Bytes that every usable stream and broker accepts in one message.
_SURELY_TAKEN = 1024


class BatchWriter:
    """The only writer of a process into one stream; a Service, whose loop does all the writing.

    Cancelling a future before its group is sent withdraws the group; later it has no effect.
    Counters: `stored` messages, `writes`, `conflicts`, `retries`, `appended_bytes` (of any
    outcome). `stalled_since`: reading of the clock since which the broker stores nothing, or None.

    is_patient: whether so much work queues up elsewhere that a write may wait longer.
    """

    def __init__(
        self,
        streams: Streams,
        stream: str,
        *,
        limits: WriterLimits | None = None,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
        is_patient: Callable[[], bool] = lambda: False,
    ) -> None:
        self._streams = streams
        self._link = streams.link
        self._stream = stream
        self._limits = limits or WriterLimits()
        self._clock = clock or SystemClock()
        self._chance = chance
        self._queue = WriteQueue(self._limits)
        self._wake = asyncio.Event()
        self._commit: Commit | None = None
        self._last_seq = 0
        self._is_open = True
        self._gathering = Gathering(wait_s=self._limits.gather_s, patient_s=self._limits.patient_s)
        self._link.on_disconnected(self._lose_commit)
        self.stalled_since: float | None = None
        # Called once when writes begin to get no answer, so that callers need not wait.
        self.on_stalled: Signal[[]] = Signal()
        self._is_patient = is_patient
        self.stored = 0
        self.writes = 0
        self.appended_bytes = 0
        self.conflicts = 0
        self.retries = 0

    @property
    def name(self) -> str:
        return f"writer of {self._stream}"

    @property
    def queued(self) -> int:
        """Number of messages in the queue."""
        return self._queue.messages

    @property
    def is_crowded(self) -> bool:
        """Whether half of the queue is full; optional writes are left out then."""
        return self._queue.is_crowded

    def append(
        self, subject: str, body: bytes, expected: int | None = None
    ) -> "asyncio.Future[int]":
        """Append one message; the future gets its sequence when it is durable.

        The future raises SequenceConflict if the subject is not at `expected`; Refused
        (`store_full`, `too_large`) if the broker refuses it; Unreachable only if the writer is
        stopped. The call itself raises Refused (`queue_full`, `too_large`), without effect.
        """
        group = Group((BatchEntry(check_subject(subject), body, expected),), is_single=True)
        self._enqueue(group)
        future: asyncio.Future[Any] = group.future
        return future

    def append_many(self, entries: Sequence[BatchEntry]) -> "asyncio.Future[list[int]]":
        """Append all of `entries` in one atomic batch, or none of them; else as `append`.

        A conditional entry must be the only one on its subject.
        """
        if not 0 < len(entries) <= self._limits.batch_messages:
            raise Misused("too_large", f"{len(entries)} messages in one group")
        subjects = {check_subject(entry.subject) for entry in entries}
        if len(subjects) < len(entries) and any(e.expected is not None for e in entries):
            raise Misused("internal", "a subject twice in a group with expected sequences")
        group = Group(tuple(entries), is_single=False)
        self._enqueue(group)
        future: asyncio.Future[Any] = group.future
        return future

    def _enqueue(self, group: Group) -> None:
        if not self._is_open:
            raise Unreachable("store_unavailable", f"the {self.name} is stopped", effect="none")
        self._queue.add(group, self._link.max_payload)
        self.appended_bytes += group.size_bytes
        self._wake.set()

    # the loop

    async def run(self, ready: asyncio.Event) -> None:
        groups: list[Group] = []
        try:
            info = await self._insist(lambda: self._streams.info(self._stream))
            self._last_seq = info.last_seq
            ready.set()
            while True:
                await self._wake.wait()
                # One turn of the loop, so that the callers woken by the last write can append.
                await asyncio.sleep(0)
                await self._gather()
                groups = self._queue.take()
                if groups:
                    await self._write(groups)
                elif self._queue.is_empty:
                    self._wake.clear()
        finally:
            self._is_open = False
            self._abandon(groups, self._queue.rest())

    async def _gather(self) -> None:
        """Wait shortly for more entries, if the recent rate promises some."""
        gathering, before = self._gathering, self._queue.messages
        wait_s = gathering.wait_s(before, self._clock.elapsed(), patient=self._is_patient())
        if not wait_s:
            return
        for _ in range(_GATHER_STEPS):
            await asyncio.sleep(wait_s / _GATHER_STEPS)
            if self._queue.messages >= gathering.enough:
                return
        gathering.note_wait(self._queue.messages - before, self._clock.elapsed())

    def _abandon(self, sent: Iterable[Group], queued: Iterable[Group]) -> None:
        why = f"the {self.name} was stopped"
        for group in sent:
            group.refuse(Unreachable("store_unavailable", why))
        for group in queued:
            group.refuse(Unreachable("store_unavailable", why, effect="none"))

    async def _write(self, groups: list[Group]) -> None:
        """Write until each of `groups` has its answer, in order where the broker allows it."""
        backoff = Backoff(self._chance, first_s=0.05, cap_s=1.0)
        parts = deque([groups])
        while parts:
            part = parts.popleft()
            outcome = await self._write_once(part)
            again = [*outcome.unsent, *outcome.unknown]
            for group, first_seq in outcome.stored:
                self._confirm(group, first_seq)
            for refused, error in outcome.refused:
                if is_passing(error):
                    again += refused
                    continue
                for rest in reversed(await self._judge(refused, error)):
                    parts.appendleft(rest)
            if not again:
                self._note_answered()
                continue
            self._note_stalled()
            await asyncio.sleep(backoff.next_s())
            if outcome.unknown:
                await self._search(outcome.unknown)
            await self._refuse_oversized(again)
            again = [group for group in part if group in again and not group.future.done()]
            if again:
                parts.appendleft(again)
            else:
                self._note_answered()

    async def _write_once(self, groups: list[Group]) -> WriteOutcome:
        for group in groups:
            if not group.tries:
                group.since = self._last_seq
        self.writes += 1
        count = sum(len(group.entries) for group in groups)
        self._gathering.note_write(count, self._clock.elapsed())
        commit = self._commit = Commit(self._link, self._limits.answer_s)
        try:
            if len(groups) <= self._limits.singles and all(
                len(group.entries) == 1 for group in groups
            ):
                return await commit.send_singles(groups)
            return await commit.send_batch(groups)
        finally:
            self._commit = None

    def _lose_commit(self, _reason: MeshError) -> None:
        if self._commit is not None:
            self._commit.lose()

    def _confirm(self, group: Group, first_seq: int) -> None:
        self.stored += len(group.entries)
        self._last_seq = max(self._last_seq, first_seq + len(group.entries) - 1)
        group.resolve(first_seq)

    async def _judge(self, groups: list[Group], error: ApiError) -> list[list[Group]]:
        """Refuse the faulty group, or return the halves in which to search for it."""
        fault = store_fault(error, groups[0].entries[0].subject)
        if fault.code == "store_full":
            for group in groups:
                group.refuse(fault)
            return []
        if len(groups) > 1:
            middle = len(groups) // 2
            return [groups[:middle], groups[middle:]]
        group = groups[0]
        # The conflict may be with an earlier try of this group, whose answer was lost.
        if len(group.tries) > 1:
            await self._search(groups)
        if not group.future.done():
            self.conflicts += isinstance(fault, SequenceConflict)
            group.refuse(fault)
        return []

    async def _refuse_oversized(self, groups: list[Group]) -> None:
        """Refuse groups that this broker will never accept, before they are written again.

        For a batch with a message above the stream's limit the broker only answers that it is
        incomplete, and for one above its own limit it closes the connection: without this check
        both would be retried without end.
        """
        waiting = [group for group in groups if not group.future.done()]
        largest = max((largest_of(group) for group in waiting), default=0)
        if largest <= _SURELY_TAKEN:
            return
        info = await self._insist(lambda: self._streams.info(self._stream))
        most = self._link.max_payload
        if info.max_msg_size >= 0:
            most = min(most, info.max_msg_size)
        for group in waiting:
            if largest_of(group) + ENTRY_OVERHEAD_BYTES > most:
                subject, size = group.entries[0].subject, largest_of(group)
                text = f"{subject}: {size} bytes, and {self._stream} takes {most}"
                group.refuse(Refused("too_large", text))

    async def _search(self, groups: list[Group]) -> None:
        """Resolve the stored ones of `groups`, by a search of the messages stored since."""
        since = min(group.since for group in groups)
        writes = {write for group in groups for write, _ in group.tries}
        found = await self._insist(lambda: find_writes(self._streams, self._stream, since, writes))
        for group in groups:
            seqs = [found[place] for place in group.tries if place in found]
            if seqs:
                self._confirm(group, min(seqs))

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer: without one the outcome of a write stays unknown."""
        while True:
            try:
                return await self._streams.insist(ask)
            except Unreachable as fault:
                log.warning("store_silent", stream=self._stream, reason=str(fault))

    def _note_stalled(self) -> None:
        self.retries += 1
        if self.stalled_since is None:
            self.stalled_since = self._clock.elapsed()
            log.warning("writing_stalled", stream=self._stream)
            self.on_stalled()

    def _note_answered(self) -> None:
        if self.stalled_since is not None:
            after_s = round(self._clock.elapsed() - self.stalled_since, 3)
            log.info("writing_resumed", stream=self._stream, after_s=after_s)
            self.stalled_since = None
