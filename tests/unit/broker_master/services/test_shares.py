"""Shares of one client in common resources, and the audit of its refusals and alarms."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from broker_client.runtime.rates import TokenBucket
from broker_master.services import audit
from broker_master.services.audit import Auditor
from broker_master.services.fanout import OPEN_MAX, OPEN_PER_CLIENT, Fanouts
from broker_master.settings import LimitSettings, MasterSettings
from schemas import codec
from schemas.faults import MeshError, Refused
from schemas.messages.actions import ProcessArgs
from schemas.messages.api import SubmitAnswer, SubmitRequest
from schemas.messages.audit import AuditEntry
from schemas.messages.fanouts import FanoutEntry
from schemas.messages.registry import ClientEntry
from schemas.states import State
from tests.planes import add_client
from tests.unit.broker_master.stage import Stage, attempt_of
from tests.unit.broker_master.table import NoHistory

KB = 1024
SHARE = 100 * KB


class Desk:
    """An intake where large arguments of all clients may have four shares, and one agent."""

    def __init__(self) -> None:
        settings = MasterSettings(limits=LimitSettings(open_argument_bytes=4 * SHARE))
        self.stage = Stage("web-1", settings=settings)
        plane = self.stage.plane
        plane.readmodel = cast("Any", NoHistory())
        self.intake = self.stage.intake

    def submit(self, client: str, size: int) -> str:
        """The id of the command; raises what it is refused with."""
        args = msgspec.Raw(codec.encode(ProcessArgs(argv=["cat"], stdin=b"x" * size)))
        request = SubmitRequest(group="web", action="process", args=args)
        answers: list[SubmitAnswer | MeshError] = []
        caller = self._caller(client)
        self.intake.submit(caller, request, answers.append, "nats")
        return next(reversed(self.stage.plane.book._commands))

    def _caller(self, client: str) -> ClientEntry:
        known = self.stage.plane.registry.clients
        return known.get(client) or add_client(self.stage.plane, client)

    def submit_until_refused(self, client: str, size: int) -> tuple[int, str]:
        for count in range(1000):
            try:
                self.submit(client, size)
            except Refused as error:
                return count, str(error)
        raise AssertionError("everything was taken")


async def test_sec_s11_large_arguments_of_one_client_are_a_quarter_of_all() -> None:
    desk = Desk()
    taken, why = desk.submit_until_refused("loud", 20 * KB)
    assert taken == 4
    assert "loud" in why
    assert str(SHARE) in why
    # Small ones are no part of it, and others have shares of their own.
    desk.submit("loud", 100)
    for name in ("ann", "bob", "eve"):
        assert desk.submit_until_refused(name, 20 * KB)[0] == 4
    # Now some 320 KB are held: as many shares as there are, however many more clients come.
    late, why = desk.submit_until_refused("zoe", 20 * KB)
    assert late == 3
    assert str(4 * SHARE) in why
    assert desk.stage.plane.telemetry.counters[("shed", "share")] == 4


async def test_share_comes_back_with_the_end_of_a_command_and_with_a_refusal_to_store() -> None:
    desk = Desk()
    stage = desk.stage
    stage.facts.fault = Refused("store_full", "no room")
    for _ in range(10):
        desk.submit("loud", 60 * KB)
        await stage.rest()
    stage.facts.fault = None
    command = stage.plane.book.get(desk.submit("loud", 60 * KB))
    assert command is not None
    await stage.rest()
    with pytest.raises(Refused, match="share"):
        desk.submit("loud", 60 * KB)
    await stage.report("web-1", command.id, "succeeded", attempt=attempt_of(command).number)
    assert command.state is State.SUCCEEDED
    stage.plane.book.forget(command.id)
    assert not stage.plane.book.heavy
    desk.submit("loud", 60 * KB)


def fanouts_of(stage: Stage) -> Fanouts:
    stage.plane.readmodel = cast("Any", NoHistory())
    return stage.fanouts


def entry(client: str, number: int) -> FanoutEntry:
    return FanoutEntry(
        id=f"{client}-{number}",
        client=client,
        digest=b"d",
        submitted_at=1.0,
        groups=["web"],
        agents=["web-1"],
        command=SubmitRequest(action="noop"),
    )


async def test_sec_s11_running_fanouts_of_one_client_are_a_quarter_of_all() -> None:
    stage = Stage("web-1")
    fanouts = fanouts_of(stage)
    for number in range(OPEN_PER_CLIENT):
        await fanouts.begin(entry("loud", number))
    with pytest.raises(Refused, match="share"):
        await fanouts.begin(entry("loud", OPEN_PER_CLIENT))
    for name in ("ann", "bob", "eve"):
        for number in range(OPEN_PER_CLIENT):
            await fanouts.begin(entry(name, number))
    assert len(fanouts.all_running()) == OPEN_MAX
    with pytest.raises(Refused, match="the limit"):
        await fanouts.begin(entry("zoe", 0))
    await fanouts._tasks.aclose(0)


async def test_fanouts_that_are_being_stored_count() -> None:
    stage = Stage("web-1")
    fanouts = fanouts_of(stage)
    begun = [fanouts.begin(entry("loud", number)) for number in range(OPEN_PER_CLIENT + 20)]
    results = await asyncio.gather(*begun, return_exceptions=True)
    assert sum(isinstance(each, Refused) for each in results) == 20
    await fanouts._tasks.aclose(0)


class Trail:
    """An auditor whose entries are kept here, over a writer that may be told to wait."""

    def __init__(self) -> None:
        self.stage = Stage("web-1", "web-2")
        self.written: list[AuditEntry] = []
        self.holds: asyncio.Event | None = None
        writer, whereabouts = cast("Any", self), cast("Any", _Nowhere())
        self.auditor = Auditor(self.stage.plane, writer, whereabouts)

    def append(self, _subject: str, body: bytes) -> "asyncio.Future[int]":
        self.written.append(codec.decode(AuditEntry, body))
        stored: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self.holds is None:
            stored.set_result(len(self.written))
        return stored

    def alarm(self, agent: str, *, by_master: bool = False) -> None:
        by, actor = ("master", "master") if by_master else (agent, "agent")
        self.stage.plane.note(
            "agent.flood", agent, by=by, actor=cast("Any", actor), result="alarm", detail="loud"
        )

    def of(self, agent: str) -> list[AuditEntry]:
        return [each for each in self.written if each.target == agent]


class _Nowhere:
    def hosts(self, _users: object) -> str:
        return "here"

    def hosts_of_strangers(self, *_: object) -> str:
        return "there"


@pytest.mark.parametrize("by_master", [False, True])
async def test_sec_s11_alarms_of_one_agent_are_aggregated(*, by_master: bool) -> None:
    trail = Trail()
    for _ in range(500):
        trail.alarm("web-1", by_master=by_master)
        await trail.stage.rest()
    trail.alarm("web-2", by_master=by_master)
    await trail.stage.rest()
    told = trail.of("web-1")
    assert len(told) == audit._REFUSALS_BURST
    # Another agent's alarm is not part of that story, and gets an entry at once.
    assert [each.detail for each in trail.of("web-2")] == ["loud"]
    trail.stage.clock.advance(60)
    trail.alarm("web-1", by_master=by_master)
    await trail.stage.rest()
    missing = 500 - audit._REFUSALS_BURST
    assert trail.of("web-1")[-1].detail == f"loud; {missing} more alarms before"
    assert ("audit", "lost") not in trail.stage.plane.telemetry.counters


async def test_sec_s11_refusals_and_alarms_of_one_agent_are_two_stories() -> None:
    trail = Trail()
    note: Callable[..., None] = trail.stage.plane.note
    for _ in range(30):
        trail.alarm("web-1")
        await trail.stage.rest()
    note("agent.renew", "web-1", by="web-1", actor="agent", result="refused", detail="no")
    note("agent.enrolled", "web-1", by="web-1", actor="agent")
    await trail.stage.rest()
    last = trail.of("web-1")[-2:]
    assert [(each.result, each.detail) for each in last] == [("refused", "no"), ("done", "")]


async def test_sec_s11_queued_writes_of_one_member_leave_room_for_others() -> None:
    trail = Trail()
    trail.holds = asyncio.Event()
    for _ in range(audit._TASKS_MAX):
        # Each gets an entry of its own: the rate is not what is tried here.
        trail.auditor._refusals["web-1 alarm"] = TokenBucket(per_s=1, burst=20)
        trail.alarm("web-1")
    for _ in range(20):
        trail.alarm("web-2")
    await trail.stage.rest()
    assert len(trail.of("web-1")) == audit._TASKS_PER_SPEAKER
    assert len(trail.of("web-2")) == 20
    assert ("audit", "lost") not in trail.stage.plane.telemetry.counters
    missing = audit._TASKS_MAX - audit._TASKS_PER_SPEAKER
    assert trail.of("web-1")[0].detail == f"loud; {missing} more alarms before"
    await trail.auditor._tasks.aclose(0)
