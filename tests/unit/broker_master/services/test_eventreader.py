"""Readers of events: they wait, are woken, have shares, and see what their groups let them see."""

import asyncio

import pytest

from broker_master.plane import Plane
from broker_master.services import eventreader
from broker_master.services.eventreader import EventReader, certificate_events
from schemas.faults import Refused
from schemas.messages.api import EventList, EventsAnswer
from schemas.messages.audit import AuditEntry
from schemas.messages.registry import ClientEntry
from tests.fake_clock import FakeClock
from tests.planes import add_agent, add_client, add_group, connect, make_plane
from tests.waiting import PATIENCE_S, soon

LONG = EventList(wait_s=30.0)


@pytest.fixture
def plane() -> Plane:
    made = make_plane(FakeClock())
    add_group(made, "web")
    return made


@pytest.fixture
def ann(plane: Plane) -> ClientEntry:
    return add_client(plane, "ann", role="viewer")


def told(plane: Plane, name: str, group: str = "web") -> None:
    plane.telemetry.eventlog.add("command", name, group, "failed", at=plane.clock.now())


async def waiting(
    reader: EventReader, caller: ClientEntry, request: EventList = LONG
) -> "asyncio.Task[EventsAnswer]":
    """A request that waits already."""
    before = len(reader._waiting)
    task = asyncio.create_task(reader.read(caller, request))
    await soon(lambda: len(reader._waiting) > before)
    return task


async def test_status_change_is_an_event_with_reason(plane: Plane, ann: ClientEntry) -> None:
    entry = add_agent(plane, "web-1", "web")
    connect(plane, "web-1")
    plane.judge(entry)
    presence = plane.roster.get("web-1")
    assert presence is not None
    presence.deaf = True
    plane.judge(entry)
    (event,) = (await EventReader(plane).read(ann, EventList())).events
    assert (event.kind, event.name, event.group) == ("agent", "web-1", "web")
    assert (event.was, event.what, event.cause) == ("active", "no_response", "deaf")
    assert event.detail == "cannot hear the master"


async def test_waiting_reader_gets_the_next_event_that_matches(
    plane: Plane, ann: ClientEntry
) -> None:
    reader = EventReader(plane)
    task = await waiting(reader, ann, EventList(filter="name:second", wait_s=30.0))
    told(plane, "first")
    await soon(lambda: not reader._is_waking)
    assert not task.done()
    told(plane, "second")
    answer = await asyncio.wait_for(task, PATIENCE_S)
    assert [event.name for event in answer.events] == ["second"]
    again = await reader.read(ann, EventList(cursor=answer.cursor))
    assert again.events == []


async def test_first_answer_of_a_follower_is_a_cursor_at_once(
    plane: Plane, ann: ClientEntry
) -> None:
    told(plane, "before")
    reader = EventReader(plane)
    first = await asyncio.wait_for(reader.read(ann, EventList(from_now=True, wait_s=30.0)), 60)
    assert first.events == []
    told(plane, "after")
    found = await reader.read(ann, EventList(cursor=first.cursor))
    assert [event.name for event in found.events] == ["after"]


async def test_gap_is_returned_at_once_whatever_the_filter(plane: Plane, ann: ClientEntry) -> None:
    request = EventList(cursor="0.5", filter="name:nothing", wait_s=30.0)
    answer = await asyncio.wait_for(EventReader(plane).read(ann, request), PATIENCE_S)
    assert [(event.kind, event.what) for event in answer.events] == [("gap", "restarted")]


async def test_sec_s31_waiting_reader_is_not_shown_other_groups(plane: Plane) -> None:
    bob = add_client(plane, "bob", "db", role="viewer")
    reader = EventReader(plane)
    task = await waiting(reader, bob)
    for group in ("web", "", "db"):
        told(plane, f"of-{group}", group)
    answer = await asyncio.wait_for(task, PATIENCE_S)
    assert [event.name for event in answer.events] == ["of-db"]


async def test_sec_s31_client_that_is_revoked_while_it_waits_gets_no_answer(
    plane: Plane, ann: ClientEntry
) -> None:
    task = await waiting(EventReader(plane), ann)
    add_client(plane, "ann", role="viewer")
    plane.registry.clients["ann"] = ClientEntry(
        name="ann", role="viewer", created_at=1.0, revoked=True
    )
    told(plane, "secret")
    with pytest.raises(Refused) as refused:
        await asyncio.wait_for(task, PATIENCE_S)
    assert refused.value.code == "client_disabled"


async def test_waits_of_one_client_take_nothing_from_others(plane: Plane, ann: ClientEntry) -> None:
    reader = EventReader(plane)
    held = [await waiting(reader, ann) for _ in range(eventreader.WAITS_PER_CLIENT)]
    with pytest.raises(Refused) as refused:
        await reader.read(ann, LONG)
    assert refused.value.code == "rate_limited"
    assert (await reader.read(ann, EventList())).events == []
    held.append(await waiting(reader, add_client(plane, "bob", role="viewer")))
    told(plane, "x")
    answers = await asyncio.wait_for(asyncio.gather(*held), PATIENCE_S)
    assert all(len(answer.events) == 1 for answer in answers)
    assert not reader._waiting
    assert not reader._waits


@pytest.mark.parametrize(
    ("action", "result", "what"),
    [
        ("agent.confirm", "done", "renewed"),
        ("agent.renew", "refused", "refused"),
        ("agent.revoke", "done", "revoked"),
        ("agent.revoke", "unchanged", None),
        ("agent.enable", "done", None),
    ],
)
async def test_acts_on_certificates_are_events(
    plane: Plane, ann: ClientEntry, action: str, result: str, what: str | None
) -> None:
    entry = AuditEntry(at=5.0, by="x", action=action, target="web-1", group="web", result=result)  # type: ignore[arg-type]  # a parameter
    certificate_events(plane)(entry)
    found = (await EventReader(plane).read(ann, EventList())).events
    assert [event.what for event in found] == ([what] if what else [])
