"""A group in the dispatcher: members by rank, and the commands that wait for any of them.

A lane serves commands with the same required tags, and holds the matching members in a heap.
Entries of a heap are never changed: a member whose load changes gets a new stamp and a new entry,
and entries with an older stamp are dropped when they come to the top. So each command costs a few
steps of a heap, however many members and waiting commands there are.
"""

import heapq
from collections.abc import Collection, Iterator
from typing import Final

from broker_master.core.balance import Member, Ring, rank, share, tier
from broker_master.core.fairness import FairQueue, Turns, Waiting
from broker_master.core.spread import Spread
from broker_master.core.ways import Ways, connection_of
from schemas.messages.registry import DEFAULT_POLICY, Policy

Tags = tuple[tuple[str, str], ...]
_Entry = tuple[tuple[int, float, float], int, Member]

_GONE: Final = -1
_SLACK: Final = 64
# Empty lanes kept for different sets of tags; more are made again when they are needed.
_LANES_KEPT: Final = 64


class Lane:
    def __init__(self, tags: Tags, turns: Turns) -> None:
        self.tags = tags
        self.connection = connection_of(tags)
        self.members: dict[str, Member] = {}
        self.queue = FairQueue(turns)
        self._heap: list[_Entry] = []

    def offer(self, entry: _Entry) -> None:
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 2 * len(self.members) + _SLACK:
            self._heap = [each for each in self._heap if each[1] == each[2].stamp]
            heapq.heapify(self._heap)

    def best(self, avoid: Collection[str] = ()) -> Member | None:
        """The free member that ranks first, not in `avoid`."""
        heap, aside = self._heap, []
        found = None
        while heap:
            _, stamp, member = heap[0]
            if stamp != member.stamp:
                heapq.heappop(heap)
            elif member.agent in avoid:
                aside.append(heapq.heappop(heap))
            else:
                found = member
                break
        for entry in aside:
            heapq.heappush(heap, entry)
        return found


class Pool:
    """Members and waiting commands of a group.

    waiting: commands that wait for it or for one of its members by name. free: members that have a
    free slot.
    """

    def __init__(self, name: str, ways: Ways) -> None:
        self.name = name
        self._ways = ways
        self.policy: Policy = DEFAULT_POLICY
        self.members: dict[str, Member] = {}
        self.turns = Turns()
        self.lanes: dict[Tags, Lane] = {}
        self.any = self.lane(())
        self.spread = Spread()
        self.load = 0
        self.ready = 0
        self.waiting = 0
        self.free = 0
        # Sticky commands: by the agent of their key and their connection, as one that is full must
        # not hold up others; and those without an agent.
        self.sticky: dict[str, dict[str, FairQueue]] = {}
        self.orphans = FairQueue(self.turns)
        self.is_unsettled = False
        self._ring: Ring | None = None
        self._turn = 0.0
        self._stamps = 0

    @property
    def is_full(self) -> bool:
        return bool(self.policy.limit) and self.load >= self.policy.limit

    # -- members

    def add(self, member: Member) -> None:
        self.members[member.agent] = member
        member.spent = self._turn
        self._on_members()

    def remove(self, member: Member) -> None:
        del self.members[member.agent]
        self.load -= member.load
        self.ready -= member.ready
        self.free -= member.counted
        member.counted = False
        member.stamp = _GONE
        for lane in self.lanes.values():
            lane.members.pop(member.agent, None)
        self.spread.remove(member.agent)
        self._on_members()

    def sync_lanes(self, member: Member) -> None:
        """Enter a member into the lanes whose tags it has, and only there."""
        for lane in self.lanes.values():
            if member.has(lane.tags):
                lane.members[member.agent] = member
            else:
                lane.members.pop(member.agent, None)

    def on_standing(self, member: Member) -> None:
        """Its readiness, its size or its traits have changed."""
        balance = self.policy.balance
        due = share(member, balance) if member.ready else 0.0
        self.spread.set_share(member.agent, due, tier(member, balance))
        self.touch(member)

    def touch(self, member: Member) -> None:
        """Its rank has changed: older heap entries are stale."""
        self._stamps += 1
        member.stamp = self._stamps
        # An agent that was away, or full, gets no extra turns for it afterwards.
        floor = self._turn - 1.0 / share(member, self.policy.balance)
        member.spent = max(member.spent, floor)
        is_free = member.free > 0
        if is_free is not member.counted:
            self.free += 1 if is_free else -1
            member.counted = is_free
        if not is_free:
            return
        entry = (rank(member, self.policy.balance), member.stamp, member)
        for lane in self.lanes.values():
            if member.agent in lane.members:
                lane.offer(entry)

    def take(self, member: Member) -> None:
        member.load += 1
        self.load += 1
        self._turn = max(self._turn, member.spent)
        member.spent += 1.0 / share(member, self.policy.balance)
        self.touch(member)

    def give_back(self, member: Member) -> None:
        member.load -= 1
        self.load -= 1
        self.touch(member)

    def set_policy(self, policy: Policy) -> None:
        if policy == self.policy:
            return
        if policy.balance != self.policy.balance:
            # Turns were counted by other shares.
            self._turn = 0.0
            for member in self.members.values():
                member.spent = 0.0
        self.policy = policy
        self._on_members()
        for member in self.members.values():
            self.on_standing(member)

    def _on_members(self) -> None:
        self._ring, self.is_unsettled = None, True

    # -- lanes

    def lane(self, tags: Tags) -> Lane:
        """The lane for these tags, made if it is missing."""
        lane = self.lanes.get(tags)
        if lane is not None:
            return lane
        if len(self.lanes) >= _LANES_KEPT:
            for idle in [each for each in self.lanes.values() if each.tags and not each.queue]:
                del self.lanes[idle.tags]
        lane = self.lanes[tags] = Lane(tags, self.turns)
        for member in self.members.values():
            if member.has(tags):
                lane.members[member.agent] = member
                if member.free > 0:
                    lane.offer((rank(member, self.policy.balance), member.stamp, member))
        return lane

    def shared_queues(self, agent: str) -> Iterator[FairQueue]:
        """Queues of the whole group that an agent may take from now."""
        is_full = self._ways.is_full
        for lane in self.lanes.values():
            if agent in lane.members and not (lane.connection and is_full(lane.connection)):
                yield lane.queue
        for connection, queue in self.sticky.get(agent, {}).items():
            if not is_full(connection):
                yield queue

    def lanes_waiting(self) -> int:
        return sum(bool(lane.queue) for lane in self.lanes.values())

    # -- sticky keys

    def owner(self, key: str, tags: Tags, avoid: Collection[str] = ()) -> Member | None:
        """The ready member that owns a key."""
        if self._ring is None:
            self._ring = Ring(self.members)

        def wanted(agent: str) -> bool:
            member = self.members[agent]
            return member.ready and agent not in avoid and member.has(tags)

        return self.members.get(self._ring.find(key, wanted))

    def sticky_queue(self, key: str, tags: Tags) -> FairQueue:
        """The queue of a command with this key."""
        owner = self.owner(key, tags)
        if owner is None:
            return self.orphans
        queues = self.sticky.setdefault(owner.agent, {})
        return queues.setdefault(connection_of(tags), FairQueue(self.turns))

    def requeue_sticky(self) -> list[tuple[Waiting, FairQueue]]:
        """Move sticky commands to the present owners of their keys; returns their new queues."""
        self.is_unsettled = False
        queues = [queue for each in self.sticky.values() for queue in each.values()]
        queues.append(self.orphans)
        moved = []
        for waiting in [each for queue in queues for each in queue.drain()]:
            is_sticky = self.policy.balance == "sticky"
            tags = waiting.tags
            queue = self.sticky_queue(waiting.sticky, tags) if is_sticky else self.lane(tags).queue
            queue.put_back(waiting)
            moved.append((waiting, queue))
        return moved
