"""Similar names for a fault about an unknown name: only names that its caller may see."""

import re
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from broker_client.runtime.rates import TokenBucket
from broker_master.core.rights import may_see, may_see_all, may_see_client
from broker_master.plane import Plane
from schemas.faults import MeshError
from schemas.messages.registry import ClientEntry
from schemas.near import near_names
from schemas.permissions import may_call
from schemas.states import State

# As in the texts of the registry and the operations.
_NO_SUCH: Final = re.compile(
    r"no (agent|group|client|connection|command|dead letter|fan-out) ([A-Za-z0-9_-]{1,64})"
)
# Names to compare with at most: each costs microseconds.
_MOST: Final = 1000
_LATELY: Final = 200
# Rate limit of one master: the suggestions are a courtesy to people.
_PER_S: Final = 2.0
_BURST: Final = 20.0
# Random ids are similar by chance.
_ALIKE: Final = 0.75


class NearNames:
    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._bucket = TokenBucket(per_s=_PER_S, burst=_BURST)
        self._known: dict[str, Callable[[ClientEntry, str], Iterable[str]]] = {
            "agent": self._agents,
            "group": self._groups,
            "client": self._clients,
            "connection": self._connections,
            "command": self._commands,
            "dead letter": self._dead_letters,
            "fan-out": self._fanouts,
        }

    def extend(self, client: str, error: MeshError) -> MeshError:
        """Return `error`, with similar names if it is about an unknown name."""
        found = _NO_SUCH.fullmatch(error.message)
        caller = self._plane.registry.clients.get(client) if found is not None else None
        if found is None or caller is None or caller.revoked:
            return error
        if not self._bucket.take(self._plane.clock.elapsed()):
            return error
        kind, name = found.groups()
        known = list(islice(self._known[kind](caller, name), _MOST))
        is_id = kind in ("command", "dead letter", "fan-out")
        near = near_names(name, known, _ALIKE) if is_id else near_names(name, known)
        return MeshError(error.code, error.message + near, effect=error.effect)

    def _agents(self, caller: ClientEntry, _name: str) -> Iterable[str]:
        agents = self._plane.registry.agents.values()
        return (each.name for each in agents if may_see(caller, each.group))

    def _groups(self, caller: ClientEntry, _name: str) -> Iterable[str]:
        return (name for name in self._plane.registry.groups if may_see(caller, name))

    def _clients(self, caller: ClientEntry, _name: str) -> Iterable[str]:
        if not may_call(caller.role, "client", "list"):
            return ()
        clients = self._plane.registry.clients.values()
        return (each.name for each in clients if may_see_client(caller, each))

    def _connections(self, caller: ClientEntry, _name: str) -> Iterable[str]:
        connections = self._plane.registry.connections.values()
        return (each.name for each in connections if may_see(caller, each.group))

    def _commands(self, caller: ClientEntry, name: str) -> Iterable[str]:
        book = ((each.id, each.accepted.group) for each in reversed([*self._plane.book][-_LATELY:]))
        ended = self._plane.readmodel.some_ids(name, _LATELY)
        return dict.fromkeys(each for each, group in (*book, *ended) if may_see(caller, group))

    def _dead_letters(self, caller: ClientEntry, _name: str) -> Iterable[str]:
        ended = self._plane.readmodel.last_in_trouble(State.UNDELIVERABLE, _LATELY)
        return dict.fromkeys(each for each, group in ended if may_see(caller, group))

    def _fanouts(self, caller: ClientEntry, _name: str) -> Iterable[str]:
        table = self._plane.fanouts
        ids = [*table.running, *reversed(table.summaries)]
        return (each for each in ids if may_see_all(caller, table.groups(each)))
