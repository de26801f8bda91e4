"""Group commit: many facts, few syncs, each fact stored exactly once or clearly not.

While one write is on its way to the broker, everything that is appended forms the next one. A large
write is one atomic batch; a small one goes as single messages side by side, since the broker takes
some 4 ms for a batch of any size and 0.4 ms for a synced message (measured, 2.15.1; where making
a file is dear, as on ext4 without a journal, 20 ms and 0.6 ms).

What becomes of a write:

    stored     ── all its futures get their sequences
    refused    ── split in halves, down to the group at fault; only that one is refused
    unsent     ── written again when the broker is back
    unknown    ── (no answer, connection lost) the stream is searched for it; what is there is
                  reported as stored, what is not there is written again
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
import structlog

from broker_client.runtime.backoff import Backoff
from broker_client.runtime.clock import Clock, SystemClock
from broker_client.runtime.commits import (
    ENTRY_OVERHEAD_BYTES,
    Commit,
    Entry,
    Group,
    Outcome,
    find_writes,
)
from broker_client.runtime.frames import check_subject
from broker_client.runtime.rates import Gathering
from broker_client.runtime.signals import Signal
from broker_client.runtime.streams import (
    ApiError,
    SequenceConflict,
    Streams,
    is_passing,
    store_fault,
)
from schemas.faults import MeshError, Misused, Refused, Unreachable

__all__ = ["BatchWriter", "Entry", "SequenceConflict", "WriterLimits"]

log = structlog.get_logger(__name__)
T = TypeVar("T")

_GATHER_STEPS = 3
# No stream of the mesh, and no broker that it can use, has a limit below this.
_SURELY_TAKEN = 1024
# Larger than any end of a command with its output.
_HEAVY = 64 * 1024


class WriterLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one writer may take.

    batch_*: the largest write. queue_*: what may wait; more is refused. answer_s: how long the
    broker may take for one write before its outcome is unknown. singles: up to so many messages
    are sent one by one, which is quicker for few. gather_s, patient_s: how long a write may wait
    for company in a steady stream, and while `is_patient`. heavy_bytes: so much of what is large
    (64 KiB) goes with one write, so that a great deal of it holds up nothing else; 0 if all is to
    be stored in the order of appending.
    """

    batch_messages: int = 500
    batch_bytes: int = 8 * 1024 * 1024
    queue_messages: int = 100_000
    queue_bytes: int = 128 * 1024 * 1024
    answer_s: float = 5.0
    singles: int = 16
    gather_s: float = 0.008
    patient_s: float = 0.06
    heavy_bytes: int = 0


class BatchWriter:
    """The one writer of a process into one stream; a Service, whose loop does all the writing.

    A future that is cancelled before its group was sent withdraws it; later it changes nothing.
    Counters: `stored` messages, `writes`, `conflicts`, `retries`, `appended_bytes` (whatever came
    of them). `stalled_since` is a reading of the clock while the broker stores nothing, else None.

    is_patient: whether so much waits elsewhere that a write may take its time.
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
        self._queue: deque[Group] = deque()
        self._heavy: deque[Group] = deque()
        self._queued = 0
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._commit: Commit | None = None
        self._last_seq = 0
        self._is_open = True
        self._gathering = Gathering(wait_s=self._limits.gather_s, patient_s=self._limits.patient_s)
        self._link.on_disconnected(self._lose_commit)
        self.stalled_since: float | None = None
        # Called once when writes begin to get no answer, for those who would rather not wait on.
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
        """Messages that wait for their turn."""
        return self._queued

    @property
    def is_crowded(self) -> bool:
        """Half of what may wait is there: whoever can do without it leaves the rest to others."""
        limits = self._limits
        return (
            2 * self._queued > limits.queue_messages or 2 * self._queued_bytes > limits.queue_bytes
        )

    def append(
        self, subject: str, body: bytes, expected: int | None = None
    ) -> "asyncio.Future[int]":
        """Its sequence, once it is durable.

        The future raises SequenceConflict if the subject is not at `expected`; Refused
        (`store_full`, `too_large`) if the broker will not have it; Unreachable only when the writer
        is stopped. The call itself raises Refused (`queue_full`, `too_large`): nothing happens.
        """
        group = Group((Entry(check_subject(subject), body, expected),), is_single=True)
        self._enqueue(group)
        future: asyncio.Future[Any] = group.future
        return future

    def append_many(self, entries: Sequence[Entry]) -> "asyncio.Future[list[int]]":
        """All of `entries` in one atomic batch, or none of them; else as `append`.

        No two of them may be on one subject if one of these is conditional.
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
        largest = _largest(group)
        if largest + ENTRY_OVERHEAD_BYTES > self._link.max_payload:
            raise Refused("too_large", f"{group.entries[0].subject}: {largest} bytes")
        count = len(group.entries)
        if (
            self._queued + count > self._limits.queue_messages
            or self._queued_bytes + group.size_bytes > self._limits.queue_bytes
        ):
            raise Refused("queue_full", f"{self._queued} messages wait to be stored")
        is_heavy = self._limits.heavy_bytes and group.size_bytes > _HEAVY
        (self._heavy if is_heavy else self._queue).append(group)
        self._queued += count
        self._queued_bytes += group.size_bytes
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
                # One turn of the loop, so that whoever was woken by the last write can append.
                await asyncio.sleep(0)
                await self._gather()
                groups = self._take()
                if groups:
                    await self._write(groups)
                elif not self._queue and not self._heavy:
                    self._wake.clear()
        finally:
            self._is_open = False
            self._abandon(groups, [*self._queue, *self._heavy])

    async def _gather(self) -> None:
        """Wait a moment for more, if that is what the last moments promise."""
        gathering, before = self._gathering, self._queued
        wait_s = gathering.wait_s(before, self._clock.elapsed(), patient=self._is_patient())
        if not wait_s:
            return
        for _ in range(_GATHER_STEPS):
            await asyncio.sleep(wait_s / _GATHER_STEPS)
            if self._queued >= gathering.enough:
                return
        gathering.note_wait(self._queued - before, self._clock.elapsed())

    def _abandon(self, sent: Iterable[Group], queued: Iterable[Group]) -> None:
        why = f"the {self.name} was stopped"
        for group in sent:
            group.refuse(Unreachable("store_unavailable", why))
        for group in queued:
            group.refuse(Unreachable("store_unavailable", why, effect="none"))

    def _take(self) -> list[Group]:
        """The groups of the next write, in order, without those that were withdrawn."""
        part, limits, heavy = _Part(), self._limits, self._heavy
        # One large one goes with each write, or they would wait for ever while others come in.
        self._fill(part, self._queue, limits.batch_messages - bool(heavy), limits.batch_bytes)
        if heavy:
            most = part.size_bytes + max(limits.heavy_bytes, heavy[0].size_bytes)
            self._fill(part, heavy, limits.batch_messages, most)
        return part.groups

    def _fill(self, part: "_Part", queue: deque[Group], messages: int, size_bytes: int) -> None:
        while queue:
            group = queue[0]
            if not group.future.done() and not part.take(group, messages, size_bytes):
                return
            queue.popleft()
            self._queued -= len(group.entries)
            self._queued_bytes -= group.size_bytes

    async def _write(self, groups: list[Group]) -> None:
        """Write until each of `groups` has its answer, in order as far as the broker allows."""
        backoff = Backoff(self._chance, first_s=0.05, cap_s=1.0)
        parts = deque([groups])
        while parts:
            part = parts.popleft()
            outcome = await self._write_once(part)
            again = [*outcome.unsent, *outcome.unknown]
            for group, first_seq in outcome.stored:
                self._settle(group, first_seq)
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

    async def _write_once(self, groups: list[Group]) -> Outcome:
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

    def _settle(self, group: Group, first_seq: int) -> None:
        self.stored += len(group.entries)
        self._last_seq = max(self._last_seq, first_seq + len(group.entries) - 1)
        group.resolve(first_seq)

    async def _judge(self, groups: list[Group], error: ApiError) -> list[list[Group]]:
        """Refuse the group at fault, or return the halves among which to look for it."""
        fault = store_fault(error, groups[0].entries[0].subject)
        if fault.code == "store_full":
            for group in groups:
                group.refuse(fault)
            return []
        if len(groups) > 1:
            middle = len(groups) // 2
            return [groups[:middle], groups[middle:]]
        group = groups[0]
        # The conflict may be with ourselves: an earlier try that was stored without our knowing.
        if len(group.tries) > 1:
            await self._search(groups)
        if not group.future.done():
            self.conflicts += isinstance(fault, SequenceConflict)
            group.refuse(fault)
        return []

    async def _refuse_oversized(self, groups: list[Group]) -> None:
        """Refuse those that this broker will never take, before they are written again.

        Of a batch with such a message it says no more than that it is not whole, and for one
        beyond its own limit it closes the connection: either would be tried for ever.
        """
        waiting = [group for group in groups if not group.future.done()]
        largest = max((_largest(group) for group in waiting), default=0)
        if largest <= _SURELY_TAKEN:
            return
        info = await self._insist(lambda: self._streams.info(self._stream))
        most = self._link.max_payload
        if info.max_msg_size >= 0:
            most = min(most, info.max_msg_size)
        for group in waiting:
            if _largest(group) + ENTRY_OVERHEAD_BYTES > most:
                subject, size = group.entries[0].subject, _largest(group)
                text = f"{subject}: {size} bytes, and {self._stream} takes {most}"
                group.refuse(Refused("too_large", text))

    async def _search(self, groups: list[Group]) -> None:
        """Settle those of `groups` that are stored, by looking at all that was stored since."""
        since = min(group.since for group in groups)
        writes = {write for group in groups for write, _ in group.tries}
        found = await self._insist(lambda: find_writes(self._streams, self._stream, since, writes))
        for group in groups:
            seqs = [found[place] for place in group.tries if place in found]
            if seqs:
                self._settle(group, min(seqs))

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask for as long as it takes: without an answer nothing may be said about a write."""
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


def _largest(group: Group) -> int:
    return max(len(entry.body) for entry in group.entries)


class _Part:
    """What goes with one write."""

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self.size_bytes = 0
        self._count = 0
        self._taken: dict[str, bool] = {}

    def take(self, group: Group, messages: int, size_bytes: int) -> bool:
        """Whether there is room for it, within so many messages and bytes."""
        count, size = self._count + len(group.entries), self.size_bytes + group.size_bytes
        is_over = count > messages or size > size_bytes
        if self.groups and (is_over or _meet(self._taken, group)):
            return False
        self._count, self.size_bytes = count, size
        self.groups.append(group)
        for entry in group.entries:
            self._taken[entry.subject] = entry.expected is not None
        return True


def _meet(taken: dict[str, bool], group: Group) -> bool:
    """Whether a subject would be twice in one batch with a condition, which the broker refuses."""
    return any(
        entry.subject in taken and (entry.expected is not None or taken[entry.subject])
        for entry in group.entries
    )
