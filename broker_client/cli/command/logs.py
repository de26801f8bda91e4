"""`mesh command logs`: output as printed, or by lines: the last ones, or since a moment."""

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

from cyclopts import Parameter

from broker_client.cli.options import SHARED, Shared, check_positive
from broker_client.cli.run.waits import goes_on
from broker_client.cli.screen.report import output_json, print_json
from broker_client.cli.screen.sinks import Memory, Screen, Sink, Writer
from broker_client.cli.session import call
from broker_client.cli.spans import check_moment, moment_of
from schemas.faults import Refused
from schemas.moments import parse_rfc3339

if TYPE_CHECKING:
    from broker_client.api import MeshClient
    from broker_client.output import OutputPart

# Bytes of a line; a longer one is shown in pieces.
LINE_BYTES: Final = 256 * 1024
# Bytes of each stream that `--tail` keeps.
TAIL_BYTES: Final = 32 * 1024 * 1024


def logs(
    id: Annotated[str, Parameter(help="Id of the command.")],
    /,
    *,
    follow: Annotated[
        bool, Parameter(negative="", help="Go on until the command has ended.")
    ] = False,
    tail: Annotated[
        int | None,
        Parameter(help="Only the last so many lines of each stream.", validator=check_positive),
    ] = None,
    since: Annotated[
        str | None,
        Parameter(
            help="Only what was printed since: 90 (seconds), 10m, 2h, a date.",
            validator=check_moment,
        ),
    ] = None,
    timestamps: Annotated[
        bool, Parameter(negative="", help="Show in UTC when each line was printed.")
    ] = False,
    attempt: Annotated[
        int | None, Parameter(help="One attempt by its number; the newest without this.")
    ] = None,
    raw: Annotated[
        bool, Parameter(negative="", help="Let output steer this terminal: trusted programs only.")
    ] = False,
    shared: Shared = SHARED,
) -> None:
    """Write a command's output as it was printed, stdout and stderr apart."""
    memory = Memory() if shared.output == "json" else None
    sink = memory or Screen(is_raw=raw)
    times = since is not None or timestamps
    writer: Writer = Writer(sink)
    if times or tail is not None:
        since_s = None if since is None else moment_of(since)
        writer = LineWriter(sink, tail=tail, since_s=since_s, is_stamped=timestamps)

    async def read(mesh: "MeshClient") -> None:
        if follow:
            mesh.notices.goes_on = goes_on(id)
        rest = mesh.logs(id, attempt=attempt, follow=follow, times=times)
        if follow and tail is not None:
            # The present output first, to find its last lines.
            async for part in mesh.logs(id, attempt=attempt, times=times):
                await writer.write(part)
                rest.go_on_behind(part)
            await writer.flush(is_last=False)
        try:
            async for part in rest:
                await writer.write(part)
        finally:
            await rest.aclose()
        await writer.flush(is_last=True)

    call(shared, read)
    if memory is not None:
        print_json(output_json(memory.output()))


class Line(NamedTuple):
    """A line of output. at: time of its first byte, RFC 3339; empty if unknown."""

    data: bytes
    at: str


class _Tail:
    """Last lines of a stream: at most `most`, and at most `TAIL_BYTES`."""

    def __init__(self, most: int) -> None:
        self.lines = deque[Line]()
        self._most = most
        self._bytes = 0

    def add(self, line: Line) -> None:
        self.lines.append(line)
        self._bytes += len(line.data)
        while len(self.lines) > self._most or self._bytes > TAIL_BYTES:
            self._bytes -= len(self.lines.popleft().data)


class LineWriter(Writer):
    """Writes whole lines: the last `tail` of each stream, or lines since a moment, with times.

    since_s: unix time. Raises Refused (`filter_unsupported`) if the master does not report times.
    """

    def __init__(
        self, sink: Sink, *, tail: int | None, since_s: float | None, is_stamped: bool
    ) -> None:
        super().__init__(sink)
        self._since_s = since_s
        self._is_stamped = is_stamped
        self._begun: dict[str, Line] = {}
        self._tail = tail
        # Last lines by stream, until all present output is read.
        self._held: dict[str, _Tail] = {}
        self._is_holding = tail is not None

    async def put(self, part: "OutputPart") -> None:
        for data, at in self._pieces(part):
            for line in self._lines(part.stream, data, at):
                await self._hand_on(part.stream, line)

    async def flush(self, *, is_last: bool) -> None:
        """Write the held lines; later ones are written as they come. is_last: nothing follows."""
        if is_last:
            for stream, line in [*self._begun.items()]:
                await self._hand_on(stream, line)
            self._begun.clear()
        self._is_holding = False
        for stream, held in self._held.items():
            for line in held.lines:
                await self.show(stream, line)
        self._held.clear()

    async def begin_attempt(self) -> None:
        """Write the unfinished line of the earlier attempt."""
        for stream, line in [*self._begun.items()]:
            await self._hand_on(stream, line)
        self._begun.clear()

    def _pieces(self, part: "OutputPart") -> Iterator[tuple[bytes, str]]:
        """Yield the bytes of a part in pieces, each with the time at which it was printed."""
        if not (self._is_stamped or self._since_s is not None):
            yield part.data, ""
            return
        if part.data and (not part.marks or part.marks[0].offset > part.offset):
            raise Refused("filter_unsupported", "the master does not say when output was printed")
        ends = [mark.offset for mark in part.marks[1:]] + [part.offset + len(part.data)]
        for mark, end in zip(part.marks, ends, strict=True):
            yield part.data[mark.offset - part.offset : end - part.offset], mark.at

    def _lines(self, stream: str, data: bytes, at: str) -> Iterator[Line]:
        before = self._begun.pop(stream, Line(b"", at))
        whole, start, began = before.data + data, 0, before.at
        while start < len(whole):
            end = whole.find(b"\n", start, start + LINE_BYTES) + 1
            if not end and len(whole) - start < LINE_BYTES:
                self._begun[stream] = Line(whole[start:], began)
                return
            end = end or start + LINE_BYTES
            yield Line(whole[start:end], began)
            start, began = end, at

    async def _hand_on(self, stream: str, line: Line) -> None:
        if self._since_s is not None and parse_rfc3339(line.at) < self._since_s:
            return
        if not self._is_holding:
            await self.show(stream, line)
            return
        self._held.setdefault(stream, _Tail(self._tail or 0)).add(line)

    async def show(self, stream: str, line: Line) -> None:
        stamp = f"{line.at} ".encode() if self._is_stamped else b""
        await self.sink.write(stream, stamp + line.data)
