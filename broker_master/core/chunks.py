"""Index of the log stream: the sequences at which the bytes of one output stand.

Chunks may come twice, out of order, and long after later ones: after a loss the newest output is
sent first. So a reader remembers where the chunks read so far begin, and which bytes were reported
as dropped.

        run           run                  gap
    ├───────────┤├──────────┤          ├─────────┤├─────▶
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final, NamedTuple

# A run is the result of one read of the stream: consecutive chunks, limited in number and bytes.
RUN_CHUNKS: Final = 32
RUN_BYTES: Final = 96 * 1024


class Chunk(NamedTuple):
    """One message of the log stream. skipped: bytes before `offset` that were dropped permanently.

    at: when it was printed, unix time.
    """

    sequence: int
    offset: int
    data: bytes
    skipped: int = 0
    at: float = 0.0


class _Run:
    """Bytes from `start` to before `end`, to be read from `sequence` on."""

    __slots__ = ("chunks", "end", "sequence", "start")

    def __init__(self, start: int, end: int, sequence: int) -> None:
        self.start = start
        self.end = end
        self.sequence = sequence
        self.chunks = 1


class ChunkIndex:
    """One stream of one attempt. `scanned`: the sequence up to which the index is complete.

    run_chunks: least number of chunks of one read of the stream, if they are small.
    """

    def __init__(self, *, run_chunks: int = RUN_CHUNKS) -> None:
        self._run_chunks = run_chunks
        self.scanned = 1
        self._starts: list[int] = []
        self._runs: list[_Run] = []
        self._gaps: list[tuple[int, int]] = []
        self._newest: _Run | None = None

    def __len__(self) -> int:
        return len(self._runs) + len(self._gaps)

    def add_page(self, chunks: Sequence[Chunk], next_sequence: int) -> None:
        """Enter the chunks of one read, up to before `next_sequence`."""
        for chunk in chunks:
            if chunk.sequence >= self.scanned:
                self._add(chunk)
        self.scanned = max(self.scanned, next_sequence)

    def _add(self, chunk: Chunk) -> None:
        gap = (chunk.offset - chunk.skipped, chunk.offset)
        if chunk.skipped and gap not in self._gaps:
            self._gaps.append(gap)
        end = chunk.offset + len(chunk.data)
        newest = self._newest
        self._newest = None
        if (
            newest is not None
            and chunk.offset == newest.end
            and newest.chunks < self._run_chunks
            and end - newest.start <= RUN_BYTES
            and self._find(chunk.offset) is None
            and self.next_start(chunk.offset) >= end
        ):
            newest.end = end
            newest.chunks += 1
            self._newest = newest
            return
        at = chunk.offset
        while at < end:
            known = self._find(at)
            if known is not None:
                at = known.end
                continue
            stop = min(end, self.next_start(at))
            self._newest = self._insert(_Run(at, stop, chunk.sequence))
            at = stop

    def _insert(self, run: _Run) -> _Run:
        place = bisect_right(self._starts, run.start)
        self._starts.insert(place, run.start)
        self._runs.insert(place, run)
        return run

    def _find(self, offset: int) -> _Run | None:
        place = bisect_right(self._starts, offset) - 1
        if place < 0 or self._runs[place].end <= offset:
            return None
        return self._runs[place]

    def locate(self, offset: int) -> int | None:
        """The sequence from which to read the byte at `offset`; None if it is not known yet."""
        run = self._find(offset)
        return None if run is None else run.sequence

    def forget(self, offset: int, left: Sequence[Chunk]) -> None:
        """Remove the entry at `offset`: the stream has dropped its oldest messages.

        left: chunks of a read from there on.
        """
        place = bisect_right(self._starts, offset) - 1
        if place >= 0:
            del self._starts[place], self._runs[place]
        self._newest = None
        for chunk in left:
            self._add(chunk)
        self._newest = None

    def next_start(self, offset: int) -> int:
        """Offset of the next known bytes behind `offset`; far away if there are none."""
        place = bisect_right(self._starts, offset)
        return self._starts[place] if place < len(self._starts) else 1 << 62

    def gap_end(self, offset: int, *, is_final: bool) -> int | None:
        """Where reading goes on if the byte at `offset` will never come; None if it may.

        is_final: the attempt has ended, so a missing byte was dropped by the stream.
        """
        following = self.next_start(offset)
        for start, end in self._gaps:
            if start <= offset < end:
                return min(end, following)
        return following if is_final and following < 1 << 62 else None


def splice(chunks: Sequence[Chunk], offset: int, max_bytes: int) -> bytes:
    """The bytes from `offset` on that these chunks hold without a gap, at most `max_bytes`."""
    data = bytearray()
    for chunk in sorted(chunks, key=lambda each: each.offset):
        at = offset + len(data)
        if chunk.offset > at or len(data) >= max_bytes:
            break
        data += chunk.data[at - chunk.offset :][: max_bytes - len(data)]
    return bytes(data)


def times_of(chunks: Sequence[Chunk], start: int, end: int) -> tuple[tuple[int, float], ...]:
    """Print times of the bytes from `start` to before `end`: pairs of offset and unix time.

    chunks: as given to `splice`; the first chunk of duplicate bytes counts.
    """
    found: list[tuple[int, float]] = []
    at = start
    for chunk in sorted(chunks, key=lambda each: each.offset):
        chunk_end = chunk.offset + len(chunk.data)
        if chunk.offset <= at < min(chunk_end, end):
            found.append((at, chunk.at))
            at = chunk_end
    return tuple(found)
