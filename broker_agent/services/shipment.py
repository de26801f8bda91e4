"""Output of one attempt on its way into the log stream: sent, waiting and dropped spans.

            sent or under way       waits behind         newest, first
    0 ├───────────────────────┤ ├─────────────────┤ ├────────────────────▶ size
                                       todo         edge

All bytes up to `edge` were taken at least once. `todo` holds the spans to send again, and those
skipped for newer bytes after a loss. Bytes are read from the file when they are taken, so memory
holds only bytes under way.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from broker_agent.core.budget import NO_HOLE, Hole, Sizes, holes, hull
from broker_agent.core.tasks import AttemptKey
from broker_agent.store.folders import TaskFolder

# Size of the newest output that is sent first after a loss.
NEWEST_BYTES: Final = 64 * 1024
# Smallest backlog for which the newest output goes first; a smaller one is sent in order.
BACKLOG_BYTES: Final = 256 * 1024
# Step in which disk space is freed.
PUNCH_BYTES: Final = 1024 * 1024


class Chunk(NamedTuple):
    """Bytes to send. skipped: number of bytes dropped before `offset`. older: was in `todo`."""

    stream: int
    offset: int
    data: bytes
    skipped: int = 0
    older: bool = False


class _Cursor:
    """State of one stream, stdout or stderr."""

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
        """Remove the spans of `todo` that lie in the hole; True if there were any."""
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
    """Output of one attempt. done: calls `ended` once, when all bytes are stored or given up."""

    def __init__(self, key: AttemptKey, folder: TaskFolder, limit_bytes: int) -> None:
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
        """Whether no byte of it was ever sent."""
        return not self._taken

    @property
    def waiting_bytes(self) -> int:
        """Bytes that are kept here and not yet stored, by the last look."""
        waiting = self.in_flight_bytes
        for cursor in self._cursors:
            waiting += sum(end - start for start, end in cursor.todo)
            waiting += max(0, cursor.size - cursor.edge)
            if cursor.edge < cursor.hole.end:
                waiting -= cursor.hole.end - max(cursor.edge, cursor.hole.start)
        return waiting

    @property
    def is_finished(self) -> bool:
        """Whether no bytes are left to send or under way."""
        return not self.in_flight_bytes and not self.has_bytes()

    def look(self) -> bool:
        """Read the sizes of the files; True if there are bytes to send."""
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
        """Free the disk space of bytes that are no longer kept."""
        grown = cursor.hole.size - cursor.punched.size
        if grown < PUNCH_BYTES and (self.ended is None or not grown):
            return
        cursor.punched = cursor.hole
        if self._can_punch:
            self._can_punch = self.folder.punch(stream, cursor.hole.start, cursor.hole.end)

    def _live(self, cursor: _Cursor) -> int:
        """Number of bytes from `edge` on that may be taken, in order."""
        if not cursor.hole.size or cursor.edge >= cursor.hole.end:
            return max(0, cursor.size - cursor.edge) if self._may_go_on(cursor) else 0
        if cursor.edge < cursor.hole.start:
            return cursor.hole.start - cursor.edge
        # Within the hole, whose end moves until the task has ended.
        return 0 if self.ended is None else cursor.size - cursor.hole.end

    def _may_go_on(self, cursor: _Cursor) -> bool:
        return self.ended is not None or not cursor.hole.size

    def prefer_newest(self) -> None:
        """Send the newest bytes first after a loss, then the backlog."""
        if self.ended is not None:
            return
        for cursor in self._cursors:
            if cursor.hole.size or cursor.size - cursor.edge <= BACKLOG_BYTES:
                continue
            newest = cursor.size - NEWEST_BYTES
            cursor.give_back(cursor.edge, newest)
            cursor.edge = newest

    def take(self, most_bytes: int, *, older: bool) -> Chunk | None:
        """Take the next bytes to send, of `todo` (older) or from `edge` on."""
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
                    continue  # the file was truncated
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
        """Put a chunk back that is not known to be stored, to be sent again."""
        self.in_flight_bytes -= len(chunk.data)
        cursor = self._cursors[chunk.stream]
        cursor.give_back(chunk.offset, chunk.offset + len(chunk.data))
        if cursor.hole.size:
            self.truncated |= cursor.clip()

    def give_up(self) -> None:
        """Stop sending, since the stream refuses it: the rest stays here."""
        self.truncated = True
        for cursor in self._cursors:
            cursor.todo.clear()
            cursor.edge = cursor.size
