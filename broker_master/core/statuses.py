"""Start times of the statuses of agents, groups and connections, kept across restarts.

A status is derived, so nothing announces its change: `judge` compares it with the last one.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from broker_master.core.liveness import Presence, Roster, Silence
from broker_master.core.standing import Cause, Standing, classify
from schemas.messages.registry import AgentEntry
from schemas.states import AgentStatus, GroupStatus


class Past(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent as known to the previous master. Times are wall time.

    created_at: of the agent, since a later one may have its name. silent_since, silence,
    silent_for_s, heard_at: as in `Presence`; silence is empty while it is live.
    """

    status: AgentStatus
    since: float
    created_at: float
    incarnation: str = ""
    silence: Silence = Silence.NONE
    silent_since: float = 0.0
    silent_for_s: float = 0.0
    heard_at: float = 0.0


class StatusChange(msgspec.Struct, frozen=True):
    """A change of an agent's status.

    cause, reason: of the new status; the reason is for people.
    """

    agent: str
    group: str
    old: AgentStatus
    new: AgentStatus
    cause: Cause
    at: float
    reason: str = ""


class GroupChange(msgspec.Struct, frozen=True):
    """A change of a group's status.

    reason: of the new status, for people.
    """

    group: str
    old: GroupStatus
    new: GroupStatus
    at: float
    reason: str = ""


class ConnectionChange(msgspec.Struct, frozen=True):
    """A change of a connection's status.

    group: that it goes through. reason: of the new status, for people.
    """

    connection: str
    group: str
    new: str
    at: float
    reason: str = ""
    old: str = ""


class _Kept(msgspec.Struct):
    """is_past: from the previous master; this one has not received a beat of the agent yet."""

    status: AgentStatus
    since: float
    created_at: float
    incarnation: str = ""
    is_past: bool = False


NO_CONNECTIONS: Final[Mapping[str, tuple[str, float]]] = MappingProxyType({})

Tell = Callable[[StatusChange], None]
TellGroup = Callable[[GroupChange], None]
TellConnection = Callable[[ConnectionChange], None]


class Statuses:
    """Present statuses of all agents, groups and connections, with their start times.

    tell, tell_group, tell_connection: called with each change of a status.
    """

    def __init__(
        self,
        tell: Tell,
        tell_group: TellGroup = lambda _: None,
        tell_connection: TellConnection = lambda _: None,
    ) -> None:
        self._tell: Final = tell
        self._tell_group: Final = tell_group
        self._tell_connection: Final = tell_connection
        self._connections: dict[str, tuple[str, float]] = {}
        self._agents: dict[str, _Kept] = {}
        self._groups: dict[str, tuple[GroupStatus, float]] = {}
        # Unix time until which the previous master is known to have run; 0 if that is not known.
        self.left_at = 0.0
        # Grows with each change, so that the store sees changes to write.
        self.changes = 0

    def judge(
        self,
        entry: AgentEntry,
        presence: Presence | None,
        at: float,
        *,
        tasks_left: int = 0,
        given_up_in_s: float = 0.0,
    ) -> Standing:
        """As `classify`; notes a change of the status, and its time."""
        standing = classify(entry, presence, at, tasks_left=tasks_left, given_up_in_s=given_up_in_s)
        kept = self._agents.get(entry.name)
        if kept is None or kept.created_at != entry.created_at:
            self._enter(standing)
        elif kept.is_past:
            self._compare_with_past(kept, standing)
        elif kept.status is not standing.status:
            self._change(kept, standing)
        return standing

    def since(self, standing: Standing) -> float:
        """Wall time at which a judged agent got its status."""
        case = standing.case
        kept = self._agents[case.entry.name]
        if standing.status is AgentStatus.DISABLED:
            return case.entry.admin_since or kept.since
        return case.seen.since if kept.is_past else kept.since

    def judge_group(
        self,
        name: str,
        status: GroupStatus,
        at: float,
        *,
        unheard_since: float = 0.0,
        reason: str = "",
    ) -> float:
        """Wall time since when the group has this status.

        unheard_since: a master that has just started waits for members since then; 0 for none.
        During that wait an active group is shown as inactive, but no change is noted.
        """
        kept = self._groups.get(name)
        if kept is not None and kept[0] is status:
            return kept[1]
        if kept is not None and status is GroupStatus.INACTIVE and unheard_since:
            return unheard_since
        self._groups[name] = (status, at)
        self.changes += 1
        if kept is not None:
            self._tell_group(GroupChange(name, kept[0], status, at, reason))
        return at

    def group(self, name: str) -> GroupStatus | None:
        """The status that a group had when it was last judged."""
        kept = self._groups.get(name)
        return kept[0] if kept is not None else None

    def judge_connection(self, change: ConnectionChange, *, unheard_since: float = 0.0) -> float:
        """Wall time since when the connection has the new status of `change`.

        unheard_since: as in `judge_group`.
        """
        name, status, at = change.connection, change.new, change.at
        kept = self._connections.get(name)
        if kept is not None and kept[0] == status:
            return kept[1]
        if kept is not None and unheard_since:
            return unheard_since
        self._connections[name] = (status, at)
        self.changes += 1
        if kept is not None:
            self._tell_connection(msgspec.structs.replace(change, old=kept[0]))
        return at

    def connection(self, name: str) -> str | None:
        """The status that a connection had when it was last judged."""
        kept = self._connections.get(name)
        return kept[0] if kept is not None else None

    def forget_connection(self, name: str) -> None:
        self._connections.pop(name, None)

    def _enter(self, standing: Standing) -> None:
        entry, seen = standing.case.entry, standing.case.seen
        self._agents[entry.name] = _Kept(
            standing.status, _began(standing), entry.created_at, seen.incarnation
        )
        self.changes += 1

    def _compare_with_past(self, kept: _Kept, standing: Standing) -> None:
        """Compare with the previous master's state, once the agent's first beat is here."""
        if standing.cause is Cause.UNHEARD:
            return
        kept.is_past = False
        seen = standing.case.seen
        if kept.status is not standing.status:
            self._change(kept, standing)
        elif standing.status is AgentStatus.ACTIVE and kept.incarnation != seen.incarnation:
            kept.since, kept.incarnation = _began(standing), seen.incarnation
            self.changes += 1

    def _change(self, kept: _Kept, standing: Standing) -> None:
        entry, at = standing.case.entry, standing.case.at
        old, kept.status = kept.status, standing.status
        kept.since, kept.incarnation = at, standing.case.seen.incarnation
        self.changes += 1
        self._tell(
            StatusChange(
                entry.name, entry.group, old, standing.status, standing.cause, at, standing.reason
            )
        )

    # -- across a restart

    def pasts(self, entries: Iterable[AgentEntry], roster: Roster) -> dict[str, Past]:
        """Data on these agents for the next master."""
        return {
            entry.name: _past(kept, presence)
            for entry in entries
            if (kept := self._agents.get(entry.name)) is not None
            and (presence := roster.get(entry.name)) is not None
        }

    def groups(self) -> dict[str, tuple[GroupStatus, float]]:
        return dict(self._groups)

    def connections(self) -> dict[str, tuple[str, float]]:
        return dict(self._connections)

    def recall(
        self,
        agents: Mapping[str, Past],
        groups: Mapping[str, tuple[GroupStatus, float]],
        connections: Mapping[str, tuple[str, float]] = NO_CONNECTIONS,
    ) -> None:
        """Take in the data of the previous master."""
        for name, past in agents.items():
            self._agents[name] = _Kept(
                past.status, past.since, past.created_at, past.incarnation, is_past=True
            )
        self._groups.update(groups)
        self._connections.update(connections)


def _began(standing: Standing) -> float:
    """Start of a status whose beginning was not observed."""
    entry, seen = standing.case.entry, standing.case.seen
    if standing.status is AgentStatus.AWAITING_SETUP:
        return entry.created_at
    return seen.since


def _past(kept: _Kept, presence: Presence) -> Past:
    return Past(
        status=kept.status,
        since=kept.since,
        created_at=kept.created_at,
        incarnation=kept.incarnation if kept.is_past else presence.incarnation,
        silence=Silence.NONE if presence.silence is Silence.UNHEARD else presence.silence,
        silent_since=presence.since,
        silent_for_s=presence.silent_for_s,
        heard_at=presence.heard_at,
    )


def restore(presence: Presence, past: Past) -> None:
    """Show a silent agent as the previous master knew it, until its first beat.

    No decision on its tasks is taken over: silence counts from this master's start.
    """
    presence.heard_at = past.heard_at
    if past.silence is not Silence.NONE:
        presence.silence, presence.silent_for_s = past.silence, past.silent_for_s
        presence.since = past.silent_since
