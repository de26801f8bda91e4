"""Live connections of each identity, so that the end of the last one is noticed.

Counted from the broker's announcements, and from its list where announcements may have been missed.
A connection counted after its end only delays the reaction to the end.
"""

from collections import Counter
from collections.abc import Mapping

# A node's id, which is new with each of its starts, and the number of a connection there.
Place = tuple[str, int]


class Connected:
    def __init__(self) -> None:
        self._names: dict[Place, str] = {}
        self._counts: Counter[str] = Counter()

    def on_connected(self, place: Place, name: str) -> None:
        if place not in self._names:
            self._names[place] = name
            self._counts[name] += 1

    def on_ended(self, place: Place) -> str | None:
        """The identity whose last connection ended; None if it has others, or is not known."""
        name = self._names.pop(place, None)
        if name is None:
            return None
        self._counts[name] -= 1
        if self._counts[name]:
            return None
        del self._counts[name]
        return name

    def places(self) -> set[Place]:
        return set(self._names)

    def on_listed(self, before: set[Place], live: Mapping[Place, str]) -> None:
        """Take in the broker's list. before: `places` when the list was requested.

        A connection missing in the list is no longer counted, and no end is concluded: a node may
        have been too slow to answer.
        """
        for place in before - live.keys():
            _ = self.on_ended(place)
        for place, name in live.items():
            self.on_connected(place, name)
