"""Requests for an enrolment: limited before anything of them is looked at, whatever their token."""

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker_client.runtime.frames import Msg
from broker_master.services import enrolment as module
from broker_master.services.enrolment import Enrolment
from schemas import subjects
from schemas.faults import Refused
from tests.fake_clock import FakeClock
from tests.planes import add_agent, add_group, make_plane

BURST = module._ASKS_BURST


class Office:
    """served: agents whose requests came to be looked at, in order."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.plane = make_plane(self.clock)
        self.served: list[str] = []
        self.plane.tasks = cast("Any", SimpleNamespace(spawn=self._spawn))
        self.enrolment = Enrolment(self.plane, cast("Any", None), cast("Any", None))
        self.is_full = False
        add_group(self.plane, "web")
        for agent in ("web-1", "web-2"):
            add_agent(self.plane, agent, "web")

    def _spawn(self, work: Coroutine[Any, Any, None], *_: object) -> None:
        work.close()
        if self.is_full:
            raise Refused("mesh_saturated", "too many at once")

    def ask(self, agent: str, count: int = 1, *, reply: str = "") -> None:
        inbox = reply or f"{subjects.enrol_inbox_prefix(agent)}.1"
        for _ in range(count):
            before = self.busy
            self.enrolment._on_request(Msg(subjects.enrol(agent), inbox, b"not even a request"))
            if self.busy == before:
                self.served.append(agent)

    @property
    def busy(self) -> int:
        return self.plane.telemetry.counters.get(("enrolment", "busy"), 0)


@pytest.fixture
async def office() -> Office:
    await asyncio.sleep(0)
    return Office()


async def test_sec_s11_requests_of_an_agent_are_limited_with_any_token(office: Office) -> None:
    office.ask("web-1", BURST + 30)
    assert office.served == ["web-1"] * BURST
    assert office.busy == 30
    office.ask("web-2")
    assert office.served[-1] == "web-2", "others have a limit of their own"
    office.clock.advance(3 / module._ASKS_PER_S)
    office.ask("web-1", 10)
    assert office.served.count("web-1") == BURST + 3


async def test_sec_s11_unknown_names_share_one_limit(office: Office) -> None:
    for number in range(BURST + 30):
        office.ask(f"none-{number}")
    assert len(office.served) == BURST
    assert len(office.enrolment._asks) == 1
    office.ask("web-1")
    assert office.served[-1] == "web-1"


async def test_limits_of_agents_that_are_deleted_are_forgotten(office: Office) -> None:
    for agent in ("web-1", "web-2", "none"):
        office.ask(agent)
    del office.plane.registry.agents["web-2"]
    add_agent(office.plane, "web-3", "web")
    office.ask("web-3")
    assert set(office.enrolment._asks) == {"web-1", "web-3"}


async def test_request_with_the_inbox_of_somebody_else_costs_no_share(office: Office) -> None:
    office.ask("web-1", BURST + 1, reply="_INBOX_master.1")
    assert office.busy == 0
    assert office.plane.telemetry.counters[("reply_forbidden",)] == BURST + 1


async def test_master_that_is_busy_says_so_by_a_count(office: Office) -> None:
    office.is_full = True
    office.ask("web-1")
    assert office.busy == 1
