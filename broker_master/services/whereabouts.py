"""Hosts of each identity's connections, from the broker's announcements."""

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from typing import Any, Final

import msgspec
import structlog

from broker_master.services.comparison import name_in
from broker_master.services.system import BrokerSystem
from schemas.faults import MeshError

log = structlog.get_logger()

# Ended connections in memory: a command line has often gone when its host is looked up.
_ENDED_MAX: Final = 1000
_HOSTS_SHOWN: Final = 4


class Sighting(msgspec.Struct, frozen=True):
    """One connection. user: its public broker key. name: from its token."""

    user: str
    host: str
    name: str = ""


class Whereabouts:
    """Answers from memory; `refresh` reads the broker's list."""

    name = "whereabouts"

    def __init__(self, system: BrokerSystem) -> None:
        self._system = system
        self._live: dict[tuple[str, int], Sighting] = {}
        self._by_user: dict[str, set[tuple[str, int]]] = {}
        self._ended: OrderedDict[str, Sighting] = OrderedDict()
        self._missed = asyncio.Event()

    async def run(self, ready: asyncio.Event) -> None:
        await self._system.watch(self.on_event, self._missed.set)
        self._missed.set()
        ready.set()
        while True:
            await self._missed.wait()
            self._missed.clear()
            try:
                await self.refresh()
            except MeshError as error:
                # Entries of the trail lack their address until the link is back.
                log.info("whereabouts_unknown", error=str(error))

    def hosts(self, users: Collection[str]) -> str:
        """Present hosts of these broker keys, or the last ones; empty if unknown."""
        places = [place for user in users for place in self._by_user.get(user, ())]
        found = [self._live[place].host for place in places]
        return _listed(found or [self._ended[user].host for user in users if user in self._ended])

    def hosts_of_strangers(self, name: str, known: Collection[str]) -> str:
        """Hosts of connections with a token of `name` under unknown keys."""
        seen = [*self._live.values(), *self._ended.values()]
        return _listed([s.host for s in seen if s.name == name and s.user not in known][:1])

    def name_at(self, place: tuple[str, int]) -> str:
        """The name in the token of a live connection; empty if it is not known."""
        seen = self._live.get(place)
        return seen.name if seen is not None else ""

    def seen_at(self, place: tuple[str, int]) -> Sighting | None:
        """A live connection; None if it is not known."""
        return self._live.get(place)

    def places_of(self, user: str) -> list[tuple[str, int]]:
        """The live connections with a broker key."""
        return list(self._by_user.get(user, ()))

    async def refresh(self) -> None:
        """Replace the memory by the broker's present list: announcements may have been missed."""
        connections = await self._system.connections()
        self._live.clear()
        self._by_user.clear()
        for each in connections:
            host = each.address.rpartition(":")[0]
            self._enter((each.server, each.cid), Sighting(each.user, host, name_in(each.token)))

    def on_event(self, kind: str, body: dict[str, Any]) -> None:
        client = body.get("client", {})
        place = (str(body.get("server", {}).get("id", "")), int(client.get("id", 0)))
        if kind == "DISCONNECT":
            self._leave(place)
        elif client.get("user"):
            name = name_in(str(client.get("jwt", "")))
            self._enter(place, Sighting(str(client["user"]), str(client.get("host", "")), name))

    def _enter(self, place: tuple[str, int], seen: Sighting) -> None:
        self._live[place] = seen
        self._by_user.setdefault(seen.user, set()).add(place)

    def _leave(self, place: tuple[str, int]) -> None:
        seen = self._live.pop(place, None)
        if seen is None:
            return
        places = self._by_user[seen.user]
        places.discard(place)
        if not places:
            del self._by_user[seen.user]
        self._ended[seen.user] = seen
        self._ended.move_to_end(seen.user)
        if len(self._ended) > _ENDED_MAX:
            self._ended.popitem(last=False)


def _listed(hosts: Collection[str]) -> str:
    return ", ".join(sorted(set(hosts))[:_HOSTS_SHOWN])
