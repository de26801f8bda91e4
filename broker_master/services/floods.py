"""Shuts out senders of floods, whose reading takes the time of all others.

Messages that the master cannot read in time cannot be judged by it, so the broker's own counters
decide. It refuses the key of a flood for a while, like a revoked one, so that a reconnect fails.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Final

import structlog

from broker_master.ca.accounts import Accounts
from broker_master.core.budgets import Budgets
from broker_master.core.floods import Flood, Floods, Place, Sent
from broker_master.plane import Plane
from broker_master.services.system import BrokerSystem, Connection
from broker_master.services.whereabouts import Sighting, Whereabouts
from schemas.faults import MeshError
from schemas.messages.audit import Actor
from schemas.messages.registry import AgentEntry, ClientEntry

log = structlog.get_logger()

_TICK_S: Final = 0.1
_AGAIN_S: Final = 1.0
# At this rate of messages a second in all, looks are more frequent.
_BUSY_PER_S: Final = 5000
_BUSY_LOOK_S: Final = 0.2
_LOOK_S: Final = 2.0
# A look at a thousand connections costs the broker some 10 ms.
_PER_CONNECTION_S: Final = 0.0005
_MIB: Final = 1024**2


class FloodWatch:
    """Looks at the broker's counters, and shuts out keys.

    nodes: ids of the broker's nodes. own: the mesh's own broker keys, which are never cut.
    """

    name = "floods"

    def __init__(
        self,
        plane: Plane,
        accounts: Accounts,
        system: BrokerSystem,
        whereabouts: Whereabouts,
        budgets: Budgets,
        *,
        nodes: Callable[[], Collection[str]],
        own: Callable[[], Collection[str]],
    ) -> None:
        self._plane = plane
        self._accounts = accounts
        self._system = system
        self._whereabouts = whereabouts
        self._budgets = budgets
        self._nodes = nodes
        self._own = own
        limits = plane.settings.limits
        self._floods = Floods(messages_per_s=limits.messages_per_s, bytes_per_s=limits.bytes_per_s)
        # None: the broker may still refuse keys shut out by an earlier master.
        self._refused: set[str] | None = None
        self._names: dict[str, str] = {}
        self._received = 0
        self._looked_s = float("-inf")
        self._connections = 0

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        while True:
            try:
                if self._is_due():
                    await self.look()
                await self._apply()
            except MeshError as error:
                log.warning("floods_unknown", code=error.code, error=str(error))
                await asyncio.sleep(_AGAIN_S)
            await asyncio.sleep(_TICK_S)

    def _is_due(self) -> bool:
        received = self._plane.link.received
        fresh, self._received = received - self._received, received
        wait_s = _BUSY_LOOK_S if fresh < 0 or fresh > _BUSY_PER_S * _TICK_S else _LOOK_S
        wait_s += self._connections * _PER_CONNECTION_S
        return self._plane.clock.elapsed() >= self._looked_s + wait_s

    async def look(self) -> None:
        """Read the counters of each connection, and shut out keys above their allowance."""
        sent = await self._sent()
        self._connections = len(sent)
        self._looked_s = self._plane.clock.elapsed()
        for flood in self._floods.look(sent, self._looked_s):
            await self._cut(flood)

    async def _sent(self) -> dict[Place, Sent]:
        own, found = self._own(), {}
        for place, (messages, size) in (await self._system.sent_to(self._nodes())).items():
            seen = self._whereabouts.seen_at(place)
            if seen is None or seen.user in own:
                found[place] = Sent("", messages, size)
                continue
            if self._actor(seen) != "agent":
                found[place] = Sent(seen.user, messages, size)
                continue
            # Its output bypasses the master; other traffic does not.
            heard = self._budgets.heard(seen.name)
            found[place] = Sent(seen.user, messages, 0)
            found[f"heard of {seen.name} {seen.user}", 0] = Sent(seen.user, 0, heard)
        return found

    def _actor(self, seen: Sighting) -> Actor:
        """The role of a connection, by its key."""
        registry = self._plane.registry
        entries: tuple[tuple[Actor, AgentEntry | ClientEntry | None], ...] = (
            ("agent", registry.agents.get(seen.name)),
            ("client", registry.clients.get(seen.name)),
        )
        for actor, entry in entries:
            if entry is not None and any(
                each.user_nkey == seen.user for each in entry.certificates
            ):
                return actor
        return "token"

    async def _cut(self, flood: Flood) -> None:
        places = self._whereabouts.places_of(flood.user)
        seen = self._whereabouts.seen_at(places[0]) if places else None
        seen = seen or Sighting(flood.user, "an unknown host")
        if seen.name and self._actor(seen) != "token":
            self._names[flood.user] = seen.name
            self._plane.shut_out[seen.name] = self._plane.clock.now() + flood.for_s
        self._tell(flood, seen)
        for server, cid in places:
            await self._system.kick(Connection(server, cid, flood.user, ""))

    def _tell(self, flood: Flood, seen: Sighting) -> None:
        actor = self._actor(seen)
        self._plane.count("shut_out", actor)
        log.error("shut_out", name=seen.name, role=actor, address=seen.host, for_s=flood.for_s)
        noun = "client" if actor == "client" else "agent"
        said = f"{flood.messages_per_s:.0f} messages/s, {flood.bytes_per_s / _MIB:.0f} MiB/s"
        self._plane.note(
            f"{noun}.shut_out",
            seen.name,
            by=seen.name,
            actor=actor,
            result="alarm",
            detail=f"{said} from {seen.host}, more than limits.messages_per_s or .bytes_per_s:"
            f" refused for {flood.for_s:.0f} s; permanently: mesh {noun} revoke {seen.name}",
        )

    async def _apply(self) -> None:
        """Make the broker refuse exactly the keys that are shut out now."""
        wanted = self._floods.shut_out(self._plane.clock.elapsed())
        if wanted == self._refused:
            return
        token = self._accounts.shut_out(wanted, now=self._plane.clock.now())
        await self._system.update_account(token)
        for user in (self._refused or set()) - wanted:
            name = self._names.pop(user, "")
            log.info("let_in_again", name=name)
            if name not in self._names.values():
                self._plane.shut_out.pop(name, None)
        self._refused = wanted
