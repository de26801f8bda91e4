"""The status that users see, derived from what an operator wants and what the master hears.

Every status comes with why, and with what happens next.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from broker_master.core.certificates import is_shut_out, newest_confirmed
from broker_master.core.liveness import Presence
from schemas.counting import counted
from schemas.messages.registry import AgentEntry, CertificateEntry
from schemas.moments import rfc3339
from schemas.spans import DAY_S
from schemas.states import Admin, AgentStatus, GroupStatus, Lack, Liveness

_CLOCK_OFF_S = 2.0
_GROUP_WARNING_S = 30 * DAY_S
NOBODY: Final[Mapping[str, int]] = MappingProxyType({})
_LACK_WORDS: Final[Mapping[Lack, str]] = MappingProxyType(
    {
        Lack.SPOOL: "spool full",
        Lack.DISK: "disk low",
        Lack.FDS: "few descriptors",
        Lack.JOURNAL: "journal fault",
        Lack.REPORTS: "reports waiting",
        Lack.OTHER: "no room",
    }
)
_WARNINGS = ((1, "1 day"), (7, "7 days"), (14, "14 days"), (30, "30 days"), (90, "90 days"))


class Verdict(msgspec.Struct, frozen=True):
    status: AgentStatus
    reason: str
    next: str


def agent_status(  # noqa: PLR0911  a table of statuses, a row each
    entry: AgentEntry,
    presence: Presence | None,
    *,
    at: float,
    given_up_in_s: float,
    tasks_left: int = 0,
) -> Verdict:
    """The first row that matches, in the order of the published description of statuses.

    tasks_left: attempts on it that have not ended.
    """
    certificate = current_certificate(entry, presence)
    if not entry.connected or presence is None or presence.liveness is Liveness.NEVER:
        return _awaiting(entry, at)
    if entry.admin != Admin.ENABLED:
        return _disabled(entry, presence, at + given_up_in_s, tasks_left)
    if certificate is not None and certificate.not_after <= at:
        return Verdict(
            AgentStatus.NO_RESPONSE,
            f"certificate expired at {rfc3339(certificate.not_after)}",
            f"set it up again: mesh agent token {entry.name}",
        )
    if presence.obeys and presence.liveness is not Liveness.LIVE:
        return Verdict(
            AgentStatus.NO_RESPONSE,
            f"it refuses this master: it has obeyed a newer one, of epoch {presence.obeys}",
            "end this master if another is in charge; if its state was put back:"
            f" broker-master restore --state-dir D --above {presence.obeys}",
        )
    if presence.frozen:
        hosts = (
            f"{presence.details.host or 'an unknown host'} and {presence.rival_host or 'another'}"
        )
        return Verdict(
            AgentStatus.NO_RESPONSE,
            f"duplicate identity: it lives on {hosts}, in turn",
            f"stop one of them; or mesh agent revoke {entry.name}, then set one up again",
        )
    if presence.stuck and presence.liveness is Liveness.LIVE:
        return Verdict(
            AgentStatus.NO_RESPONSE,
            "not taking work: it beats, but answers no request to run anything",
            "active again as soon as it answers one; if it does not, restart it",
        )
    if presence.liveness is Liveness.LIVE and presence.reconciled and not presence.deaf:
        return _active(entry, presence, tasks_left)
    if is_shut_out(entry.certificates) and presence.liveness is not Liveness.LIVE:
        return _readmitted(entry, at)
    return _silent(presence, at, given_up_in_s)


def _active(entry: AgentEntry, presence: Presence, tasks_left: int) -> Verdict:
    left = f", {counted(tasks_left, 'task')} left"
    if entry.moving_to:
        then = f"moves to group {entry.moving_to} once none is left"
        return Verdict(AgentStatus.ACTIVE, f"takes no new work{left}", then)
    if presence.draining:
        reason = f"stopping: takes no new work{left if tasks_left else ''}"
        return Verdict(AgentStatus.ACTIVE, reason, "ends by itself")
    if presence.lacks:
        lacking = "; ".join(presence.lacks.values())
        then = "takes work again as soon as there is room; what runs goes on"
        return Verdict(AgentStatus.ACTIVE, f"no room, takes no new work: {lacking}", then)
    room = slots_of(entry, presence)
    if 0 < room <= tasks_left:
        then = "takes the next command when a task ends"
        return Verdict(AgentStatus.ACTIVE, f"{room} of {room} slots taken", then)
    return Verdict(AgentStatus.ACTIVE, "beats arrive and are answered", "")


def slots_of(entry: AgentEntry, presence: Presence) -> int:
    """How many tasks it may have at once; 0 if that is not known."""
    limit = entry.traits.limit
    return min(presence.slots, limit) if limit else presence.slots


def idle_words(entry: AgentEntry, presence: Presence) -> str:
    """Why an agent that is active gets no new work, in two words; empty if it gets some."""
    if entry.moving_to:
        return "moving"
    if presence.draining:
        return "stopping"
    for lack in presence.lacks:
        return _LACK_WORDS[Lack(lack)]
    return ""


def shown_status(
    entry: AgentEntry, presence: Presence | None, certificate: CertificateEntry | None, at: float
) -> AgentStatus:
    """What `agent_status` says, without its words: for whoever looks at all agents at once.

    certificate: what `current_certificate` gives.
    """
    if not entry.connected or presence is None or presence.liveness is Liveness.NEVER:
        return AgentStatus.AWAITING_SETUP
    if entry.admin != Admin.ENABLED:
        return AgentStatus.DISABLED
    if presence.frozen or (certificate is not None and certificate.not_after <= at):
        return AgentStatus.NO_RESPONSE
    if (
        presence.liveness is Liveness.LIVE
        and presence.reconciled
        and not presence.deaf
        and not presence.stuck
    ):
        return AgentStatus.ACTIVE
    return AgentStatus.NO_RESPONSE


def _awaiting(entry: AgentEntry, at: float) -> Verdict:
    if entry.admin == Admin.REVOKED:
        reason = "revoked"
    elif entry.certificates and not is_shut_out(entry.certificates):
        reason = "enrolled, not connected yet"
        return Verdict(AgentStatus.AWAITING_SETUP, reason, "start it: broker-agent run")
    elif entry.token is None or entry.token.used_key:
        reason = "no activation token is open"
    elif entry.token.expires_at <= at:
        reason = "its activation token has expired"
    else:
        reason = f"its activation token is open until {rfc3339(entry.token.expires_at)}"
        return Verdict(AgentStatus.AWAITING_SETUP, reason, "use it: broker-agent setup")
    return Verdict(AgentStatus.AWAITING_SETUP, reason, f"mesh agent token {entry.name}")


def _readmitted(entry: AgentEntry, at: float) -> Verdict:
    """Revoked, and given a token that nobody has used so far."""
    token = entry.token
    is_open = token is not None and not token.used_key and token.expires_at > at
    what_next = "use its token: broker-agent setup"
    return Verdict(
        AgentStatus.NO_RESPONSE,
        "revoked, and not set up again yet",
        what_next if is_open else f"set it up again: mesh agent token {entry.name}",
    )


def _disabled(
    entry: AgentEntry, presence: Presence, given_up_at: float, tasks_left: int
) -> Verdict:
    by = f" by {entry.admin_by}" if entry.admin_by else ""
    left = counted(tasks_left, "task")
    if entry.admin == Admin.REVOKED:
        return Verdict(
            AgentStatus.DISABLED, f"revoked{by}", f"set it up again: mesh agent token {entry.name}"
        )
    if entry.admin == Admin.DELETED:
        return Verdict(
            AgentStatus.DISABLED,
            f"deleted{by}, {left} of it may still run",
            f"gone once that is over, not before {rfc3339(given_up_at)}",
        )
    note = f" ({entry.admin_term.note})" if entry.admin_term.note else ""
    heard = "live" if presence.liveness is Liveness.LIVE else "silent"
    standing = f"{left} left" if tasks_left else heard
    enable = f"mesh agent enable {entry.name}"
    if entry.admin == Admin.PAUSED:
        return Verdict(
            AgentStatus.DISABLED,
            f"paused{by}{note}, {standing}",
            f"enabled at {rfc3339(entry.admin_term.until)}, or before: {enable}",
        )
    return Verdict(AgentStatus.DISABLED, f"disabled{by}{note}, {standing}", enable)


def _silent(presence: Presence, at: float, given_up_in_s: float) -> Verdict:
    if presence.liveness is Liveness.LIVE:
        reason = "cannot hear the master" if presence.deaf else "the handshake is not complete"
        return Verdict(AgentStatus.NO_RESPONSE, reason, "active again after the handshake")
    if presence.given_up or presence.reason == "shut down":
        return Verdict(AgentStatus.NO_RESPONSE, presence.reason, "active again once it is started")
    return Verdict(
        AgentStatus.NO_RESPONSE,
        presence.reason,
        f"its tasks are given up at {rfc3339(at + given_up_in_s)} unless it returns",
    )


def current_certificate(entry: AgentEntry, presence: Presence | None) -> CertificateEntry | None:
    """The certificate in use, or else the newest that was confirmed."""
    if presence is not None and presence.certificate_serial:
        for certificate in reversed(entry.certificates):
            if certificate.serial == presence.certificate_serial:
                return certificate
    return newest_confirmed(entry.certificates)


def certificate_warning(certificate: CertificateEntry, at: float) -> str:
    """Empty, or how soon it ends: a step of 90, 30, 14, 7 and 1 days, or `expired`.

    A step that is longer than half of the certificate's life says nothing, and is left out.
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
    """What is wanted of an agent; one that is disabled drains for as long as tasks are left."""
    return Admin.DRAINING if entry.admin == Admin.DISABLED and tasks_left else entry.admin


def badges(presence: Presence | None, *, at: float) -> list[str]:
    """What is worth a second look although the status does not say it."""
    if presence is None:
        return []
    marks: list[str] = []
    marks.extend(_LACK_WORDS[Lack(lack)] for lack in presence.lacks)
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
    """A group is active while at least one of its agents is; else the reason says why not.

    idle: by `idle_words`, those of its active agents that get no new work. is_busy: each of the
    others has as many tasks as it may have.
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
    """What is worth a second look in a group whatever its status is.

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
        marks.append(f"profile drift: {len(versions)} versions")
    if ends_at and max(ends_at) - at <= _GROUP_WARNING_S:
        days = max(0, int((max(ends_at) - at) / DAY_S))
        marks.append(f"certificates ending: the last one in {days} days")
    return marks
