"""Admin states of an agent: the moves between them, and the events that end a pause or a move.

enabled ◀──enable, or its time has passed── paused
   ▲ │                                         ▲
   │ └──disable──▶ disabled      enabled ──pause
   └────enable────────┘          any ──revoke──▶ revoked     any ──delete──▶ deleted ─▶ (gone)
"""

import msgspec

from broker_master.core.liveness import Presence
from schemas.faults import Refused
from schemas.messages.registry import AdminTerm, AgentEntry
from schemas.states import BARRED, Admin, Liveness


def enable(entry: AgentEntry, *, by: str, at: float) -> AgentEntry:
    """Enable an agent; an enabled one is unchanged."""
    _check_admitted(entry)
    if entry.admin == Admin.ENABLED:
        return entry
    return _moved(entry, Admin.ENABLED, by, at)


def disable(entry: AgentEntry, *, by: str, at: float, note: str = "") -> AgentEntry:
    """Give an agent no new work until it is enabled; also removes the end of a pause."""
    _check_admitted(entry)
    if entry.admin == Admin.DISABLED and note in ("", entry.admin_term.note):
        return entry
    return _moved(entry, Admin.DISABLED, by, at, note)


def pause(entry: AgentEntry, *, by: str, at: float, until: float, note: str = "") -> AgentEntry:
    """Give an agent no new work until `until`. A disabled agent stays disabled."""
    _check_admitted(entry)
    if entry.admin == Admin.DISABLED:
        raise Refused("agent_disabled", f"agent {entry.name} is disabled, with no end")
    return _moved(entry, Admin.PAUSED, by, at, note or entry.admin_term.note, until)


def bar(entry: AgentEntry, admin: Admin, *, by: str, at: float) -> AgentEntry:
    """Revoke or delete an agent. A deleted one stays deleted."""
    if entry.admin in (admin, Admin.DELETED):
        return entry
    return _moved(entry, admin, by, at)


def end_pause(entry: AgentEntry, *, at: float) -> AgentEntry:
    """Enable an agent whose pause is over."""
    if not is_pause_over(entry, at=at):
        return entry
    return _moved(entry, Admin.ENABLED, entry.admin_by, at)


def is_pause_over(entry: AgentEntry, *, at: float) -> bool:
    return entry.admin == Admin.PAUSED and entry.admin_term.until <= at


def move(entry: AgentEntry, group: str) -> AgentEntry:
    """Let an agent join `group` as soon as it has no tasks; its own group cancels the move."""
    _check_admitted(entry)
    return msgspec.structs.replace(entry, moving_to="" if group == entry.group else group)


def arrive(entry: AgentEntry, group: str) -> AgentEntry:
    """Complete a move: the agent connects with the credentials of its new group."""
    if entry.moving_to != group:
        return entry
    return msgspec.structs.replace(entry, group=group, moving_to="")


def _check_admitted(entry: AgentEntry) -> None:
    if entry.admin == Admin.DELETED:
        raise Refused("agent_leaving", f"agent {entry.name} is being deleted")
    if entry.admin in BARRED:
        raise Refused("agent_revoked", f"agent {entry.name} is revoked")


def _moved(
    entry: AgentEntry, admin: Admin, by: str, at: float, note: str = "", until: float = 0.0
) -> AgentEntry:
    return msgspec.structs.replace(
        entry,
        admin=admin,
        admin_by=by,
        admin_since=at,
        admin_term=AdminTerm(note=note, until=until),
    )


def silent_since(
    entry: AgentEntry, presence: Presence | None, *, at: float, started_at: float
) -> float | None:
    """Time of the last heartbeat; None for an agent that is live or awaits setup.

    started_at: the master's start. Silence counts from there at the earliest: what an earlier
    master received is not known.
    """
    newest = max((each.issued_at for each in entry.certificates), default=0.0)
    if presence is not None and presence.liveness is Liveness.LIVE:
        return None
    heard_at = presence.heard_at if presence is not None else 0.0
    if entry.connected or heard_at:
        return max(heard_at or entry.seen_at or started_at, newest)
    token = entry.token
    if token is not None and not token.used_key and token.expires_at > at:
        return None
    return max(entry.created_at, newest, entry.admin_since, token.expires_at if token else 0.0)


def seen(entry: AgentEntry, presence: Presence, *, started_at: float) -> AgentEntry:
    """The entry with the moment of the last heartbeat, where it has to outlive this master."""
    if presence.liveness is Liveness.LIVE and presence.reconciled:
        return msgspec.structs.replace(entry, seen_at=0.0) if entry.seen_at else entry
    if not presence.given_up or (entry.seen_at and entry.seen_at >= presence.heard_at):
        return entry
    return msgspec.structs.replace(entry, seen_at=presence.heard_at or started_at)
