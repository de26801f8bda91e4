"""Groups that wait for a writer, and the choice of those that go into its next write."""

from collections import deque

import msgspec

from broker_client.runtime.commits import ENTRY_OVERHEAD_BYTES, Group
from schemas.faults import Refused

# Bytes of a group, above which it counts as heavy; no end of a command with output is so large.
_HEAVY = 64 * 1024


class WriterLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one writer.

    batch_*: of one write. queue_*: of waiting entries; more are refused. answer_s: timeout of one
    write, after which its outcome is unknown. singles: number of messages up to which they are sent
    one by one, which is quicker for few. gather_s, patient_s: longest wait of a write for more
    entries in a steady stream, and while `is_patient`. heavy_bytes: bytes of heavy groups (64 KiB
    and more) in one write, so that they do not delay the others; 0: all groups are stored in the
    order of appending.
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


def largest_of(group: Group) -> int:
    """Bytes of the largest message of a group."""
    return max(len(entry.body) for entry in group.entries)


class _Part:
    """Groups of one write."""

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self.size_bytes = 0
        self._count = 0
        self._taken: dict[str, bool] = {}

    def take(self, group: Group, messages: int, size_bytes: int) -> bool:
        """Take the group if it fits into so many messages and bytes; False if not."""
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
    """Whether a conditional subject would be twice in one batch, which the broker refuses."""
    return any(
        entry.subject in taken and (entry.expected is not None or taken[entry.subject])
        for entry in group.entries
    )


class WriteQueue:
    """Bounded. messages: their number. Heavy groups have a queue of their own."""

    def __init__(self, limits: WriterLimits) -> None:
        self._limits = limits
        self._light: deque[Group] = deque()
        self._heavy: deque[Group] = deque()
        self._size_bytes = 0
        self.messages = 0

    @property
    def is_empty(self) -> bool:
        return not self._light and not self._heavy

    @property
    def is_crowded(self) -> bool:
        """Whether half of the queue is full."""
        limits = self._limits
        return (
            2 * self.messages > limits.queue_messages or 2 * self._size_bytes > limits.queue_bytes
        )

    def rest(self) -> list[Group]:
        return [*self._light, *self._heavy]

    def add(self, group: Group, max_payload: int) -> None:
        """Add a group; raises Refused (`too_large`, `queue_full`)."""
        largest = largest_of(group)
        if largest + ENTRY_OVERHEAD_BYTES > max_payload:
            raise Refused("too_large", f"{group.entries[0].subject}: {largest} bytes")
        count = len(group.entries)
        if (
            self.messages + count > self._limits.queue_messages
            or self._size_bytes + group.size_bytes > self._limits.queue_bytes
        ):
            raise Refused("queue_full", f"{self.messages} messages wait to be stored")
        is_heavy = self._limits.heavy_bytes and group.size_bytes > _HEAVY
        (self._heavy if is_heavy else self._light).append(group)
        self.messages += count
        self._size_bytes += group.size_bytes

    def take(self) -> list[Group]:
        """Return the groups of the next write, in order, without withdrawn ones."""
        part, limits, heavy = _Part(), self._limits, self._heavy
        # Each write takes at least one heavy group; else they would starve in a steady stream.
        self._fill(part, self._light, limits.batch_messages - bool(heavy), limits.batch_bytes)
        if heavy:
            most = part.size_bytes + max(limits.heavy_bytes, heavy[0].size_bytes)
            self._fill(part, heavy, limits.batch_messages, most)
        return part.groups

    def _fill(self, part: _Part, queue: deque[Group], messages: int, size_bytes: int) -> None:
        while queue:
            group = queue[0]
            if not group.future.done() and not part.take(group, messages, size_bytes):
                return
            queue.popleft()
            self.messages -= len(group.entries)
            self._size_bytes -= group.size_bytes
