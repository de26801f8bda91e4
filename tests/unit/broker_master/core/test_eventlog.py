"""The ring of events: what is kept, who sees it, and that a gap is said truthfully."""

from collections.abc import Callable

import pytest

from broker_master.core import eventlog
from broker_master.core.eventlog import EventFilter, EventLog, Gap
from schemas.faults import Refused
from schemas.listed import EVENTS

BEGAN = 1000.0


def wanted(
    filter: str = "", groups: tuple[str, ...] | None = None, since: float = 0.0
) -> EventFilter:
    def may_see(group: str) -> bool:
        return groups is None or group in groups

    return EventFilter(EVENTS.parse(filter, BEGAN), may_see, since)


def names(log: EventLog, what: EventFilter, start: int = 1, limit: int = 1000) -> list[str]:
    """Of all events from `start` on, read as a reader does."""
    found: list[str] = []
    while True:
        part = log.read(start, what, limit)
        found += [event.name for event in part.events]
        start = part.next
        if part.is_end:
            return found


def filled(log: EventLog, count: int, group: str = "web", kind: eventlog.Kind = "command") -> None:
    for number in range(count):
        log.add(kind, f"{group}-{number}", group, "submitted", at=BEGAN + number)


@pytest.fixture
def log() -> EventLog:
    return EventLog(7, BEGAN)


def test_events_of_all_groups_come_in_order_of_time(log: EventLog) -> None:
    for number in range(30):
        log.add("agent", f"a{number}", ("web", "db", "")[number % 3], "active", at=BEGAN)
    assert names(log, wanted()) == [f"a{number}" for number in range(30)]
    assert names(log, wanted(), start=28) == ["a27", "a28", "a29"]


def test_small_pages_lose_and_repeat_nothing(log: EventLog) -> None:
    filled(log, eventlog.SCAN + 50, "web")
    filled(log, eventlog.SCAN + 50, "db")
    whole = names(log, wanted())
    assert len(whole) == len(set(whole)) == 2 * (eventlog.SCAN + 50)
    assert names(log, wanted(), limit=7) == whole


def test_filter_that_matches_late_reads_on(log: EventLog) -> None:
    filled(log, 3 * eventlog.SCAN)
    log.add("command", "last", "web", "failed", at=BEGAN)
    part = log.read(1, wanted("what:failed"), 10)
    assert (part.events, part.is_end) == ([], False)
    assert names(log, wanted("what:failed")) == ["last"]


@pytest.mark.parametrize(
    ("groups", "seen"), [(None, ["w", "d", "m"]), (("web",), ["w"]), (("other",), [])]
)
def test_only_events_of_own_groups_are_read(
    log: EventLog, groups: tuple[str, ...] | None, seen: list[str]
) -> None:
    for name, group in (("w", "web"), ("d", "db"), ("m", "")):
        log.add("certificate", name, group, "renewed", at=BEGAN)
    assert names(log, wanted(groups=groups)) == seen


def test_flood_of_commands_pushes_out_no_other_kind_and_no_other_group(log: EventLog) -> None:
    log.add("agent", "web-1", "web", "no_response", at=BEGAN)
    log.add("command", "c1", "db", "failed", at=BEGAN)
    filled(log, 3 * eventlog.TOTAL)
    assert names(log, wanted("!kind:command")) == ["web-1"]
    assert names(log, wanted("group:db")) == ["c1"]
    assert len(log) <= 2 * eventlog.TOTAL


def test_memory_is_bounded_whatever_the_number_of_groups(log: EventLog) -> None:
    filled(log, 2 * eventlog.RING_MOST - 1, "first")
    for number in range(2 * eventlog.RINGS):
        filled(log, 2 * eventlog.RING_LEAST, f"g{number}")
    assert len(log) <= 2 * max(eventlog.TOTAL, eventlog.RINGS * eventlog.RING_LEAST)


def test_reader_that_keeps_up_has_no_gap(log: EventLog) -> None:
    start = log.next
    for _ in range(10):
        filled(log, eventlog.RING_MOST // 2)
        position, gap = log.start(log.cursor(start), wanted())
        assert (position, gap) == (start, None)
        assert len(names(log, wanted(), start=start)) == eventlog.RING_MOST // 2
        start = log.next


def overflowed(log: EventLog) -> str:
    """A cursor behind which events of commands in `web` were pushed out."""
    cursor = log.cursor(log.next)
    filled(log, 2 * eventlog.RING_MOST + 1)
    return cursor


def test_overflow_is_a_gap_up_to_the_last_lost_event(log: EventLog) -> None:
    cursor = overflowed(log)
    start, gap = log.start(cursor, wanted())
    assert gap is not None
    first = log.read(start, wanted(), 1).events[0]
    assert gap == Gap("overflowed", first.at - 1.0)
    assert log.start(log.cursor(first.seq), wanted())[1] is None


def test_filter_for_gaps_finds_those_of_every_kind_in_its_groups(log: EventLog) -> None:
    cursor = overflowed(log)
    assert log.start(cursor, wanted("kind:gap"))[1] == log.start(cursor, wanted())[1]
    assert log.start(cursor, wanted("kind:agent,gap"))[1] is not None
    assert log.start(cursor, wanted("kind:gap group:db"))[1] is None
    assert names(log, wanted("kind:gap")) == []


@pytest.mark.parametrize(
    "other", [wanted("kind:agent"), wanted("group:db"), wanted(groups=("db",))]
)
def test_overflow_is_no_gap_for_who_wants_or_sees_none_of_it(
    log: EventLog, other: EventFilter
) -> None:
    cursor = overflowed(log)
    assert log.start(cursor, other)[1] is None


def test_ring_that_makes_room_is_a_gap_for_its_reader(log: EventLog) -> None:
    log.add("agent", "old-1", "old", "active", at=BEGAN + 1)
    cursor = log.cursor(1)
    assert log.start(cursor, wanted("group:old"))[1] is None
    for number in range(eventlog.RINGS):
        filled(log, 1, f"g{number}")
    assert log.start(cursor, wanted("group:old"))[1] == Gap("overflowed", BEGAN + 1)


def test_cursor_of_an_earlier_master_is_a_gap_and_reads_all_of_this_one(log: EventLog) -> None:
    filled(log, 3)
    start, gap = log.start(EventLog(6, 0.0).cursor(900), wanted())
    assert (start, gap) == (1, Gap("restarted", BEGAN))
    assert len(names(log, wanted(), start=start)) == 3


@pytest.mark.parametrize(
    ("since", "spoil", "gap"),
    [
        (BEGAN + 1, lambda _log: None, None),
        (BEGAN - 1, lambda _log: None, Gap("restarted", BEGAN)),
        (BEGAN + 1, lambda log: filled(log, 2 * eventlog.RING_MOST), "overflowed"),
    ],
)
def test_since_before_what_is_kept_is_a_gap(
    log: EventLog, since: float, spoil: Callable[[EventLog], None], gap: Gap | str | None
) -> None:
    spoil(log)
    found = log.start(None, wanted(since=since))[1]
    assert (found.what if isinstance(gap, str) and found else found) == gap
    assert log.start(None, wanted())[1] is None


def test_since_leaves_out_what_was_before(log: EventLog) -> None:
    filled(log, 5)
    assert names(log, wanted(since=BEGAN + 3)) == ["web-3", "web-4"]


@pytest.mark.parametrize(
    "cursor", ["", "7", "7.", "7.x", "7.1.1", "-7.1", "7.99", chr(0x667) + ".1"]
)
def test_cursor_that_no_master_gave_is_refused(log: EventLog, cursor: str) -> None:
    with pytest.raises(Refused) as refused:
        log.start(cursor, wanted())
    assert refused.value.code == "field_invalid"
