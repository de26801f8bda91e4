"""Connections for users, and the changes of their status."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from broker_master.core import connections
from broker_master.core.connections import ConnectionStatus, Host, Verdict
from broker_master.core.liveness import Silence
from broker_master.core.rights import may_see
from broker_master.core.statuses import ConnectionChange
from broker_master.plane import Plane
from broker_master.services.views import Views
from schemas.messages.api import ConnectionMember, ConnectionRecord
from schemas.messages.registry import ClientEntry, ConnectionEntry
from schemas.moments import rfc3339
from schemas.states import AgentStatus, GroupStatus
from schemas.texts import cut_text

# Members that `connection.show` lists, and characters of their texts there.
MEMBERS_MAX: Final = 100
TEXT_SHOWN: Final = 300


class ConnectionViews:
    name = "connections"

    def __init__(self, plane: Plane, views: Views) -> None:
        self._plane = plane
        self._views = views

    def records(self, entries: Sequence[ConnectionEntry]) -> list[ConnectionRecord]:
        """As `record`, with one look at the groups and the waiting commands for all of them."""
        plane = self._plane
        queued = Counter(
            command.accepted.connection
            for command in plane.book.waiting()
            if command.accepted.connection
        )
        crews = self._crews({entry.group for entry in entries})
        return [self._record(entry, crews.get(entry.group, []), queued) for entry in entries]

    def record(self, entry: ConnectionEntry) -> ConnectionRecord:
        return self.records([entry])[0]

    def whole(self, entry: ConnectionEntry) -> ConnectionRecord:
        """The record with its members."""
        hosts = self.hosts(entry)
        members = [_member(self._plane, entry, host) for host in hosts]
        return msgspec.structs.replace(
            self.record(entry),
            members=members[:MEMBERS_MAX],
            members_left_out=max(0, len(members) - MEMBERS_MAX),
        )

    def hosts(self, entry: ConnectionEntry) -> list[Host]:
        """The agents of its group by name, each with its host's profile."""
        return self._hosts(entry, self._crews({entry.group})[entry.group])

    def visible(self, caller: ClientEntry) -> list[ConnectionEntry]:
        entries = sorted(self._plane.registry.connections.values(), key=lambda each: each.name)
        return [entry for entry in entries if may_see(caller, entry.group)]

    # -- changes

    async def run(self, ready: asyncio.Event) -> None:
        """Note changes that no event of a group announces, as those of profiles."""
        ready.set()
        while True:
            await asyncio.sleep(self._plane.timers.beat_s)
            for entry in [*self._plane.registry.connections.values()]:
                self.note(entry)

    def note_group(self, group: str) -> None:
        """Note changes of status of a group, and of connections through it, when they happen."""
        self._views.note_group(group)
        for entry in [*self._plane.registry.connections.values()]:
            if entry.group == group:
                self.note(entry)

    def note(self, entry: ConnectionEntry) -> None:
        """Note a change of a connection's status; most calls change nothing, and are cheap."""
        plane = self._plane
        known = plane.statuses.connection(entry.name)
        needs = plane.dispatcher.ways.needs(entry.name)
        has_ready = entry.enabled and plane.dispatcher.has_ready(entry.group, needs)
        if known is None or (known == ConnectionStatus.ACTIVE) != has_ready:
            self._judge(entry, self.hosts(entry))

    # -- parts

    def _crews(self, groups: set[str]) -> dict[str, list[str]]:
        """Names of the agents of these groups."""
        crews: dict[str, list[str]] = {group: [] for group in groups}
        for agent in sorted(self._plane.registry.agents.values(), key=lambda each: each.name):
            if agent.group in crews:
                crews[agent.group].append(agent.name)
        return crews

    def _hosts(self, entry: ConnectionEntry, agents: Sequence[str]) -> list[Host]:
        plane, found = self._plane, []
        for name in agents:
            agent = plane.registry.agents[name]
            is_active = plane.judge(agent).status is AgentStatus.ACTIVE
            profile = plane.profiles.find(plane.roster.get(name), entry.name)
            found.append(Host(name, is_active, profile))
        return found

    def _judge(self, entry: ConnectionEntry, hosts: Sequence[Host]) -> tuple[Verdict, float]:
        """The status of a connection, and since when it has it; a change of it is noted."""
        why, way_out = "", ""
        if not any(host.is_active for host in hosts):
            group = self._views.group(entry.group)
            if group.status != GroupStatus.ACTIVE:
                why, way_out = group.reason, group.next
        verdict = connections.judge(entry, hosts, why, way_out)
        change = ConnectionChange(
            entry.name, entry.group, verdict.status, self._plane.clock.now(), verdict.reason
        )
        since = self._plane.statuses.judge_connection(
            change, unheard_since=self._unheard_since(hosts, verdict)
        )
        return verdict, since

    def _unheard_since(self, hosts: Sequence[Host], verdict: Verdict) -> float:
        """Since when a new master waits for agents or their profiles; 0 if it does not."""
        plane = self._plane
        if verdict.status is not ConnectionStatus.INACTIVE:
            return 0.0
        for host in hosts:
            presence = plane.roster.get(host.agent)
            if presence is None:
                continue
            if presence.silence is Silence.UNHEARD or plane.profiles.wants(presence):
                return presence.since
        return 0.0

    def _record(
        self, entry: ConnectionEntry, agents: Sequence[str], queued: Counter[str]
    ) -> ConnectionRecord:
        hosts = self._hosts(entry, agents)
        verdict, since = self._judge(entry, hosts)
        usable = sum(
            host.is_active and connections.profile_state(entry, host.profile) == "ok"
            for host in hosts
        )
        return ConnectionRecord(
            connection=entry.name,
            kind=entry.kind,
            group=entry.group,
            status=verdict.status,
            reason=verdict.reason,
            since=rfc3339(since),
            next=verdict.next,
            enabled=entry.enabled,
            agents=len(hosts),
            usable=usable,
            running=self._plane.dispatcher.ways.load(entry.name),
            queued=queued[entry.name],
            at_once=entry.at_once,
            timeout_s=entry.timeout_s,
            output_bytes=entry.output_bytes,
            actions=entry.actions,
            pin=entry.pin,
            note=entry.note,
            badges=connections.badges(entry, hosts),
            created_at=rfc3339(entry.created_at),
            created_by=entry.created_by,
        )


def _member(plane: Plane, entry: ConnectionEntry, host: Host) -> ConnectionMember:
    profile = host.profile
    return ConnectionMember(
        agent=host.agent,
        status=str(plane.judge(plane.registry.agent(host.agent)).status),
        state=connections.profile_state(entry, profile),
        hash=profile.hash if profile is not None else "",
        problem=cut_text(profile.problem, TEXT_SHOWN) if profile is not None else "",
        shape=cut_text(profile.shape, TEXT_SHOWN) if profile is not None else "",
    )
