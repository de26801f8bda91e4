"""Each row of the table of statuses, with its reason and what comes next."""

from typing import Any

import msgspec
import pytest

from broker_master.core.liveness import Presence
from broker_master.core.status import (
    Verdict,
    admin_shown,
    agent_status,
    badges,
    certificate_warning,
    current_certificate,
    group_badges,
    group_status,
)
from schemas.messages.liveness import Details
from schemas.messages.registry import AdminTerm, AgentEntry, CertificateEntry, TokenEntry, Traits
from schemas.moments import rfc3339
from schemas.states import Admin, AgentStatus, GroupStatus, Liveness
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


def verdict(
    entry: AgentEntry = ENTRY,
    seen: Presence | None = None,
    *,
    at: float = EPOCH + 1,
    left: int = 0,
) -> Verdict:
    return agent_status(entry, seen, at=at, given_up_in_s=40.0, tasks_left=left)


def changed(**fields: Any) -> AgentEntry:  # noqa: ANN401
    return msgspec.structs.replace(ENTRY, **fields)


OPEN = TokenEntry(hash="h", expires_at=EPOCH + 3600)
RETIRED = msgspec.structs.replace(CERTIFICATE, retired_at=EPOCH)


@pytest.mark.parametrize(
    ("fields", "reason", "then"),
    [
        (
            {"token": OPEN},
            f"its activation token is open until {rfc3339(EPOCH + 3600)}",
            "use it: broker-agent setup",
        ),
        (
            {"token": TokenEntry(hash="h", expires_at=EPOCH)},
            "its activation token has expired",
            "mesh agent token web-1",
        ),
        ({"token": None}, "no activation token is open", "mesh agent token web-1"),
        (
            {"token": msgspec.structs.replace(OPEN, used_key="UA")},
            "no activation token is open",
            "mesh agent token web-1",
        ),
        ({"admin": Admin.REVOKED, "token": OPEN}, "revoked", "mesh agent token web-1"),
        (
            {"certificates": [CERTIFICATE], "token": OPEN},
            "enrolled, not connected yet",
            "start it: broker-agent run",
        ),
        (
            {"certificates": [RETIRED], "token": OPEN},
            f"its activation token is open until {rfc3339(EPOCH + 3600)}",
            "use it: broker-agent setup",
        ),
        (
            {"admin": Admin.DISABLED, "token": OPEN},
            f"its activation token is open until {rfc3339(EPOCH + 3600)}",
            "use it: broker-agent setup",
        ),
    ],
)
def test_agent_that_was_never_connected_awaits_its_setup(
    fields: dict[str, object], reason: str, then: str
) -> None:
    entry = changed(**{"connected": False, "certificates": [], **fields})
    expected = Verdict(AgentStatus.AWAITING_SETUP, reason, then)
    assert verdict(entry, presence(Liveness.NEVER)) == expected
    assert verdict(entry, None) == expected


@pytest.mark.parametrize(
    ("token", "then"),
    [
        (OPEN, "use its token: broker-agent setup"),
        (TokenEntry(hash="h", expires_at=EPOCH), "set it up again: mesh agent token web-1"),
    ],
)
def test_agent_that_was_revoked_and_readmitted_waits_to_be_set_up(
    token: TokenEntry, then: str
) -> None:
    entry = changed(certificates=[RETIRED], token=token)
    said = Verdict(AgentStatus.NO_RESPONSE, "revoked, and not set up again yet", then)
    assert verdict(entry, presence(Liveness.SILENT, reason="no beat for 50 s")) == said
    fresh = msgspec.structs.replace(CERTIFICATE, serial="bb")
    again = changed(certificates=[RETIRED, fresh], token=token)
    assert verdict(again, presence(Liveness.SILENT, reason="no beat for 50 s")) != said


@pytest.mark.parametrize("admin", [Admin.DISABLED, Admin.DRAINING])
@pytest.mark.parametrize(
    ("seen", "left", "said"),
    [
        (presence(), 0, "disabled by ops (new disk), live"),
        (presence(Liveness.SILENT), 0, "disabled by ops (new disk), silent"),
        (presence(), 1, "disabled by ops (new disk), 1 task left"),
        (presence(Liveness.SILENT), 2, "disabled by ops (new disk), 2 tasks left"),
    ],
)
def test_what_the_operator_wants_is_shown_whether_it_is_heard_or_not(
    admin: Admin, seen: Presence, left: int, said: str
) -> None:
    shown = verdict(
        changed(admin=admin, admin_by="ops", admin_term=AdminTerm(note="new disk")), seen, left=left
    )
    assert shown == Verdict(AgentStatus.DISABLED, said, "mesh agent enable web-1")


def test_paused_agent_says_who_why_and_until_when() -> None:
    entry = changed(admin=Admin.PAUSED, admin_by="ops", admin_term=AdminTerm(until=EPOCH + 600))
    assert verdict(entry, presence(), left=3) == Verdict(
        AgentStatus.DISABLED,
        "paused by ops, 3 tasks left",
        f"enabled at {rfc3339(EPOCH + 600)}, or before: mesh agent enable web-1",
    )


def test_deleted_agent_is_shown_until_none_of_its_tasks_can_run() -> None:
    entry = changed(admin=Admin.DELETED, admin_by="ops")
    assert verdict(entry, presence(Liveness.SILENT), left=1) == Verdict(
        AgentStatus.DISABLED,
        "deleted by ops, 1 task of it may still run",
        f"gone once that is over, not before {rfc3339(EPOCH + 41)}",
    )


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


def test_revoked_agent_is_disabled_and_says_how_to_readmit_it() -> None:
    shown = verdict(changed(admin=Admin.REVOKED, admin_by="ops"), presence(Liveness.SILENT))
    assert shown.status is AgentStatus.DISABLED
    assert shown.reason == "revoked by ops"
    assert shown.next == "set it up again: mesh agent token web-1"


def test_live_reconciled_agent_is_active() -> None:
    expected = Verdict(AgentStatus.ACTIVE, "beats arrive and are answered", "")
    assert verdict(ENTRY, presence()) == expected


def test_draining_agent_is_active_and_says_so() -> None:
    shown = verdict(ENTRY, presence(draining=True))
    assert shown == Verdict(AgentStatus.ACTIVE, "stopping: takes no new work", "ends by itself")
    assert verdict(ENTRY, presence(draining=True), left=1).reason == f"{shown.reason}, 1 task left"
    lacks = {"spool": "1024 MiB wait", "disk": "2 % are free"}
    marks = badges(presence(draining=True, lacks=lacks), at=EPOCH)
    assert marks == ["spool full", "disk low", "draining"]


def test_agent_without_room_is_active_and_says_what_it_lacks() -> None:
    shown = verdict(ENTRY, presence(slots=4, lacks={"disk": "2 % of the disk are free"}))
    assert shown.status is AgentStatus.ACTIVE
    assert shown.reason == "no room, takes no new work: 2 % of the disk are free"
    assert shown.next == "takes work again as soon as there is room; what runs goes on"


def test_agent_whose_slots_are_taken_is_active_and_says_so() -> None:
    shown = verdict(ENTRY, presence(slots=4), left=4)
    assert (shown.status, shown.reason) == (AgentStatus.ACTIVE, "4 of 4 slots taken")
    assert verdict(ENTRY, presence(slots=4), left=3).reason == "beats arrive and are answered"
    limited = changed(traits=Traits(limit=2))
    assert verdict(limited, presence(slots=4), left=2).reason == "2 of 2 slots taken"


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
    ("seen", "reason", "then"),
    [
        (
            presence(reconciled=False),
            "the handshake is not complete",
            "active again after the handshake",
        ),
        (presence(deaf=True), "cannot hear the master", "active again after the handshake"),
        (
            presence(Liveness.SILENT, reason="no beat for 10 s"),
            "no beat for 10 s",
            f"its tasks are given up at {rfc3339(EPOCH + 41)} unless it returns",
        ),
        (
            presence(Liveness.SILENT, reason="lost: no beat for 50 s", given_up=True),
            "lost: no beat for 50 s",
            "active again once it is started",
        ),
        (
            presence(Liveness.SILENT, reason="shut down"),
            "shut down",
            "active again once it is started",
        ),
    ],
)
def test_otherwise_it_does_not_respond_and_says_why_and_what_comes(
    seen: Presence, reason: str, then: str
) -> None:
    assert verdict(ENTRY, seen) == Verdict(AgentStatus.NO_RESPONSE, reason, then)


def test_expired_certificate_wins_over_beats() -> None:
    at = CERTIFICATE.not_after
    shown = verdict(ENTRY, presence(), at=at)
    assert shown.status is AgentStatus.NO_RESPONSE
    assert shown.reason == f"certificate expired at {rfc3339(at)}"
    assert verdict(ENTRY, presence(), at=at - 1).status is AgentStatus.ACTIVE


def test_disabled_wins_over_an_expired_certificate() -> None:
    shown = verdict(changed(admin=Admin.DISABLED), presence(), at=CERTIFICATE.not_after)
    assert shown.status is AgentStatus.DISABLED


def test_certificate_in_use_counts_and_the_newest_while_none_is_named() -> None:
    newer = msgspec.structs.replace(CERTIFICATE, serial="bb")
    entry = changed(certificates=[CERTIFICATE, newer])
    assert current_certificate(entry, presence(certificate_serial="aa")) == CERTIFICATE
    assert current_certificate(entry, presence(certificate_serial="unheard of")) == newer
    assert current_certificate(entry, None) == newer
    assert current_certificate(changed(certificates=[]), None) is None


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
def test_end_of_a_certificate_is_told_in_steps_that_suit_its_life(
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
        "profile drift: 2 versions",
        "certificates ending: the last one in 20 days",
    ]
    alone = group_badges({"active": 1}, [presence()], [EPOCH + 90 * DAY_S], at=EPOCH)
    assert alone == ["single agent"]
    assert group_badges({"active": 2}, [presence(), presence()], [], at=EPOCH) == []


def test_agent_that_beats_and_takes_nothing_does_not_respond() -> None:
    found = verdict(ENTRY, presence(stuck=True))
    assert found.status is AgentStatus.NO_RESPONSE
    assert found.reason.startswith("not taking work")
    assert found.next
