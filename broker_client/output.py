"""Live output of a command: both streams by offsets, one request ahead of the reader."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from broker_client.asking import Asker
from broker_client.runtime.supervise import TaskSet
from schemas.faults import MeshError
from schemas.messages.api import LogsAnswer, LogsRequest, Mark
from schemas.states import TERMINAL
from schemas.subjects import STDERR, STDOUT
from schemas.verbs import COMMAND_LOGS

# Seconds that the master may hold an answer without new bytes; it allows 30.
HOLD_S: Final = 25.0


class OutputPart(msgspec.Struct, frozen=True):
    """Bytes of one stream (`stdout` or `stderr`) of one attempt, from `offset` on.

    A gap before `offset` is output that was not kept. cut: these bytes (maybe none) are the last
    ones, and a part of the attempt's output was not kept, in a gap or after them. marks: times at
    which they were printed, each from an offset on; empty unless requested.
    """

    attempt: int
    stream: str
    offset: int
    data: bytes
    cut: bool = False
    marks: tuple[Mark, ...] = ()


class Output:
    """The output of one command, read once from start to end with `async for`.

    At most one answer (192 KiB) is held ahead of the one being read. `aclose` ends reading early.
    """

    def __init__(
        self,
        asker: Asker,
        tasks: TaskSet,
        command: str,
        *,
        attempt: int | None,
        follow: bool,
        times: bool = False,
    ) -> None:
        self._asker = asker
        self._tasks = tasks
        self._command = command
        self._wanted = attempt
        self._follow = follow
        self._times = times
        self._attempt = attempt or 0
        self._next = {STDOUT: 0, STDERR: 0}
        self._ahead: asyncio.Task[LogsAnswer | MeshError] | None = None
        self._parts: AsyncIterator[OutputPart] | None = None

    def __aiter__(self) -> AsyncIterator[OutputPart]:
        if self._parts is None:
            self._parts = self._read()
        return self._parts

    def go_on_behind(self, part: OutputPart) -> None:
        """Begin after `part`, the last one that another reader of this command received."""
        self._attempt = part.attempt
        self._next[part.stream] = part.offset + len(part.data)

    async def aclose(self) -> None:
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.wait({self._ahead})
            self._ahead = None

    async def _read(self) -> AsyncIterator[OutputPart]:
        answer = await self._ask(self._wanted)
        while True:
            if self._is_next_attempt(answer):
                for part in await self._rest():
                    yield part
                self._attempt, self._next = answer.attempt, {STDOUT: 0, STDERR: 0}
                answer = await self._ask(self._wanted)
                continue
            self._note(answer)
            # Requested before these bytes are handed out, so that the next ones come meanwhile.
            if self._goes_on(answer):
                self._ahead = self._tasks.spawn(self._ask_quietly())
            for part in _parts(answer):
                yield part
            if self._ahead is None:
                return
            answer = await self._take_ahead(self._ahead)

    def _is_next_attempt(self, answer: LogsAnswer) -> bool:
        """Whether the answer is about a newer attempt than the offsets."""
        return self._wanted is None and 0 < self._attempt < answer.attempt

    def _note(self, answer: LogsAnswer) -> None:
        self._attempt = answer.attempt
        self._next = {STDOUT: answer.stdout_next, STDERR: answer.stderr_next}

    def _goes_on(self, answer: LogsAnswer) -> bool:
        if not self._follow:
            return bool(answer.stdout or answer.stderr or answer.gaps) and not answer.end
        return not answer.end or (self._wanted is None and answer.state not in TERMINAL)

    async def _rest(self) -> list[OutputPart]:
        """Return the last output of an attempt after the next one began: at most one answer."""
        return _parts(await self._ask(self._attempt, wait_s=0.0))

    async def _take_ahead(self, ahead: "asyncio.Task[LogsAnswer | MeshError]") -> LogsAnswer:
        answer = await ahead
        self._ahead = None
        if isinstance(answer, MeshError):
            raise answer
        return answer

    async def _ask_quietly(self) -> LogsAnswer | MeshError:
        """Return a fault as a value, so that the reader alone raises it."""
        try:
            return await self._ask(self._wanted)
        except MeshError as error:
            return error

    async def _ask(self, attempt: int | None, *, wait_s: float = HOLD_S) -> LogsAnswer:
        hold_s = wait_s if self._follow else 0.0
        request = LogsRequest(
            id=self._command,
            attempt=attempt,
            stdout_from=self._next[STDOUT],
            stderr_from=self._next[STDERR],
            wait_s=hold_s,
            times=self._times,
        )
        return await self._asker.ask_until_answered(COMMAND_LOGS, request, wait_s=hold_s)


def _parts(answer: LogsAnswer) -> list[OutputPart]:
    streams = (
        (STDOUT, answer.stdout, answer.stdout_next),
        (STDERR, answer.stderr, answer.stderr_next),
    )
    parts = [
        OutputPart(
            answer.attempt,
            stream,
            end - len(data),
            data,
            marks=tuple(mark for mark in answer.marks if mark.stream == stream),
        )
        for stream, data, end in streams
        if data
    ]
    if answer.end and answer.truncated:
        parts.append(OutputPart(answer.attempt, STDOUT, answer.stdout_next, b"", cut=True))
    return parts
