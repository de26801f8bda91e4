"""Reads the output of tasks: from the outcome if it is small, else from the log stream.

Chunks name their offsets. They may stand twice in the log stream, or out of order, so a reader
keeps an index of offsets. Bytes that will never come are reported as a gap.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import msgspec

from broker_client.runtime.stream_pages import Stored
from broker_client.runtime.streams import Streams
from broker_master.core.chunks import Chunk, ChunkIndex, splice, times_of
from broker_master.plane import Plane
from broker_master.services.read_ahead import Part, ReadAhead
from broker_master.services.watches import Wait, Watches
from broker_master.store.facts import LOGS
from schemas import codec, limits, subjects
from schemas.faults import Refused
from schemas.messages.api import Gap, LogsAnswer, LogsRequest, Mark
from schemas.messages.facts import AttemptRecord, CommandRecord
from schemas.messages.work import LogChunk
from schemas.moments import parse_rfc3339, rfc3339, rfc3339_or_none
from schemas.states import TERMINAL, State

LookUp = Callable[[], Awaitable[CommandRecord]]
# Subject, offset, bytes at most, and whether nothing more will come.
_Read = tuple[str, int, int, bool]

# First poll of a silent stream, in case its notification was missed: in a cluster it takes a moment
# until all nodes have a new subscription; and the interval after that.
_AGAIN_S = 0.25
_AGAIN_MOST_S = 5.0
# Of many notifications one wakes the reader: the next read brings the chunks of all. After an empty
# read the reader waits longer.
_SETTLE_S = 0.02
_SETTLE_MOST_S = 1.0
# Readers that ask the broker at one time.
_READS = 64
_PAGE_MESSAGES = 64
# At least one whole run of chunks, and no more than an answer holds.
_PAGE_BYTES = 2 * limits.CHUNK_BYTES
# A page may hold chunks that do not continue the offset; this many pages are read at once.
_PAGES_MAX = 64
# Size of all indexes together, in runs of chunks of a few hundred bytes each.
_RUNS_MAX = 50_000
_STREAMS_MAX = 4096


class OutputReader:
    """Caches no output but what it reads ahead; keeps indexes of streams read lately."""

    def __init__(self, plane: Plane, streams: Streams) -> None:
        self._plane = plane
        self._streams = streams
        self._indexes: OrderedDict[str, ChunkIndex] = OrderedDict()
        self._runs = 0
        self._watches = Watches(plane.link)
        self._turns = asyncio.Semaphore(_READS)
        self._reading: dict[_Read, asyncio.Future[Part | None]] = {}
        self._ahead = ReadAhead(plane.tasks, self._read_on)

    async def read(self, look_up: LookUp, request: LogsRequest) -> LogsAnswer:
        """Return output from the requested offsets on; wait for new bytes while the attempt runs.

        look_up: returns the record as it is now, with its output.
        """
        clock = self._plane.clock
        deadline_s = clock.elapsed() + request.wait_s
        again_s, settle_s = _AGAIN_S, _SETTLE_S
        while True:
            record = await look_up()
            attempt = _attempt(record, request.attempt)
            if not request.wait_s:
                return await self._read_in_turn(record, attempt, request)
            with self._watching(record, attempt) as wait:
                answer = await self._read_in_turn(record, attempt, request)
                left_s = deadline_s - clock.elapsed()
                if answer.end or answer.stdout or answer.stderr or answer.gaps or left_s <= 0:
                    return answer
                with self._until_ended(record.id, wait):
                    is_woken = await wait.woken(min(again_s, left_s), min(settle_s, left_s))
            if is_woken:
                settle_s = min(2 * settle_s, _SETTLE_MOST_S)
            else:
                again_s = _AGAIN_MOST_S

    async def _read_in_turn(
        self, record: CommandRecord, attempt: AttemptRecord | None, request: LogsRequest
    ) -> LogsAnswer:
        async with self._turns:
            return await self._read_now(record, attempt, request)

    def _watching(
        self, record: CommandRecord, attempt: AttemptRecord | None
    ) -> AbstractContextManager[Wait]:
        """Subscribe before the read, so that no chunk is stored unnoticed between the two."""
        agent, number = (attempt.agent, attempt.attempt) if attempt is not None else ("?", 0)
        return self._watches.watching(record.group, agent, record.id, number)

    @contextmanager
    def _until_ended(self, command: str, wait: Wait) -> Iterator[None]:
        """Wake the reader at the end of the command as well."""
        if self._plane.book.get(command) is None:
            yield
            return
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ended.add_done_callback(lambda _: wait.wake())
        waiters = self._plane.waiters.setdefault(command, [])
        waiters.append(ended)
        try:
            yield
        finally:
            if ended in waiters:
                waiters.remove(ended)
            if not waiters and self._plane.waiters.get(command) is waiters:
                del self._plane.waiters[command]

    async def last_at(self, record: CommandRecord) -> str | None:
        """Print time of the newest stored bytes of the newest attempt."""
        attempt = _attempt(record, None)
        if attempt is None:
            return None
        moments = [0.0]
        for stream in subjects.STREAMS:
            subject = _subject(record, attempt, stream)
            stored = await self._streams.get_last(LOGS, subject)
            chunk = self._decode(stored) if stored is not None else None
            if chunk is not None:
                moments.append(chunk.at)
        return rfc3339_or_none(max(moments))

    async def _read_now(
        self, record: CommandRecord, attempt: AttemptRecord | None, request: LogsRequest
    ) -> LogsAnswer:
        ended = record.state in TERMINAL
        stdout = await self._part(record, attempt, subjects.STDOUT, request.stdout_from, request)
        room = request.max_bytes - len(stdout.data)
        stderr = Part()
        if room > 0:
            small = msgspec.structs.replace(request, max_bytes=room)
            stderr = await self._part(record, attempt, subjects.STDERR, request.stderr_from, small)
        gaps = [
            Gap(stream=stream, start=start, end=start + part.gap)
            for stream, start, part in (
                (subjects.STDOUT, request.stdout_from, stdout),
                (subjects.STDERR, request.stderr_from, stderr),
            )
            if part.gap
        ]
        return LogsAnswer(
            id=record.id,
            attempt=attempt.attempt if attempt else 0,
            state=record.state,
            stdout=stdout.data,
            stderr=stderr.data,
            stdout_next=request.stdout_from + stdout.gap + len(stdout.data),
            stderr_next=request.stderr_from + stderr.gap + len(stderr.data),
            end=ended and stdout.complete and stderr.complete,
            truncated=record.truncated,
            gaps=gaps,
            marks=[
                Mark(stream=stream, offset=at, at=rfc3339(printed))
                for stream, part in ((subjects.STDOUT, stdout), (subjects.STDERR, stderr))
                for at, printed in (part.times if request.times else ())
            ],
        )

    async def _part(
        self,
        record: CommandRecord,
        attempt: AttemptRecord | None,
        stream: str,
        offset: int,
        request: LogsRequest,
    ) -> Part:
        ended = record.state in TERMINAL
        if attempt is None:
            return Part(complete=ended)
        is_last = attempt is record.attempts[-1]
        if ended and is_last:
            if record.output is not None and request.times:
                # The stream has it as well if the task ran for a while, with times.
                subject = _subject(record, attempt, stream)
                part = await self._read_once(subject, offset, request.max_bytes, is_final=True)
                if part.data and not part.gap:
                    return part
            if record.output is not None:
                whole = record.output.stdout if stream == subjects.STDOUT else record.output.stderr
                data = whole[offset : offset + request.max_bytes]
                ended_at = parse_rfc3339(record.ended_at) if record.ended_at else 0.0
                times = ((offset, ended_at),) if data else ()
                return Part(data, offset + len(data) >= len(whole), times=times)
            total = record.stdout_bytes if stream == subjects.STDOUT else record.stderr_bytes
            # The sizes of the lost output are unknown.
            if offset >= total and attempt.state != State.LOST:
                return Part(complete=True)
        subject = _subject(record, attempt, stream)
        # An attempt that ended without a report of its sizes has the output in the stream.
        is_final = ended or not is_last
        if not request.times:  # bytes read ahead have none
            data = await self._ahead.take(subject, offset, request.max_bytes)
            if data:
                return Part(data)
        part = await self._read_once(subject, offset, request.max_bytes, is_final=is_final)
        if not request.times:
            self._ahead.note(subject, offset + part.gap + len(part.data), len(part.data))
        return part

    async def _read_once(
        self, subject: str, offset: int, max_bytes: int, *, is_final: bool
    ) -> Part:
        """As `_from_stream`; concurrent readers of the same bytes share one read."""
        key = (subject, offset, max_bytes, is_final)
        others = self._reading.get(key)
        part = await asyncio.shield(others) if others is not None else None
        if part is not None:
            return part
        reading: asyncio.Future[Part | None] = asyncio.get_running_loop().create_future()
        self._reading[key] = reading
        try:
            part = await self._from_stream(subject, offset, max_bytes, is_final=is_final)
            return part
        finally:
            # None: the shared read failed, and each reader tries by itself.
            reading.set_result(part)
            if self._reading.get(key) is reading:
                del self._reading[key]

    async def _read_on(self, subject: str, offset: int, max_bytes: int) -> Part:
        # Missing bytes may still come, whatever the state of the attempt.
        return await self._from_stream(subject, offset, max_bytes, is_final=False)

    async def _from_stream(
        self, subject: str, offset: int, max_bytes: int, *, is_final: bool
    ) -> Part:
        index = self._index(subject)
        at = offset
        for _ in range(_PAGES_MAX):
            found = index.locate(at)
            page = await self._streams.read_from(
                LOGS,
                index.scanned if found is None else found,
                subject,
                batch=_PAGE_MESSAGES,
                max_bytes=max(_PAGE_BYTES, max_bytes),
            )
            decoded = [(message, self._decode(message)) for message in page.messages]
            chunks = [
                Chunk(message.seq, chunk.offset, chunk.data, chunk.skipped, chunk.at)
                for message, chunk in decoded
                if chunk is not None
            ]
            self._runs -= len(index)
            index.add_page(chunks, page.next_seq)
            self._runs += len(index)
            data = splice(chunks, at, max_bytes)
            if data:
                times = times_of(chunks, at, at + len(data))
                return Part(data, complete=False, gap=at - offset, times=times)
            if found is not None:
                self._runs -= len(index)
                index.forget(at, chunks)
                self._runs += len(index)
            elif page.is_last:
                after = index.gap_end(at, is_final=is_final)
                if after is None:
                    return Part(complete=is_final, gap=at - offset)
                at = after
        return Part(gap=at - offset)

    def _decode(self, stored: Stored) -> LogChunk | None:
        """None for an invalid chunk: an agent can publish anything as its own output."""
        try:
            return codec.decode_trusted(LogChunk, stored.data)
        except Refused as error:
            self._plane.telemetry.strays.note(LOGS, stored.seq, stored.subject, error)
            return None

    def _index(self, subject: str) -> ChunkIndex:
        index = self._indexes.pop(subject, None) or ChunkIndex()
        self._indexes[subject] = index
        while len(self._indexes) > 1 and (
            self._runs > _RUNS_MAX or len(self._indexes) > _STREAMS_MAX
        ):
            self._runs -= len(self._indexes.popitem(last=False)[1])
        return index


def _subject(record: CommandRecord, attempt: AttemptRecord, stream: str) -> str:
    return subjects.log(record.group, attempt.agent, record.id, attempt.attempt, stream)


def _attempt(record: CommandRecord, number: int | None) -> AttemptRecord | None:
    """The requested attempt, the newest if none was named, None if there is none yet."""
    if number is None:
        return record.attempts[-1] if record.attempts else None
    for attempt in record.attempts:
        if attempt.attempt == number:
            return attempt
    raise Refused("attempt_unknown", f"command {record.id} has no attempt {number}")
