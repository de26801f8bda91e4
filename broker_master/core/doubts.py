"""Identities with a connection whose certificate and token were not compared yet.

connected ──compared, in order──▶ forgotten: its identity is clear again
"""

from collections import Counter
from collections.abc import Mapping

# A node's id, which is new with each of its starts, and the number of a connection there.
Place = tuple[str, int]


class Doubts:
    """An identity is clear if none of its live connections is in doubt."""

    def __init__(self) -> None:
        self._names: dict[Place, str] = {}
        self._fresh: dict[Place, None] = {}
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._names)

    def restart(self, live: Mapping[Place, str]) -> None:
        """Replace the doubted connections by exactly these."""
        self._names.clear()
        self._fresh.clear()
        self._counts.clear()
        for place, name in live.items():
            self.on_connected(place, name)

    def on_connected(self, place: Place, name: str) -> None:
        if place not in self._names:
            self._names[place] = name
            self._fresh[place] = None
            self._counts[name] += 1

    def is_clear(self, name: str) -> bool:
        return name not in self._counts

    def name_of(self, place: Place) -> str | None:
        """Name of the identity of a connection, while the connection is in doubt."""
        return self._names.get(place)

    def places(self) -> set[Place]:
        return set(self._names)

    def take_fresh(self, most: int) -> list[Place]:
        """The next connections to compare, the oldest first; each is given out once."""
        taken = list(self._fresh)[:most]
        for place in taken:
            del self._fresh[place]
        return taken

    def put_back(self, places: list[Place]) -> None:
        """Return connections that could not be compared just now."""
        for place in places:
            if place in self._names:
                self._fresh[place] = None

    def forget(self, place: Place) -> None:
        """Remove a connection: it is in order, or everything received over it was dropped."""
        self._fresh.pop(place, None)
        name = self._names.pop(place, None)
        if name is not None:
            self._counts[name] -= 1
            if not self._counts[name]:
                del self._counts[name]
