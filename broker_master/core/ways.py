"""Connections as the dispatcher sees them: required profiles, and limits of commands at once.

A usable profile is an implicit tag for each action that it allows: its name, its kind and the
action, and its hash where the connection is pinned. Actions of plug-ins are left to their hosts.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from broker_master.core.balance import PROFILE_TAG
from schemas.kinds import KINDS, actions_of
from schemas.messages.actions.connection import CONNECTION_TEST
from schemas.messages.liveness import ProfileStatus
from schemas.messages.registry import ConnectionEntry

# Place of the hash in a tag that has one.
_PIN_AT: Final = 3


class Way(NamedTuple):
    """A connection. is_open: commands may start through it. at_once: 0 for no limit."""

    kind: str
    pin: str = ""
    at_once: int = 0
    is_open: bool = True

    @property
    def has_limit(self) -> bool:
        return bool(self.at_once) or not self.is_open


def way_of(entry: ConnectionEntry) -> Way:
    return Way(entry.kind, entry.pin, entry.at_once, entry.enabled)


def usable_tags(profiles: Iterable[ProfileStatus]) -> frozenset[str]:
    """The values of the implicit tag that these profiles give their agent."""
    found: set[str] = set()
    for each in profiles:
        if each.state != "ok":
            continue
        allowed = each.actions or actions_of(each.kind)
        for action in (*allowed, CONNECTION_TEST.name) if each.kind in KINDS else ("",):
            found.add(_tag(each.name, each.kind, action))
            found.add(_tag(each.name, each.kind, action, each.hash))
    return frozenset(found)


def connection_of(tags: Iterable[tuple[str, str]]) -> str:
    """The connection that required tags are of, or empty."""
    return next((value.partition(" ")[0] for name, value in tags if name == PROFILE_TAG), "")


class Ways:
    """Connections by name, with the number of commands that agents have through each."""

    def __init__(self) -> None:
        self._ways: dict[str, Way] = {}
        self._loads: Counter[str] = Counter()
        self.limited = 0

    def put(self, name: str, way: Way) -> None:
        self.remove(name)
        self._ways[name] = way
        self.limited += way.has_limit

    def remove(self, name: str) -> None:
        before = self._ways.pop(name, None)
        self.limited -= before is not None and before.has_limit

    def needs(self, connection: str, action: str = "") -> tuple[tuple[str, str], ...]:
        """Tags required for an action through a connection; none without one.

        action: empty: any that leaves the system alone, for the status of the connection.
        """
        if not connection:
            return ()
        way = self._ways.get(connection)
        if way is None:
            return ((PROFILE_TAG, f"{connection} ?"),)
        wanted = (action or CONNECTION_TEST.name) if way.kind in KINDS else ""
        return ((PROFILE_TAG, _tag(connection, way.kind, wanted, way.pin)),)

    def is_full(self, connection: str) -> bool:
        """Whether no more commands may start through it just now."""
        way = self._ways.get(connection) if connection else None
        if way is None or not way.has_limit:
            return False
        return not way.is_open or self._loads[connection] >= way.at_once

    def get(self, connection: str) -> Way | None:
        return self._ways.get(connection)

    def load(self, connection: str) -> int:
        return self._loads.get(connection, 0)

    def take(self, connection: str) -> None:
        self._loads[connection] += 1

    def give_back(self, connection: str) -> None:
        self._loads[connection] -= 1
        if self._loads[connection] <= 0:
            del self._loads[connection]


def pin_of(tag: str) -> str:
    """The pinned hash that a value of the implicit tag has, or empty."""
    return next(iter(tag.split(" ")[_PIN_AT:]), "")


def _tag(name: str, kind: str, action: str, hash: str = "") -> str:
    return f"{name} {kind} {action} {hash}" if hash else f"{name} {kind} {action}"
