"""Who gets the next command: queues, loads and the choice.

A command waits in the queue of its target, a group or one agent, in the order of its acceptance.
The choice is the ready member with the smallest load per slot; equal ones take turns.
"""

from collections import deque

import msgspec


class Member(msgspec.Struct, kw_only=True):
    """An agent as the choice sees it. load: attempts sent, accepted or running on it."""

    agent: str
    group: str
    slots: int = 0
    load: int = 0
    ready: bool = False

    @property
    def free(self) -> int:
        return self.slots - self.load if self.ready else 0


class Choice(msgspec.Struct, frozen=True):
    agent: str
    why: str


class _Pool:
    """A group: its members in a fixed order, whose turn it is, and what waits for any of them."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.turn = 0
        self.queue: deque[str] = deque()


class Dispatcher:
    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._pools: dict[str, _Pool] = {}
        self._agent_queues: dict[str, deque[str]] = {}

    # -- members

    def set_member(self, group: str, agent: str, *, slots: int, ready: bool) -> None:
        """Enter an agent or say what is now true of it; its load stays."""
        member = self._members.get(agent)
        if member is not None and member.group != group:
            self.remove_member(agent)
            member = None
        if member is None:
            member = self._members[agent] = Member(agent=agent, group=group)
            self._pool(group).members.append(member)
        member.slots, member.ready = slots, ready

    def remove_member(self, agent: str) -> None:
        member = self._members.pop(agent, None)
        if member is not None:
            self._pools[member.group].members.remove(member)

    def is_ready(self, agent: str) -> bool:
        member = self._members.get(agent)
        return member is not None and member.ready

    def has_ready(self, group: str) -> bool:
        return any(member.ready for member in self._pool(group).members)

    def load(self, agent: str) -> int:
        member = self._members.get(agent)
        return member.load if member is not None else 0

    def group_load(self, group: str) -> int:
        return sum(member.load for member in self._pool(group).members)

    def take(self, agent: str) -> None:
        """Count one more attempt on `agent`; every `take` is followed by one `give_back`."""
        member = self._members.get(agent)
        if member is not None:
            member.load += 1

    def give_back(self, agent: str) -> None:
        member = self._members.get(agent)
        if member is not None and member.load > 0:
            member.load -= 1

    # -- the choice

    def choose(self, group: str, agent: str, *, avoid: str = "") -> Choice | None:
        """The member to send to now, or None if the command has to wait.

        agent: the only one that may be chosen, or empty. avoid: one that has just refused it,
        taken only if no other has a free slot.
        """
        if agent:
            member = self._members.get(agent)
            if member is None or member.free <= 0:
                return None
            return Choice(agent, "the only target")
        return self._least_loaded(self._pool(group), avoid)

    def _least_loaded(self, pool: _Pool, avoid: str) -> Choice | None:
        count = len(pool.members)
        best: Member | None = None
        best_index = 0
        for step in range(count):
            index = (pool.turn + step) % count
            member = pool.members[index]
            if member.free <= 0:
                continue
            if best is None or _is_better(member, best, avoid):
                best, best_index = member, index
                if member.load == 0 and member.agent != avoid:
                    break
        if best is None:
            return None
        pool.turn = (best_index + 1) % count
        return Choice(best.agent, f"least loaded: {best.load} of {best.slots} slots taken")

    # -- waiting

    def enqueue(self, group: str, agent: str, command_id: str, *, first: bool = False) -> None:
        """Let a command wait; `first` for one that has waited before and lost its agent."""
        queue = self._queue(group, agent)
        if first:
            queue.appendleft(command_id)
        else:
            queue.append(command_id)

    def waiting(self, group: str) -> int:
        own = sum(
            len(self._agent_queues[member.agent])
            for member in self._pool(group).members
            if member.agent in self._agent_queues
        )
        return len(self._pool(group).queue) + own

    def backlog(self) -> int:
        """Commands that wait for a free slot, in all groups."""
        return sum(len(pool.queue) for pool in self._pools.values())

    def withdraw(self, group: str, agent: str, command_id: str) -> None:
        """Take a command that ended while it waited out of its queue."""
        queue = self._queue(group, agent)
        if command_id in queue:
            queue.remove(command_id)

    def next_for(self, agent: str) -> str | None:
        """Take the command that `agent` may start now, or None if it is full or nothing waits."""
        member = self._members.get(agent)
        if member is None or member.free <= 0:
            return None
        own = self._agent_queues.get(agent)
        if own:
            return own.popleft()
        pool = self._pool(member.group)
        return pool.queue.popleft() if pool.queue else None

    def is_waiting(self, group: str) -> bool:
        """Whether a command waits for any member of `group`."""
        return bool(self._pool(group).queue)

    def idle_agents_with_work(self) -> list[str]:
        """Agents with a free slot for which something waits."""
        return [
            member.agent
            for member in self._members.values()
            if member.free > 0
            and (self._agent_queues.get(member.agent) or self._pools[member.group].queue)
        ]

    def _queue(self, group: str, agent: str) -> deque[str]:
        if agent:
            return self._agent_queues.setdefault(agent, deque())
        return self._pool(group).queue

    def _pool(self, group: str) -> _Pool:
        pool = self._pools.get(group)
        if pool is None:
            pool = self._pools[group] = _Pool()
        return pool


def _is_better(member: Member, best: Member, avoid: str) -> bool:
    if (member.agent == avoid) != (best.agent == avoid):
        return best.agent == avoid
    return member.load * best.slots < best.load * member.slots
