"""Badges beside the status of an agent, and the status of a group."""

from typing import Any

import msgspec
import pytest

from broker_master.core.badges import (
    admin_shown,
    badges,
    certificate_warning,
    group_badges,
    group_status,
)
from broker_master.core.liveness import Presence
from schemas.messages.liveness import Details
from schemas.messages.registry import AgentEntry, CertificateEntry
from schemas.states import Admin, GroupStatus, Liveness
from tests.fake_clock import EPOCH

DAY_S = 86_400
CERTIFICATE = CertificateEntry(
    serial="aa", not_after=EPOCH + 90 * DAY_S, user_nkey="UA", issued_at=EPOCH
)
ENTRY = AgentEntry(
    name="web-1", group="web", created_at=EPOCH, certificates=[CERTIFICATE], connected=True
)


def presence(liveness: Liveness = Liveness.LIVE, **fields: Any) -> Presence:  # noqa: ANN401
    is_live = liveness is Liveness.LIVE
    made = {"agent": "web-1", "group": "web", "liveness": liveness, "reconciled": is_live}
    return Presence(**{**made, **fields})


def changed(**fields: Any) -> AgentEntry:  # noqa: ANN401
    return msgspec.structs.replace(ENTRY, **fields)


@pytest.mark.parametrize(
    ("admin", "left", "shown"),
    [
        (Admin.DISABLED, 0, "disabled"),
        (Admin.DISABLED, 1, "draining"),
        (Admin.PAUSED, 1, "paused"),
        (Admin.ENABLED, 1, "enabled"),
    ],
)
def test_disabled_agent_drains_while_tasks_are_left(admin: Admin, left: int, shown: str) -> None:
    assert admin_shown(changed(admin=admin), left) == shown


def test_badges_name_what_an_agent_lacks() -> None:
    lacks = {"spool": "1024 MiB wait", "disk": "2 % are free"}
    marks = badges(presence(draining=True, lacks=lacks), at=EPOCH)
    assert marks == ["spool full", "disk low", "draining"]


def test_group_says_what_keeps_its_active_agents_from_work() -> None:
    some = group_status({"active": 3}, {"disk low": 1})
    assert some.reason == "3 of 3 agents active (1 disk low)"
    none = group_status({"active": 2, "disabled": 1}, {"disk low": 1, "stopping": 1})
    assert none.status is GroupStatus.ACTIVE
    assert none.reason == "2 of 3 agents active, none takes new work: 1 disk low, 1 stopping"
    assert none.next
    busy = group_status({"active": 2}, is_busy=True)
    assert busy.reason == "2 of 2 agents active, all slots taken"
    assert busy.next == "commands wait for a task to end, or add agents"


@pytest.mark.parametrize(
    ("life_days", "left_days", "said"),
    [
        (365, 91, ""),
        (365, 90, "ends within 90 days"),
        (365, 30, "ends within 30 days"),
        (365, 14, "ends within 14 days"),
        (365, 7, "ends within 7 days"),
        (365, 0.5, "ends within 1 day"),
        (365, 0, "expired"),
        (90, 89, ""),
        (90, 30, "ends within 30 days"),
        (2, 1, "ends within 1 day"),
        (1, 0.4, ""),
        (1, -1, "expired"),
    ],
)
def test_end_of_a_certificate_is_reported_in_steps_that_suit_its_life(
    life_days: float, left_days: float, said: str
) -> None:
    certificate = msgspec.structs.replace(CERTIFICATE, not_after=EPOCH + life_days * DAY_S)
    assert certificate_warning(certificate, certificate.not_after - left_days * DAY_S) == said


def test_nothing_is_noted_of_an_agent_in_good_order() -> None:
    assert badges(None, at=EPOCH) == badges(presence(), at=EPOCH) == []


@pytest.mark.parametrize(
    ("counts", "status", "reason"),
    [
        ({}, GroupStatus.INACTIVE, "no agents"),
        (
            {"active": 1},
            GroupStatus.ACTIVE,
            "1 of 1 agents active; a single agent: no load balancing",
        ),
        ({"active": 2, "no_response": 1}, GroupStatus.ACTIVE, "2 of 3 agents active"),
        ({"awaiting_setup": 2}, GroupStatus.INACTIVE, "no agent is set up yet"),
        ({"disabled": 2}, GroupStatus.INACTIVE, "all agents are disabled"),
        (
            {"disabled": 1, "no_response": 1},
            GroupStatus.INACTIVE,
            "no agent responds (1 disabled, 0 not set up yet)",
        ),
        (
            {"disabled": 1, "awaiting_setup": 1},
            GroupStatus.INACTIVE,
            "1 of 2 agents are disabled, 1 not set up yet",
        ),
        (
            {"awaiting_setup": 1, "no_response": 1},
            GroupStatus.INACTIVE,
            "no agent responds (0 disabled, 1 not set up yet)",
        ),
    ],
)
def test_group_is_active_while_one_of_its_agents_is(
    counts: dict[str, int], status: GroupStatus, reason: str
) -> None:
    verdict = group_status(counts)
    assert (verdict.status, verdict.reason) == (status, reason)
    assert bool(verdict.next) == (status is GroupStatus.INACTIVE)


def test_badges_of_a_group_name_what_its_status_does_not_say() -> None:
    counts = {"active": 2, "disabled": 1}
    both = [presence(), presence(details=Details(version="9"))]
    soon, later = EPOCH + 5 * DAY_S, EPOCH + 20 * DAY_S
    assert group_badges(counts, both, [soon, later], at=EPOCH) == [
        "2 of 3 active",
        "version skew: 2 versions",
        "certificates ending: the last one in 20 days",
    ]
    alone = group_badges({"active": 1}, [presence()], [EPOCH + 90 * DAY_S], at=EPOCH)
    assert alone == ["single agent"]
    assert group_badges({"active": 2}, [presence(), presence()], [], at=EPOCH) == []
