"""Agents, groups and the mesh for users, from registry, roster and book."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from broker_master import VERSION
from broker_master.core.badges import (
    admin_shown,
    badges,
    certificate_warning,
    group_badges,
    group_status,
)
from broker_master.core.certificates import days_left
from broker_master.core.liveness import Presence
from broker_master.core.rights import may_see
from broker_master.core.standing import Cause, current_certificate
from broker_master.plane import Plane
from schemas.messages.actions import COMMON
from schemas.messages.api import (
    AgentRecord,
    CertificateRecord,
    DetailsRecord,
    GroupRecord,
    SpreadRecord,
    StatusAnswer,
)
from schemas.messages.registry import AgentEntry, CertificateEntry, ClientEntry
from schemas.messages.work import INPUT_ABILITY
from schemas.moments import rfc3339, rfc3339_or_none
from schemas.states import AgentStatus, GroupStatus, Liveness, State


@dataclass
class _Crew:
    """One group: agents by status, and the active ones with their certificates.

    idle: reasons why some of these get no new work. unheard_since: the master has waited since then
    for members that may be alive; 0 if it has a beat of each.
    """

    counts: Counter[str]
    idle: Counter[str]
    presences: list[Presence]
    ends_at: list[float]
    unheard_since: float = 0.0


class Views:
    """recent: the outcomes of the last commands of an agent, as `Recents.of`."""

    def __init__(
        self,
        plane: Plane,
        recent: Callable[[str], str],
        notes: Callable[[ClientEntry], list[str]],
    ) -> None:
        self._plane = plane
        self._recent = recent
        self._notes = notes

    def agent(self, entry: AgentEntry) -> AgentRecord:
        plane = self._plane
        at = plane.clock.now()
        presence = plane.roster.get(entry.name)
        standing = plane.judge(entry)
        tasks_left = standing.case.tasks_left
        certificate = current_certificate(entry, presence)
        return AgentRecord(
            agent=entry.name,
            group=entry.group,
            status=standing.status,
            cause=standing.cause,
            reason=standing.reason,
            since=rfc3339(plane.statuses.since(standing)),
            next=standing.next,
            admin=admin_shown(entry, tasks_left),
            liveness=presence.liveness if presence else Liveness.NEVER,
            certificate=_certificate(certificate, presence, at) if certificate else None,
            details=_details(entry.name, presence),
            running=tasks_left,
            slots=presence.slots if presence else 0,
            badges=badges(presence, at=at),
            last_beat_at=rfc3339_or_none(presence.heard_at) if presence else None,
            returned=presence.returned.told() if presence and presence.returned else "",
            note=entry.admin_term.note,
            by=entry.admin_by,
            until=rfc3339_or_none(entry.admin_term.until),
            tasks_left=tasks_left,
            tags=entry.traits.tags,
            weight=entry.traits.weight,
            priority=entry.traits.priority,
            limit=entry.traits.limit,
            actions=sorted((presence.actions if presence else COMMON) - {INPUT_ABILITY}),
            joined=rfc3339(entry.joined_at or entry.created_at) if entry.connected else None,
            recent=self._recent(entry.name),
            addresses=plane.addresses_of(presence.addresses if presence else ""),
        )

    def groups(self, names: Sequence[str]) -> list[GroupRecord]:
        """As `group`, with one look at the agents for all of them."""
        members: dict[str, list[AgentEntry]] = {name: [] for name in names}
        for entry in self._plane.registry.agents.values():
            if entry.group in members:
                members[entry.group].append(entry)
        return [self._group(name, members[name]) for name in names]

    def group(self, name: str) -> GroupRecord:
        return self.groups([name])[0]

    def _group(self, name: str, members: list[AgentEntry]) -> GroupRecord:
        crew = self._crew(members)
        counts = crew.counts
        is_busy = self._plane.dispatcher.is_busy(name)
        verdict = group_status(counts, crew.idle, is_busy=is_busy)
        status = verdict.status
        since = self._plane.statuses.judge_group(
            name,
            status,
            self._plane.clock.now(),
            unheard_since=crew.unheard_since,
            reason=verdict.reason,
        )
        return GroupRecord(
            group=name,
            status=status,
            reason=verdict.reason,
            since=rfc3339(since),
            agents={str(status): counts.get(str(status), 0) for status in AgentStatus},
            queued=self._plane.dispatcher.waiting(name),
            running=self._plane.dispatcher.group_load(name),
            policy=self._plane.registry.groups[name].policy,
            badges=group_badges(counts, crew.presences, crew.ends_at, at=self._plane.clock.now()),
            next=verdict.next,
        )

    def note_group(self, name: str) -> None:
        """Note a change of the group's status when it happens, not at the next read."""
        known = self._plane.statuses.group(name)
        has_ready = self._plane.dispatcher.has_ready(name)
        if known is not None and (known is GroupStatus.ACTIVE) == has_ready:
            # Hundreds return at once, and each look reads all of them: skipped where nothing can
            # change.
            return
        if name in self._plane.registry.groups:
            self.group(name)

    def spread(self, name: str) -> list[SpreadRecord]:
        """Each agent's commands in the last hour, beside the number expected by the policy."""
        pool = self._plane.dispatcher.pool(name)
        found = []
        for agent in sorted(pool.members):
            due = pool.spread.of(agent)
            found.append(
                SpreadRecord(agent=agent, expected=round(due.expected, 1), actual=due.actual)
            )
        return found

    def _crew(self, members: list[AgentEntry]) -> "_Crew":
        crew = _Crew(Counter(), Counter(), [], [])
        for entry in members:
            standing = self._plane.judge(entry)
            crew.counts[str(standing.status)] += 1
            if standing.cause is Cause.UNHEARD:
                crew.unheard_since = standing.case.seen.since
            if standing.status is AgentStatus.ACTIVE:
                crew.presences.append(standing.case.seen)
                crew.idle.update([standing.brief] if standing.brief else [])
                certificate = current_certificate(entry, standing.case.seen)
                if certificate is not None:
                    crew.ends_at.append(certificate.not_after)
        return crew

    def status_of(self, entry: AgentEntry) -> AgentStatus:
        return self._plane.judge(entry).status

    def status(self, caller: ClientEntry) -> StatusAnswer:
        plane = self._plane
        agents = Counter(
            str(self.status_of(entry))
            for entry in plane.registry.agents.values()
            if may_see(caller, entry.group)
        )
        names = [name for name in plane.registry.groups if may_see(caller, name)]
        groups = Counter(group.status for group in self.groups(names))
        commands = Counter(
            str(command.state) for command in plane.book if may_see(caller, command.accepted.group)
        )
        return StatusAnswer(
            mesh=plane.master.mesh,
            version=VERSION,
            epoch=plane.master.epoch,
            started_at=rfc3339(plane.master.started_at),
            agents={str(status): agents.get(str(status), 0) for status in AgentStatus},
            groups={status: groups.get(status, 0) for status in ("active", "inactive")},
            commands={str(state): commands[state] for state in State if commands[state]},
            broker="connected" if plane.link.is_connected else "disconnected",
            notes=self._notes(caller),
            at=rfc3339(plane.clock.now()),
        )


def certificate_record(entry: CertificateEntry, at: float) -> CertificateRecord:
    return CertificateRecord(
        serial=entry.serial,
        not_after=rfc3339(entry.not_after),
        days_left=days_left(entry, at),
        warning=certificate_warning(entry, at),
    )


def _certificate(
    entry: CertificateEntry, presence: Presence | None, at: float
) -> CertificateRecord:
    """The certificate's record, with a failed renewal of the agent."""
    record = certificate_record(entry, at)
    if presence is None or not presence.renewal:
        return record
    failed = f"renewal failed: {presence.renewal}"
    warning = f"{record.warning}; {failed}" if record.warning else failed
    return msgspec.structs.replace(record, warning=warning)


def _details(name: str, presence: Presence | None) -> DetailsRecord:
    if presence is None:
        return DetailsRecord(id=name)
    said = presence.details
    live = presence.liveness is Liveness.LIVE
    return DetailsRecord(
        id=name,
        ip=presence.address,
        host=said.host,
        pid=said.pid,
        user=said.user,
        uptime_s=round(presence.uptime_s, 1) if live else 0.0,
        version=said.version,
    )
