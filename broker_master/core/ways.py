"""Connections as the dispatcher sees them: required profiles, and limits of commands at once.

A usable profile is an implicit tag: its name and kind, and its hash where the connection is pinned.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from broker_master.core.balance import PROFILE_TAG
from schemas.messages.liveness import ProfileStatus
from schemas.messages.registry import ConnectionEntry


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
        if each.state == "ok":
            found.update((_tag(each.name, each.kind), _tag(each.name, each.kind, each.hash)))
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

    def needs(self, connection: str) -> tuple[tuple[str, str], ...]:
        """Tags required for a command through a connection; none without one."""
        if not connection:
            return ()
        way = self._ways.get(connection)
        if way is None:
            return ((PROFILE_TAG, _tag(connection, "")),)
        return ((PROFILE_TAG, _tag(connection, way.kind, way.pin)),)

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


def _tag(name: str, kind: str, hash: str = "") -> str:
    return f"{name} {kind} {hash}" if hash else f"{name} {kind}"
