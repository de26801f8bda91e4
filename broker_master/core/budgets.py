"""Rate limits of an agent's messages, applied before any of them is decoded.

    beats    a few per period                  hellos   a few per deadline of a handshake

An agent that follows the protocol stays far below; a flooding one loses only its own messages, and
sends them again.
"""

from collections.abc import Callable, Iterator
from typing import Final, Literal

import msgspec

from broker_client.runtime.rates import TokenBucket
from schemas.timers import Timers

Kind = Literal["beat", "hello", "work", "rest"]

_BEATS: Final = 5.0
_BEATS_BURST: Final = 25.0
_HELLOS: Final = 4.0
_HELLOS_BURST: Final = 12.0
# Unit: a message or a kibibyte, whichever is more.
_WORK_PER_S: Final = 300.0
_WORK_BURST: Final = 1500.0
_UNIT_BYTES: Final = 1024
# An answer, a start and an end with as much output as it may hold.
_WORK_PER_RUN: Final = 48.0
_WORK_MOST: Final = 200_000.0
_REST_PER_S: Final = 2.0
_REST_BURST: Final = 20.0
# So many dropped messages of an agent since the last look are worth an alarm.
_FLOOD: Final = 100


class DroppedMessages(msgspec.Struct, frozen=True):
    """Number of dropped messages of an agent since its last alarm, by kind."""

    agent: str
    dropped: dict[str, int]


class _Budget:
    __slots__ = ("buckets", "heard", "told")

    def __init__(self, timers: Timers) -> None:
        hellos = max(1.0, _HELLOS / timers.handshake_s)
        self.buckets: dict[Kind, TokenBucket] = {
            "beat": TokenBucket(per_s=_BEATS / timers.beat_s, burst=_BEATS_BURST),
            "hello": TokenBucket(per_s=hellos, burst=_HELLOS_BURST),
            "work": TokenBucket(per_s=_WORK_PER_S, burst=_WORK_BURST),
            "rest": TokenBucket(per_s=_REST_PER_S, burst=_REST_BURST),
        }
        self.told: dict[Kind, int] = {}
        self.heard = 0


class Budgets:
    """Message budgets of all agents.

    is_known: whether an agent of that name is registered; all others share one budget.
    """

    def __init__(self, timers: Timers, is_known: Callable[[str], bool]) -> None:
        self._timers = timers
        self._is_known = is_known
        self._budgets: dict[str, _Budget] = {}
        self._strangers = _Budget(timers)

    def __len__(self) -> int:
        return len(self._budgets)

    def take(self, agent: str, kind: Kind, size: int, now_s: float) -> bool:
        """Whether one more message of `size` bytes is within the limit; if so, it is counted."""
        cost = 1.0 if kind != "work" else max(1.0, size / _UNIT_BYTES)
        budget = self._of(agent)
        budget.heard += size
        return budget.buckets[kind].take(now_s, cost)

    def heard(self, agent: str) -> int:
        """Bytes received from an agent so far, dropped ones included, output excluded."""
        budget = self._budgets.get(agent)
        return budget.heard if budget is not None else 0

    def earn(self, agent: str) -> None:
        """Raise an agent's allowance by one transmission: its reports follow."""
        self._of(agent).buckets["work"].add(_WORK_PER_RUN, most=_WORK_MOST)

    def _of(self, agent: str) -> _Budget:
        budget = self._budgets.get(agent)
        if budget is None:
            if not self._is_known(agent):
                return self._strangers
            budget = self._budgets[agent] = _Budget(self._timers)
        return budget

    def dropped(self) -> Iterator[DroppedMessages]:
        """Agents far above their limits since the last call; absent agents are forgotten."""
        for agent, budget in list(self._budgets.items()):
            dropped = {}
            for kind, bucket in budget.buckets.items():
                more = bucket.refused - budget.told.get(kind, 0)
                if more >= _FLOOD:
                    dropped[str(kind)] = more
                    budget.told[kind] = bucket.refused
            if dropped:
                yield DroppedMessages(agent, dropped)
            if not self._is_known(agent):
                del self._budgets[agent]
