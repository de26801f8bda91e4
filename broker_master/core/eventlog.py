"""Recent events in bounded memory, for readers that go on from a cursor.

Each kind of event of each group has a ring of its own, with an equal share of the memory: a flood
of commands, or of one group, pushes out nothing else. A reader learns truthfully whether events
that it may see were pushed out before it read them, or belong to an earlier master.
"""

import re
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import Final, Literal, NamedTuple

import msgspec

from broker_client.runtime.signals import Signal
from schemas.faults import Refused
from schemas.filters import Word, holds

Kind = Literal["agent", "group", "connection", "command", "certificate"]

# Events that all rings keep at least, once they are full; they hold up to twice as many.
TOTAL: Final = 20_000
RING_MOST: Final = 5_000
RING_LEAST: Final = 20
RINGS: Final = 1_000
# Events read at most by one call of `read`.
SCAN: Final = 500
_CURSOR: Final = re.compile(r"([0-9]{1,15})\.([0-9]{1,15})")
_sequence: Final = attrgetter("seq")


class MeshEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event; the fields are those of `EventRecord`, `at` is unix time."""

    seq: int
    at: float
    kind: Kind
    name: str
    group: str
    what: str
    was: str = ""
    agent: str = ""
    client: str = ""
    cause: str = ""
    detail: str = ""


class Gap(NamedTuple):
    """Why events may be missing, and the unix time after which none is."""

    what: Literal["restarted", "overflowed"]
    at: float


class Part(NamedTuple):
    """Events that match, and the sequence to go on from; is_end: there is none after it yet."""

    events: list[MeshEvent]
    next: int
    is_end: bool


class EventFilter(NamedTuple):
    """Events that a reader asks for and may see.

    may_see: whether the reader may see events of a group. since: unix time.
    """

    words: Sequence[Word]
    may_see: Callable[[str], bool]
    since: float = 0.0


class _Ring:
    """Events of one kind and one group.

    lost_seq, lost_at: of the newest event that was pushed out; 0 for none.
    """

    __slots__ = ("events", "lost_at", "lost_seq")

    def __init__(self) -> None:
        self.events: list[MeshEvent] = []
        self.lost_seq = 0
        self.lost_at = 0.0

    def trim(self, share: int) -> None:
        surplus = len(self.events) - share
        if surplus > 0:
            newest = self.events[surplus - 1]
            self.lost_seq, self.lost_at = newest.seq, newest.at
            del self.events[:surplus]


class EventLog:
    """Recent events of this master, in rings of bounded size.

    epoch: of this master. began_at: unix time of its first possible event. on_added: called after
    each new event.
    """

    def __init__(self, epoch: int, began_at: float) -> None:
        self._epoch = epoch
        self._began_at = began_at
        self._rings: OrderedDict[tuple[str, Kind], _Ring] = OrderedDict()
        self._forgotten = _Ring()
        self._share = RING_MOST
        self.next = 1
        self.on_added: Signal[[]] = Signal()

    def __len__(self) -> int:
        return sum(len(ring.events) for ring in self._rings.values())

    def add(  # noqa: PLR0913  (the fields of an event)
        self,
        kind: Kind,
        name: str,
        group: str,
        what: str,
        *,
        at: float,
        was: str = "",
        agent: str = "",
        client: str = "",
        cause: str = "",
        detail: str = "",
    ) -> None:
        """Note that `name`, which is of `group` or of the whole mesh (""), is now `what`."""
        event = MeshEvent(
            seq=self.next,
            at=at,
            kind=kind,
            name=name,
            group=group,
            what=what,
            was=was,
            agent=agent,
            client=client,
            cause=cause,
            detail=detail,
        )
        self.next += 1
        ring = self._rings.get((group, kind)) or self._open(group, kind)
        self._rings.move_to_end((group, kind))
        ring.events.append(event)
        if len(ring.events) >= 2 * self._share:
            ring.trim(self._share)
        self.on_added()

    def _open(self, group: str, kind: Kind) -> _Ring:
        """A new ring; the one without events for longest makes room if there are too many."""
        ring = self._rings[group, kind] = _Ring()
        if len(self._rings) > RINGS:
            _, oldest = self._rings.popitem(last=False)
            oldest.trim(0)
            if oldest.lost_seq > self._forgotten.lost_seq:
                self._forgotten = oldest
            return ring
        self._share = max(RING_LEAST, min(RING_MOST, TOTAL // len(self._rings)))
        for each in self._rings.values():
            if len(each.events) >= 2 * self._share:
                each.trim(self._share)
        return ring

    # -- reading

    def cursor(self, sequence: int) -> str:
        return f"{self._epoch}.{sequence}"

    def start(self, cursor: str | None, wanted: EventFilter) -> tuple[int, Gap | None]:
        """The sequence that a reader goes on from, and the gap before it, if any.

        Raises Refused (`field_invalid`) for a cursor that no master gave.
        """
        if cursor is None:
            return 1, self._gap_since(wanted) if wanted.since else None
        found = _CURSOR.fullmatch(cursor)
        if found is None:
            raise Refused("field_invalid", "cursor: not one of ours")
        epoch, sequence = int(found[1]), int(found[2])
        if epoch != self._epoch:
            return 1, Gap("restarted", self._began_at)
        if sequence > self.next:
            raise Refused("field_invalid", "cursor: not one of ours")
        seen = [*self._rings_of(_with_gaps(wanted), sequence), self._forgotten]
        lost = [ring.lost_at for ring in seen if ring.lost_seq >= sequence]
        return sequence, Gap("overflowed", max(lost)) if lost else None

    def _gap_since(self, wanted: EventFilter) -> Gap | None:
        # What a forgotten ring had may have been of use to anybody.
        seen = [*self._rings_of(_with_gaps(wanted), 1), self._forgotten]
        lost = [ring.lost_at for ring in seen if ring.lost_at >= wanted.since]
        if lost:
            return Gap("overflowed", max(lost))
        return Gap("restarted", self._began_at) if wanted.since < self._began_at else None

    def read(self, start: int, wanted: EventFilter, limit: int) -> Part:
        """At most `limit` matching events from sequence `start` on, of the next `SCAN` events."""
        rows, left = [], 0
        for ring in self._rings_of(wanted, start):
            first = bisect_left(ring.events, start, key=_sequence)
            rows.append(ring.events[first : first + SCAN])
            left += len(ring.events) - first
        found: list[MeshEvent] = []
        for event in islice(merge(*rows, key=_sequence), SCAN):
            left -= 1
            start = event.seq + 1
            if event.at >= wanted.since and _matches(event, wanted.words):
                found.append(event)
                if len(found) == limit:
                    break
        return Part(found, start if left else self.next, not left)

    def _rings_of(self, wanted: EventFilter, start: int) -> list[_Ring]:
        """Rings with events from `start` on that the reader may see and asks for."""
        words = [word for word in wanted.words if word.field in ("group", "kind")]
        found = []
        for (group, kind), ring in reversed(self._rings.items()):
            if ring.events[-1].seq < start:
                break  # those before had their last event even earlier
            if wanted.may_see(group) and holds(words, {"group": group, "kind": kind}.get):
                found.append(ring)
        return found


def _with_gaps(wanted: EventFilter) -> EventFilter:
    """Return the events among which gaps are looked for: of all kinds, if gaps are asked for."""
    kinds = [word for word in wanted.words if word.field == "kind"]
    if not kinds or not holds(kinds, {"kind": "gap"}.get):
        return wanted
    return wanted._replace(words=[word for word in wanted.words if word.field != "kind"])


def _matches(event: MeshEvent, words: Sequence[Word]) -> bool:
    return holds(words, lambda field: _value(event, field))


def _value(event: MeshEvent, field: str) -> str:
    value: str = getattr(event, field)
    return value
