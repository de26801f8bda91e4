"""Sinks of a task's output: the two streams of this process, or memory for JSON."""

import asyncio
import sys
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from broker_client.cli.screen.report import say
from broker_client.cli.screen.terminal import TerminalText
from schemas.messages.work import Output
from schemas.subjects import STDERR, STDOUT

if TYPE_CHECKING:
    from broker_client.output import OutputPart

# Bytes of output in a record printed as JSON.
JSON_OUTPUT_BYTES: Final = 8 * 1024 * 1024


class Sink(Protocol):
    async def write(self, stream: str, data: bytes) -> None: ...

    def note(self, text: str) -> None:
        """Print a notice about the output."""


class Screen:
    """Writes stdout to stdout and stderr to stderr, escaped on a terminal.

    is_raw: unescaped on a terminal too, which programs can then control.

    A thread writes, so that a blocked reader does not stop the heartbeat to the broker. A closed
    reader raises BrokenPipeError.
    """

    def __init__(
        self,
        *,
        stdout: BinaryIO | None = None,
        stderr: BinaryIO | None = None,
        is_raw: bool = False,
    ) -> None:
        self._files = {
            STDOUT: sys.stdout.buffer if stdout is None else stdout,
            STDERR: sys.stderr.buffer if stderr is None else stderr,
        }
        self._texts = {
            stream: TerminalText()
            for stream, file in self._files.items()
            if file.isatty() and not is_raw
        }

    async def write(self, stream: str, data: bytes) -> None:
        text = self._texts.get(stream)
        shown = data if text is None else text.feed(data).encode()
        await asyncio.to_thread(_write_all, self._files[stream], shown)

    def note(self, text: str) -> None:
        say(text)


class Memory:
    """Keeps the first bytes of both streams, at most `limit_bytes` together."""

    def __init__(self, limit_bytes: int = JSON_OUTPUT_BYTES) -> None:
        self._kept = {STDOUT: bytearray(), STDERR: bytearray()}
        self._room = limit_bytes
        self._is_cut = False

    async def write(self, stream: str, data: bytes) -> None:
        taken = data[: self._room]
        self._kept[stream] += taken
        self._room -= len(taken)
        self._is_cut |= len(taken) < len(data)

    def note(self, text: str) -> None:
        """Drop the notice: gaps and cuts show as `truncated`."""
        self._is_cut = True

    def output(self) -> Output:
        return Output(
            stdout=bytes(self._kept[STDOUT]),
            stderr=bytes(self._kept[STDERR]),
            truncated=self._is_cut,
        )


class Writer:
    """Writes parts of an output to a sink, with notices about gaps."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._attempt = 0
        self._next = {STDOUT: 0, STDERR: 0}

    async def write(self, part: "OutputPart") -> None:
        if part.attempt != self._attempt:
            if self._attempt:
                await self.begin_attempt()
                self.sink.note(f"attempt {part.attempt} begins")
            self._attempt, self._next = part.attempt, {STDOUT: 0, STDERR: 0}
        missing = part.offset - self._next[part.stream]
        if missing > 0:
            self.sink.note(f"{missing} bytes of {part.stream} are missing here")
        self._next[part.stream] = part.offset + len(part.data)
        if part.data:
            await self.put(part)
        if part.cut:
            self.sink.note("the output went beyond its limit: not all of it was kept")

    async def put(self, part: "OutputPart") -> None:
        await self.sink.write(part.stream, part.data)

    async def begin_attempt(self) -> None:
        """Handle the change of attempts; called before the first part of the next one."""

    async def flush(self, *, is_last: bool) -> None:
        """Handle the end of the present output. is_last: nothing will follow."""

    async def write_whole(self, output: Output) -> None:
        """Write the small output in a record."""
        for stream, data in ((STDOUT, output.stdout), (STDERR, output.stderr)):
            if data:
                await self.sink.write(stream, data)


def _write_all(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()
