"""Which key is shut out for what it sends, by what the broker itself has counted.

    counters of connections ─▶ an allowance for each key ─overdrawn─▶ shut out ─▶ let in again
                                                            10 s, 20 s, 40 s … 10 min

An allowance is far above what the protocol asks for: who overdraws it is not slowed down but cut,
since to read and throw away what it sends takes the time of all others. It belongs to a broker key,
not to a name: a flood over an old token of somebody else shuts out that token alone.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

# A node's id, which is new with each of its starts, and the number of a connection there.
Place = tuple[str, int]

# Of both limits, so many seconds at once: what waited during an outage is no flood.
_BURST_S: Final = 2.0
_FIRST_S: Final = 10.0
_MOST_S: Final = 600.0
# Good behaviour for so long, and it begins with the shortest time again.
_FORGIVEN_S: Final = 600.0
_NO_LIMIT: Final = 1e18
# Keys that are remembered for what they did; of more than these each time is the first.
_KEPT_MAX: Final = 10_000


class Sent(NamedTuple):
    """What a connection of `user`, a public broker key, has sent so far.

    user: empty for those that are never shut out, or not known yet. size: in bytes; of those that
    are to count.
    """

    user: str
    messages: int
    size: int


class Flood(msgspec.Struct, frozen=True):
    """Since the look before, a key has sent so much; for_s: how long it is shut out for that."""

    user: str
    messages_per_s: float
    bytes_per_s: float
    for_s: float


class _Record(msgspec.Struct):
    """until_s: when it is let in again. times: how often it was shut out."""

    until_s: float
    times: int


class Floods:
    """messages_per_s, bytes_per_s: what one key may send in the long run; 0 for no limit."""

    def __init__(self, *, messages_per_s: float, bytes_per_s: float) -> None:
        self._per_s = (messages_per_s or _NO_LIMIT, bytes_per_s or _NO_LIMIT)
        self._before: dict[Place, Sent] = {}
        self._nodes: set[str] = set()
        # What is left of the allowance of each key that has used some of it, in messages and bytes.
        self._left: dict[str, tuple[float, float]] = {}
        self._records: dict[str, _Record] = {}
        self._looked_s = 0.0

    def look(self, sent: Mapping[Place, Sent], now_s: float) -> list[Flood]:
        """Take in what each live connection has sent, and say who is to be shut out for it."""
        span_s = now_s - self._looked_s
        self._looked_s = now_s
        fresh, found = self._fresh(sent), []
        for user in {*fresh, *self._left}:
            messages, size = fresh.get(user, (0, 0))
            if self._pay(user, span_s, messages, size) or self._is_shut_out(user, now_s):
                continue
            self._left.pop(user, None)
            for_s = self._shut_out(user, now_s)
            found.append(Flood(user, messages / span_s, size / span_s, for_s))
        return found

    def _fresh(self, sent: Mapping[Place, Sent]) -> dict[str, tuple[int, int]]:
        """Messages and bytes of each key since the look before, over all of its connections.

        A node that did not answer the last time, or is asked for the first, has counted for longer.
        """
        fresh: dict[str, tuple[int, int]] = {}
        for place, each in sent.items():
            if place[0] not in self._nodes or not each.user:
                continue
            before = self._before.get(place, Sent("", 0, 0))
            messages, size = fresh.get(each.user, (0, 0))
            fresh[each.user] = (
                messages + each.messages - before.messages,
                size + max(0, each.size - before.size),
            )
        self._before = dict(sent)
        self._nodes = {node for node, _ in sent}
        return fresh

    def _pay(self, user: str, span_s: float, messages: int, size: int) -> bool:
        """Whether there was enough left for so much in so long."""
        most = [_BURST_S * per_s for per_s in self._per_s]
        had = self._left.get(user, most)
        left = [
            min(whole, rest + per_s * span_s - used)
            for whole, rest, per_s, used in zip(
                most, had, self._per_s, (messages, size), strict=True
            )
        ]
        if left == most:
            self._left.pop(user, None)
        else:
            self._left[user] = (left[0], left[1])
        return min(left) >= 0

    def _shut_out(self, user: str, now_s: float) -> float:
        record = self._records.get(user)
        if record is None or record.until_s + _FORGIVEN_S < now_s:
            record = _Record(0.0, 0)
        for_s = min(_MOST_S, _FIRST_S * 2.0**record.times)
        if user in self._records or len(self._records) < _KEPT_MAX:
            self._records[user] = _Record(now_s + for_s, record.times + 1)
        return for_s

    def _is_shut_out(self, user: str, now_s: float) -> bool:
        record = self._records.get(user)
        return record is not None and now_s < record.until_s

    def shut_out(self, now_s: float) -> set[str]:
        """The keys that may not connect now. Those that have long behaved are forgotten."""
        self._records = {
            user: each for user, each in self._records.items() if each.until_s + _FORGIVEN_S > now_s
        }
        return {user for user, each in self._records.items() if now_s < each.until_s}
