"""Ends pauses, moves agents to their groups, and forgets deleted agents."""

import asyncio
from collections.abc import Callable

import structlog

from broker_master.core import admin
from broker_master.core.standing import Cause
from broker_master.plane import Plane
from broker_master.services.orders import Orders
from broker_master.services.presence import PresenceService
from broker_master.services.revoke import Revoker
from schemas.faults import MeshError
from schemas.messages.registry import AgentEntry
from schemas.states import Admin

log = structlog.get_logger()

Change = Callable[[AgentEntry], AgentEntry]

# Changes of one look; a fleet that fell silent at once is written over several.
_WRITES = 50
_AGAIN_S = 30.0


class AdminTransitions:
    """Looks at every agent once per beat. Its decisions are in the registry: a successor goes on.

    on_change: called with the group of an agent that has changed. on_gone: called with the name of
    an agent that has been deleted.
    """

    name = "terms"

    def __init__(
        self,
        plane: Plane,
        presence: PresenceService,
        revoker: Revoker,
        orders: Orders,
        on_change: Callable[[str], None],
        on_gone: Callable[[str], None],
    ) -> None:
        self._plane = plane
        self._presence = presence
        self._revoker = revoker
        self._orders = orders
        # Earliest next reminder of a moving agent.
        self._told: dict[str, float] = {}
        self._on_change = on_change
        self._on_gone = on_gone

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        while True:
            await asyncio.sleep(self._until_look_s())
            if self._plane.link.is_connected:
                await self._look()

    def _until_look_s(self) -> float:
        """A beat, or the time until the next pause ends: a pause ends at its stated moment."""
        plane = self._plane
        now, beat_s = plane.clock.now(), plane.timers.beat_s
        ends = (
            entry.admin_term.until - now
            for entry in plane.registry.agents.values()
            if entry.admin == Admin.PAUSED
        )
        # An overdue pause could not be ended just now: the next beat retries.
        return min((left_s for left_s in ends if 0 < left_s < beat_s), default=beat_s)

    async def _look(self) -> None:
        """Do what is due, as far as the broker takes it; the rest is due at the next look."""
        writes = 0
        for entry in list(self._plane.registry.agents.values()):
            if writes >= _WRITES:
                return
            try:
                writes += await self._see_to(entry)
            except MeshError as error:
                log.warning("term_delayed", agent=entry.name, error=str(error))
                return

    async def _see_to(self, entry: AgentEntry) -> bool:
        """Do what is due for one agent; returns whether anything was."""
        plane, at = self._plane, self._plane.clock.now()
        if entry.admin == Admin.DELETED:
            if self.has_tasks(entry.name):
                return False
            await self._revoker.revoke(entry.name, entry.certificates)
            return await self.depart(entry.name)
        if admin.is_pause_over(entry, at=at):
            await self.change(entry.name, lambda current: admin.end_pause(current, at=at))
            log.info("pause_ended", agent=entry.name, by=entry.admin_by)
            said_by = f", set by {entry.admin_by}" if entry.admin_by else ""
            plane.note("agent.enable", entry.name, detail=f"its pause is over{said_by}")
            return True
        presence = plane.roster.get(entry.name)
        if plane.judge(entry).cause is Cause.MOVING:
            return await self._move_on(entry.name)
        if presence is None or not entry.connected:
            return False
        started_at = plane.master.started_at
        if admin.seen(entry, presence, started_at=started_at) is entry:
            return False
        await plane.registry.change_agent(
            entry.name, lambda current: admin.seen(current, presence, started_at=started_at)
        )
        return True

    async def _move_on(self, agent: str) -> bool:
        """Make an empty agent get credentials of the group it moves to; repeated if need be."""
        now_s = self._plane.clock.elapsed()
        if self.has_tasks(agent) or now_s < self._told.get(agent, 0.0):
            return False
        self._told[agent] = now_s + _AGAIN_S
        # Ends of pauses do not wait for an agent that is frozen.
        await self._orders.give(agent, "rotate", within_s=self._plane.timers.beat_s)
        log.info("move_ordered", agent=agent)
        return True

    # -- deleted agents

    def has_tasks(self, agent: str) -> bool:
        """Whether an attempt on `agent` is open: it may run, or its end is being recorded."""
        if self._plane.dispatcher.load(agent):
            return True
        return any(
            attempt is not None and attempt.agent == agent
            for attempt in (command.open_attempt for command in self._plane.book)
        )

    async def depart(self, agent: str) -> bool:
        """Forget a deleted agent, unless a task of it may still run. Returns whether it is gone.

        Its credentials are revoked already, so no message comes in its name. The roster tracks the
        lease of its tasks, so the agent stays there until they are over.
        """
        entry = self._plane.registry.agents.get(agent)
        if entry is None:
            return True
        # A new agent of this name may have been made since.
        if entry.admin != Admin.DELETED or self.has_tasks(agent):
            return False
        await self._plane.registry.delete_agent(agent)
        self._plane.roster.remove(agent)
        self._plane.dispatcher.remove_member(agent)
        self._on_gone(agent)
        self._on_change(entry.group)
        log.info("agent_deleted", agent=agent)
        return True

    async def change(self, name: str, change: Change) -> AgentEntry:
        """Change an entry, and notify all services concerned."""
        changed = await self._plane.registry.change_agent(name, change)
        presence = self._plane.roster.get(name)
        if presence is not None:
            self._presence.sync_member(presence)
        # Last: the look at the group asks whether the dispatcher has a ready member.
        self._on_change(changed.group)
        return changed
