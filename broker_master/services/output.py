"""Reads what tasks have printed: from the outcome if it is small, else from the log stream.

Chunks name their offsets. They may stand twice in the log stream, or out of order, so a reader
takes what continues its bytes and remembers from where in the stream it has to look on.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from broker_client.runtime.streams import Streams
from broker_master.core.chunks import Assembly
from broker_master.plane import Plane
from broker_master.store.facts import LOGS
from schemas import codec, limits, subjects
from schemas.faults import Refused
from schemas.messages.api import LogsAnswer, LogsRequest
from schemas.messages.facts import AttemptRecord, CommandRecord
from schemas.messages.work import LogChunk
from schemas.moments import rfc3339_or_none
from schemas.states import TERMINAL

LookUp = Callable[[], Awaitable[CommandRecord]]

_POLL_S = 0.05
# One chunk more than an answer holds: what is read beyond that is read again by the next one.
_SPARE_BYTES = limits.CHUNK_BYTES
_PAGE_MESSAGES = 64
# A page may hold chunks that do not continue what was read; this many pages are looked through.
_PAGES_MAX = 64


class _Part(msgspec.Struct, frozen=True):
    """Bytes from an offset on. complete: nothing more of this stream will come."""

    data: bytes = b""
    complete: bool = False


class OutputReader:
    """Keeps no output; remembers, per stream of an attempt, where readers have to look on."""

    _HINTS_MAX = 4096

    def __init__(self, plane: Plane, streams: Streams) -> None:
        self._plane = plane
        self._streams = streams
        self._hints: dict[tuple[str, int], int] = {}

    async def read(self, look_up: LookUp, request: LogsRequest) -> LogsAnswer:
        """What follows the offsets asked for, waiting for new bytes while the attempt runs.

        look_up: gives the record as it stands now, with its output.
        """
        clock = self._plane.clock
        deadline_s = clock.elapsed() + request.wait_s
        while True:
            record = await look_up()
            attempt = _attempt(record, request.attempt)
            answer = await self._read_now(record, attempt, request)
            if answer.end or answer.stdout or answer.stderr or clock.elapsed() >= deadline_s:
                return answer
            await asyncio.sleep(_POLL_S)

    async def last_at(self, record: CommandRecord) -> str | None:
        """When the newest bytes that are stored of the newest attempt were printed."""
        attempt = _attempt(record, None)
        if attempt is None:
            return None
        moments = [0.0]
        for stream in subjects.STREAMS:
            subject = subjects.log(record.group, attempt.agent, record.id, attempt.attempt, stream)
            stored = await self._streams.get_last(LOGS, subject)
            if stored is not None:
                moments.append(codec.decode_trusted(LogChunk, stored.data).at)
        return rfc3339_or_none(max(moments))

    async def _read_now(
        self, record: CommandRecord, attempt: AttemptRecord | None, request: LogsRequest
    ) -> LogsAnswer:
        ended = record.state in TERMINAL
        stdout = await self._part(record, attempt, subjects.STDOUT, request.stdout_from, request)
        room = request.max_bytes - len(stdout.data)
        stderr = _Part()
        if room > 0:
            small = msgspec.structs.replace(request, max_bytes=room)
            stderr = await self._part(record, attempt, subjects.STDERR, request.stderr_from, small)
        return LogsAnswer(
            id=record.id,
            attempt=attempt.attempt if attempt else 0,
            state=record.state,
            stdout=stdout.data,
            stderr=stderr.data,
            stdout_next=request.stdout_from + len(stdout.data),
            stderr_next=request.stderr_from + len(stderr.data),
            end=ended and stdout.complete and stderr.complete,
            truncated=record.truncated,
        )

    async def _part(
        self,
        record: CommandRecord,
        attempt: AttemptRecord | None,
        stream: str,
        offset: int,
        request: LogsRequest,
    ) -> _Part:
        ended = record.state in TERMINAL
        if attempt is None:
            return _Part(complete=ended)
        is_last = attempt is record.attempts[-1]
        if ended and is_last:
            if record.output is not None:
                whole = record.output.stdout if stream == subjects.STDOUT else record.output.stderr
                data = whole[offset : offset + request.max_bytes]
                return _Part(data, offset + len(data) >= len(whole))
            total = record.stdout_bytes if stream == subjects.STDOUT else record.stderr_bytes
            if offset >= total:
                return _Part(complete=True)
        subject = subjects.log(record.group, attempt.agent, record.id, attempt.attempt, stream)
        data = await self._from_stream(subject, offset, request.max_bytes)
        # An attempt that ended without a report of its sizes has what the stream has.
        done = ended and not data
        return _Part(data, done)

    async def _from_stream(self, subject: str, offset: int, max_bytes: int) -> bytes:
        assembly = Assembly(offset, max_bytes)
        start = self._hints.pop((subject, offset), 1)
        position = start
        for _ in range(_PAGES_MAX):
            page = await self._streams.read_from(
                LOGS, position, subject, batch=_PAGE_MESSAGES, max_bytes=max_bytes + _SPARE_BYTES
            )
            for message in page.messages:
                chunk = codec.decode_trusted(LogChunk, message.data)
                assembly.add(message.seq, chunk.offset, chunk.data)
            position = page.next_seq
            if assembly.is_full or page.is_last:
                break
        self._remember(subject, assembly, position)
        return bytes(assembly.data)

    def _remember(self, subject: str, assembly: Assembly, position: int) -> None:
        if len(self._hints) >= self._HINTS_MAX:
            del self._hints[next(iter(self._hints))]
        self._hints[subject, assembly.next] = assembly.resume_at or position


def _attempt(record: CommandRecord, number: int | None) -> AttemptRecord | None:
    """The attempt asked for, the newest if none was named, None if there is none yet."""
    if number is None:
        return record.attempts[-1] if record.attempts else None
    for attempt in record.attempts:
        if attempt.attempt == number:
            return attempt
    raise Refused("attempt_unknown", f"command {record.id} has no attempt {number}")
