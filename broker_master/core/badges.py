"""Badges and warnings beside the status of an agent, and the status of a group.

Every status comes with its reason and the next step.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from broker_master.core.liveness import Presence
from broker_master.core.standing import LACK_WORDS
from schemas.messages.registry import AgentEntry, CertificateEntry
from schemas.spans import DAY_S, time_left
from schemas.states import Admin, AgentStatus, GroupStatus, Lack

_CLOCK_OFF_S = 2.0
_GROUP_WARNING_S = 30 * DAY_S
NOBODY: Final[Mapping[str, int]] = MappingProxyType({})
_WARNINGS = ((1, "1 day"), (7, "7 days"), (14, "14 days"), (30, "30 days"), (90, "90 days"))


def certificate_warning(certificate: CertificateEntry, at: float) -> str:
    """Empty, or how soon it ends: a step of 90, 30, 14, 7 and 1 days, or `expired`.

    Steps longer than half of the certificate's lifetime are left out.
    """
    left_s = certificate.not_after - at
    life_s = certificate.not_after - certificate.issued_at
    if left_s <= 0:
        return "expired"
    for days, text in _WARNINGS:
        if left_s <= days * DAY_S and days * DAY_S <= life_s / 2:
            return f"ends within {text}"
    return ""


def admin_shown(entry: AgentEntry, tasks_left: int) -> str:
    """The admin state as shown; a disabled agent drains for as long as tasks are left."""
    return Admin.DRAINING if entry.admin == Admin.DISABLED and tasks_left else entry.admin


def badges(presence: Presence | None, *, at: float) -> list[str]:
    """Conditions of an agent worth attention that its status does not show."""
    if presence is None:
        return []
    marks: list[str] = []
    marks.extend(LACK_WORDS[Lack(lack)] for lack in presence.lacks)
    if presence.draining:
        marks.append("draining")
    if presence.is_unstable(at):
        marks.append("unstable")
    if presence.renewal:
        marks.append(f"renewal failed: {presence.renewal}")
    if presence.is_contested:
        marks.append(f"second session on {presence.rival_host}")
    if abs(presence.clock_skew_s) > _CLOCK_OFF_S:
        marks.append(f"clock off by {presence.clock_skew_s:+.0f} s")
    return marks


class GroupVerdict(msgspec.Struct, frozen=True):
    status: GroupStatus
    reason: str
    next: str


def group_status(
    counts: dict[str, int], idle: Mapping[str, int] = NOBODY, *, is_busy: bool = False
) -> GroupVerdict:
    """A group is active while one of its agents is; else the reason says why not.

    idle: by `Standing.brief`, the active agents that get no new work. is_busy: each of the others
    has as many tasks as it may have.
    """
    total = sum(counts.values())
    active = counts.get(AgentStatus.ACTIVE, 0)
    if active:
        return _active_group(active, total, idle, is_busy=is_busy)
    if not total:
        return _inactive("no agents", "mesh agent create NAME --group GROUP")
    new, disabled = counts.get(AgentStatus.AWAITING_SETUP, 0), counts.get(AgentStatus.DISABLED, 0)
    silent = total - new - disabled
    if new == total:
        return _inactive("no agent is set up yet", "set one up: broker-agent setup")
    if disabled == total:
        return _inactive("all agents are disabled", "mesh agent enable NAME")
    if not silent:
        reason = f"{disabled} of {total} agents are disabled, {new} not set up yet"
        return _inactive(reason, "mesh agent enable NAME")
    rest = f" ({disabled} disabled, {new} not set up yet)" if disabled or new else ""
    return _inactive(
        f"no agent responds{rest}", "active again with the first that returns: mesh agent list"
    )


def _active_group(
    active: int, total: int, idle: Mapping[str, int], *, is_busy: bool
) -> GroupVerdict:
    reason = f"{active} of {total} agents active"
    why = ", ".join(f"{count} {words}" for words, count in sorted(idle.items()))
    if sum(idle.values()) >= active:
        then = "commands wait: mesh agent list has what each of them lacks"
        return GroupVerdict(GroupStatus.ACTIVE, f"{reason}, none takes new work: {why}", then)
    if is_busy:
        reason += ", all slots taken"
    if why:
        reason += f" ({why})"
    if active == 1:
        reason += "; a single agent: no load balancing"
    then = "commands wait for a task to end, or add agents" if is_busy else ""
    return GroupVerdict(GroupStatus.ACTIVE, reason, then)


def _inactive(reason: str, what_next: str) -> GroupVerdict:
    return GroupVerdict(GroupStatus.INACTIVE, reason, what_next)


def group_badges(
    counts: dict[str, int], presences: Iterable[Presence], ends_at: Sequence[float], *, at: float
) -> list[str]:
    """Conditions of a group worth attention, whatever its status.

    presences, ends_at: of its active agents, and when their certificates end.
    """
    marks: list[str] = []
    total, active = sum(counts.values()), counts.get(AgentStatus.ACTIVE, 0)
    if active == 1:
        marks.append("single agent")
    if active < total:
        marks.append(f"{active} of {total} active")
    versions = {each.details.version for each in presences}
    if len(versions) > 1:
        marks.append(f"version skew: {len(versions)} versions")
    if ends_at and max(ends_at) - at <= _GROUP_WARNING_S:
        marks.append(f"certificates ending: the last one in {time_left(max(ends_at) - at)}")
    return marks
