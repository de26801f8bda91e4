"""Decides which broker keys are shut out for a flood, by the broker's own counters.

    counters of connections ─▶ an allowance for each key ─overdrawn─▶ shut out ─▶ let in again
                                                            10 s, 20 s, 40 s … 10 min

An allowance is far above the protocol's needs. A key that overdraws it is cut off, not slowed down,
since reading and dropping its messages takes the time of all others. The allowance belongs to a
broker key, not to a name: a flood over an old token shuts out that token alone.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

# A node's id, which is new with each of its starts, and the number of a connection there.
Place = tuple[str, int]

# Allowance: so many seconds of both limits at once, since messages queued in an outage are no
# flood.
_BURST_S: Final = 2.0
_FIRST_S: Final = 10.0
_MOST_S: Final = 600.0
# After so much time below the limits the next exclusion has the shortest time again.
_FORGIVEN_S: Final = 600.0
_NO_LIMIT: Final = 1e18
# Keys in memory with their exclusions; beyond these each exclusion counts as the first.
_KEPT_MAX: Final = 10_000


class Sent(NamedTuple):
    """Total sent by a connection of `user`, a public broker key.

    user: empty for keys that are never shut out, or not known yet. size: in bytes that count.
    """

    user: str
    messages: int
    size: int


class Flood(msgspec.Struct, frozen=True):
    """Amounts that a key has sent since the look before. for_s: its exclusion, in seconds."""

    user: str
    messages_per_s: float
    bytes_per_s: float
    for_s: float


class _Record(msgspec.Struct):
    """until_s: end of the exclusion. times: number of exclusions so far."""

    until_s: float
    times: int


class Floods:
    """messages_per_s, bytes_per_s: rate limit of one key in the long run; 0 for no limit."""

    def __init__(self, *, messages_per_s: float, bytes_per_s: float) -> None:
        self._per_s = (messages_per_s or _NO_LIMIT, bytes_per_s or _NO_LIMIT)
        self._before: dict[Place, Sent] = {}
        self._nodes: set[str] = set()
        # Remaining allowance of each key that has used some of it, in messages and bytes.
        self._left: dict[str, tuple[float, float]] = {}
        self._records: dict[str, _Record] = {}
        self._looked_s = 0.0

    def look(self, sent: Mapping[Place, Sent], now_s: float) -> list[Flood]:
        """Take in the total of each live connection; return the keys to be shut out."""
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

        A node that missed the last look, or is new, has counted for longer.
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
        """Whether the remaining allowance covers the amounts of this span."""
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
        """The keys that are shut out now. Those below their limits for long are forgotten."""
        self._records = {
            user: each for user, each in self._records.items() if each.until_s + _FORGIVEN_S > now_s
        }
        return {user for user, each in self._records.items() if now_s < each.until_s}
