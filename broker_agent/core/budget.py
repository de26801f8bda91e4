"""Bytes of a task's output that are kept when it exceeds its limit: the first and the last.

A quarter of the limit is for the beginning, the rest for the end. The bytes between are dropped,
and the files keep their offsets. The result depends on the limit and the sizes alone, so that a
restarted agent drops the same bytes again; as sizes grow, a hole never shrinks.
"""

from typing import Final, NamedTuple

HEAD_SHARE: Final = 0.25
Sizes = tuple[int, int]


class Hole(NamedTuple):
    """Bytes from `start` to before `end` of one stream that are not kept."""

    start: int = 0
    end: int = 0

    @property
    def size(self) -> int:
        return self.end - self.start


NO_HOLE: Final = Hole()


def holes(limit_bytes: int, sizes: Sizes) -> tuple[Hole, Hole]:
    """Return the hole of stdout and of stderr; both empty while the sum fits the limit."""
    if sum(sizes) <= limit_bytes:
        return NO_HOLE, NO_HOLE
    head_bytes = int(limit_bytes * HEAD_SHARE)
    heads = _share(head_bytes, sizes)
    wanted = (sizes[0] - heads[0], sizes[1] - heads[1])
    tails = _share(limit_bytes - head_bytes, wanted)
    return (
        Hole(heads[0], sizes[0] - tails[0]),
        Hole(heads[1], sizes[1] - tails[1]),
    )


def hull(first: Hole, second: Hole) -> Hole:
    """Return the smallest hole that contains both."""
    if not first.size or not second.size:
        return first if first.size else second
    return Hole(min(first.start, second.start), max(first.end, second.end))


def _share(budget: int, wanted: Sizes) -> Sizes:
    """Split a budget in halves; the part the first stream does not need goes to the other."""
    half = budget // 2
    first = min(wanted[0], max(half, budget - wanted[1]))
    return first, min(wanted[1], budget - first)
