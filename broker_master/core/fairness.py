"""Order of waiting commands: the greater priority first, clients in turn within one.

A client with a thousand waiting commands does not delay a client with one: each command gets a
place as if the clients had submitted theirs in turn (start-time fair queuing).
"""

import heapq

import msgspec


class Turns:
    """Assigns places. Shared by queues, so that no client gains by using several of them."""

    def __init__(self) -> None:
        self._now: dict[int, float] = {}
        self._last: dict[tuple[int, str], float] = {}

    def place(self, client: str, priority: int) -> float:
        key = (priority, client)
        place = max(self._now.get(priority, 0.0), self._last.get(key, 0.0)) + 1.0
        self._last[key] = place
        return place

    def on_taken(self, priority: int, place: float) -> None:
        if place > self._now.get(priority, 0.0):
            self._now[priority] = place

    def forget(self) -> None:
        """Reset: no command waits, so no client has a claim."""
        self._now.clear()
        self._last.clear()


class Waiting(msgspec.Struct, eq=False):
    """A command in a queue. place 0: it waited before. gone: it is in no queue any more."""

    command: str
    priority: int
    place: float
    sticky: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    gone: bool = False


# Smallest first: priority with its sign turned, place, order of arrival.
Order = tuple[int, float, int]


class FairQueue:
    """Commands that wait for the same agents."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._heap: list[tuple[int, float, int, Waiting]] = []
        self._arrivals = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(
        self,
        command: str,
        client: str,
        priority: int,
        *,
        first: bool,
        sticky: str = "",
        tags: tuple[tuple[str, str], ...] = (),
    ) -> Waiting:
        """Add a command. first: it waited before and goes before others of its priority."""
        place = 0.0 if first else self._turns.place(client, priority)
        waiting = Waiting(command, priority, place, sticky, tags)
        self.put_back(waiting)
        return waiting

    def put_back(self, waiting: Waiting) -> None:
        """Add an entry with its present place."""
        self._arrivals += 1
        heapq.heappush(self._heap, (-waiting.priority, waiting.place, self._arrivals, waiting))
        self._count += 1

    def remove(self, waiting: Waiting) -> None:
        if not waiting.gone:
            waiting.gone = True
            self._count -= 1
        if not self._count:
            self._heap.clear()

    def head(self) -> Order | None:
        heap = self._heap
        while heap and heap[0][3].gone:
            heapq.heappop(heap)
        return heap[0][:3] if heap else None

    def take(self) -> Waiting:
        """Take the entry that `head` returns; the queue must not be empty."""
        waiting = heapq.heappop(self._heap)[3]
        self._turns.on_taken(waiting.priority, waiting.place)
        waiting.gone = True
        self._count -= 1
        return waiting

    def drain(self) -> list[Waiting]:
        """Remove and return all entries, in order, for other queues."""
        left = [entry[3] for entry in sorted(self._heap) if not entry[3].gone]
        self._heap.clear()
        self._count = 0
        return left
