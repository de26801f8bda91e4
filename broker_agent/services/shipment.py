"""One attempt's output on its way into the log stream: what was sent, what waits, what is dropped.

            sent or on its way      waits behind         newest, first
    0 ├───────────────────────┤ ├─────────────────┤ ├────────────────────▶ size
                                       todo         edge

Up to `edge` everything was taken at least once; what came back, or was passed over for newer bytes
after a loss, is in `todo`. Bytes are read from the file when they are taken, and read again if they
come back: nothing is kept in memory that is not on its way.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from broker_agent.core.budget import NO_HOLE, Hole, Sizes, holes, hull
from broker_agent.core.tasks import Key
from broker_agent.store.folders import TaskFolder

# After a loss so much of the newest output goes ahead of all that came before it.
NEWEST_BYTES: Final = 64 * 1024
# A smaller backlog is sent in order: it is gone before anybody could miss the newest.
BACKLOG_BYTES: Final = 256 * 1024
# The disk is relieved in steps of this size.
PUNCH_BYTES: Final = 1024 * 1024


class Chunk(NamedTuple):
    """skipped: so many bytes before `offset` were dropped for good. older: waited in `todo`."""

    stream: int
    offset: int
    data: bytes
    skipped: int = 0
    older: bool = False


class _Cursor:
    """One stream of it."""

    __slots__ = ("edge", "hole", "punched", "size", "todo")

    def __init__(self) -> None:
        self.edge = 0
        self.size = 0
        self.todo: list[tuple[int, int]] = []
        self.hole: Hole = NO_HOLE
        self.punched: Hole = NO_HOLE

    def give_back(self, start: int, end: int) -> None:
        self.todo = sorted([*self.todo, (start, end)])

    def clip(self) -> bool:
        """Forget what waits in the hole; whether there was anything."""
        start, end = self.hole
        kept = [
            (max(a, low), min(b, high))
            for a, b in self.todo
            for low, high in ((0, start), (end, b))
            if max(a, low) < min(b, high)
        ]
        had = sum(b - a for a, b in self.todo) - sum(b - a for a, b in kept)
        self.todo = kept
        return had > 0


class Shipment:
    """done: `ended` is called once, when all of it is stored or given up."""

    def __init__(self, key: Key, folder: TaskFolder, limit_bytes: int) -> None:
        self.key = key
        self.folder = folder
        self.limit_bytes = limit_bytes
        self.truncated = False
        self.ended: Callable[[], None] | None = None
        self.is_dropped = False
        self.is_ready = False
        self.refused_since: float | None = None
        self.not_before = 0.0
        self.in_flight_bytes = 0
        self._taken = False
        self._can_punch = True
        self._cursors = (_Cursor(), _Cursor())

    @property
    def is_untouched(self) -> bool:
        """Whether nothing of it has ever been sent."""
        return not self._taken

    @property
    def waiting_bytes(self) -> int:
        """What is kept here and not stored there, as seen by the last look."""
        waiting = self.in_flight_bytes
        for cursor in self._cursors:
            waiting += sum(end - start for start, end in cursor.todo)
            waiting += max(0, cursor.size - cursor.edge)
            if cursor.edge < cursor.hole.end:
                waiting -= cursor.hole.end - max(cursor.edge, cursor.hole.start)
        return waiting

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to send, or on its way."""
        return not self.in_flight_bytes and not self.has_bytes()

    def look(self) -> bool:
        """Notice what was printed meanwhile; whether there is anything to send."""
        sizes = self.folder.sizes()
        for cursor, size in zip(self._cursors, sizes, strict=True):
            cursor.size = size
        if sum(sizes) > self.limit_bytes or self.folder.has_lost:
            self._overflow(sizes)
        return self.has_bytes()

    def has_bytes(self) -> bool:
        return any(cursor.todo or self._live(cursor) for cursor in self._cursors)

    def _overflow(self, sizes: Sizes) -> None:
        self.truncated |= self.folder.has_lost
        for stream, (cursor, hole) in enumerate(
            zip(self._cursors, holes(self.limit_bytes, sizes), strict=True)
        ):
            hole = hull(hole, self.folder.lost(stream, sizes[stream]))  # noqa: PLW2901
            if hole == cursor.hole:
                continue
            cursor.hole = hole
            self.truncated |= cursor.clip()
            self._relieve(stream, cursor)

    def _relieve(self, stream: int, cursor: _Cursor) -> None:
        """Give the disk back what is not kept any more."""
        grown = cursor.hole.size - cursor.punched.size
        if grown < PUNCH_BYTES and (self.ended is None or not grown):
            return
        cursor.punched = cursor.hole
        if self._can_punch:
            self._can_punch = self.folder.punch(stream, cursor.hole.start, cursor.hole.end)

    def _live(self, cursor: _Cursor) -> int:
        """How many bytes from `edge` on may be taken, in order."""
        if not cursor.hole.size or cursor.edge >= cursor.hole.end:
            return max(0, cursor.size - cursor.edge) if self._may_go_on(cursor) else 0
        if cursor.edge < cursor.hole.start:
            return cursor.hole.start - cursor.edge
        # Within the hole. Its end moves until the task has ended.
        return 0 if self.ended is None else cursor.size - cursor.hole.end

    def _may_go_on(self, cursor: _Cursor) -> bool:
        return self.ended is not None or not cursor.hole.size

    def prefer_newest(self) -> None:
        """After a loss: what is printed now goes first, what was printed meanwhile follows."""
        if self.ended is not None:
            return
        for cursor in self._cursors:
            if cursor.hole.size or cursor.size - cursor.edge <= BACKLOG_BYTES:
                continue
            newest = cursor.size - NEWEST_BYTES
            cursor.give_back(cursor.edge, newest)
            cursor.edge = newest

    def take(self, most_bytes: int, *, older: bool) -> Chunk | None:
        """The next bytes to send: those that wait behind, or those from the edge on."""
        for stream, cursor in enumerate(self._cursors):
            while True:
                span = (
                    self._take_older(cursor, most_bytes)
                    if older
                    else self._take(cursor, most_bytes)
                )
                if span is None:
                    break
                start, end = span
                data = self.folder.read(stream, end - start, start)
                if not data:
                    continue  # somebody has cut the file short
                if start + len(data) < end:
                    cursor.give_back(start + len(data), end)
                self._taken = True
                self.in_flight_bytes += len(data)
                return Chunk(stream, start, data, self._skipped(cursor, start), older)
        return None

    def _take(self, cursor: _Cursor, most_bytes: int) -> tuple[int, int] | None:
        size = min(self._live(cursor), most_bytes)
        if size <= 0:
            return None
        if cursor.hole.start <= cursor.edge < cursor.hole.end:
            self.truncated = True
            cursor.edge = cursor.hole.end
        start = cursor.edge
        cursor.edge = start + size
        return start, cursor.edge

    @staticmethod
    def _take_older(cursor: _Cursor, most_bytes: int) -> tuple[int, int] | None:
        if not cursor.todo:
            return None
        start, end = cursor.todo.pop(0)
        if end - start > most_bytes:
            cursor.todo.insert(0, (start + most_bytes, end))
            end = start + most_bytes
        return start, end

    @staticmethod
    def _skipped(cursor: _Cursor, start: int) -> int:
        return cursor.hole.size if cursor.hole.size and start == cursor.hole.end else 0

    def on_stored(self, chunk: Chunk) -> None:
        self.in_flight_bytes -= len(chunk.data)
        self.refused_since = None

    def on_failed(self, chunk: Chunk) -> None:
        """It did not arrive, or that is not known: it is sent again."""
        self.in_flight_bytes -= len(chunk.data)
        cursor = self._cursors[chunk.stream]
        cursor.give_back(chunk.offset, chunk.offset + len(chunk.data))
        if cursor.hole.size:
            self.truncated |= cursor.clip()

    def give_up(self) -> None:
        """The stream does not take it: what is left stays here."""
        self.truncated = True
        for cursor in self._cursors:
            cursor.todo.clear()
            cursor.edge = cursor.size
