"""Chooses the agent of the next command: queues, loads and policies.

A command waits in the queue of its target, a group or one agent: the greater priority first, and
clients in turn. A group's policy chooses among its free members.
"""

from collections.abc import Collection
from typing import Final, NamedTuple

import msgspec

from broker_master.core.balance import ACTION_TAG, Member, reason
from broker_master.core.fairness import FairQueue, Turns, Waiting
from broker_master.core.pool import Pool, Tags
from broker_master.core.ways import Ways
from schemas.messages.actions import COMMON
from schemas.messages.facts import DEFAULT_TERMS, Accepted
from schemas.messages.registry import DEFAULT_TRAITS, Policy, Traits

# Different sets of required tags among the waiting commands of one group.
LANES_MAX: Final = 256


class Wish(NamedTuple):
    """Requirements of a command. agent: the only one that may run it, or empty.

    sticky: the key that keeps it with others of its kind, or empty. connection: that it works
    through, or empty.
    """

    group: str
    agent: str = ""
    client: str = ""
    priority: int = DEFAULT_TERMS.priority
    tags: Tags = ()
    sticky: str = ""
    connection: str = ""


def tags_of(tags: dict[str, str]) -> Tags:
    return tuple(sorted(tags.items())) if tags else ()


def needs_of(tags: dict[str, str], action: str) -> Tags:
    """Tags required of an agent: the command's tags, and its action unless every agent has it."""
    needed = tags_of(tags)
    return needed if action in COMMON else (*needed, (ACTION_TAG, action))


class Choice(msgspec.Struct, frozen=True):
    """The chosen agent of a command.

    shared: any member might have got it, so it counts for the spread of the group.
    """

    agent: str
    why: str
    shared: bool = False


class _Place(NamedTuple):
    pool: Pool
    queue: FairQueue
    waiting: Waiting


class Dispatcher:
    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._pools: dict[str, Pool] = {}
        self._own: dict[str, FairQueue] = {}
        self._places: dict[str, _Place] = {}
        self.ways = Ways()

    # -- members

    def set_policy(self, group: str, policy: Policy) -> None:
        self.pool(group).set_policy(policy)

    def set_member(
        self,
        group: str,
        agent: str,
        *,
        slots: int,
        ready: bool,
        traits: Traits = DEFAULT_TRAITS,
        part: float = 1.0,
        actions: frozenset[str] = frozenset(),
        profiles: frozenset[str] = frozenset(),
    ) -> None:
        """Enter an agent or update it; its load stays.

        part: of its share, less than 1 for a flapping agent. actions: those it can run beyond the
        common ones. profiles: values of the implicit tag of its usable profiles.
        """
        member = self._members.get(agent)
        if member is not None and member.group != group:
            self.remove_member(agent)
            member = None
        pool = self.pool(group)
        if member is None:
            member = self._members[agent] = Member(agent=agent, group=group, stamp=-1)
            pool.add(member)
            pool.sync_lanes(member)
            self._bring(agent, pool)
        elif (slots, ready, part, actions, profiles) == (
            member.slots,
            member.ready,
            member.part,
            member.actions,
            member.profiles,
        ) and (traits is member.traits or traits == member.traits):
            return
        if ready != member.ready:
            pool.ready += 1 if ready else -1
            pool.is_unsettled = True
        has_new_tags = (traits.tags, actions, profiles) != (
            member.traits.tags,
            member.actions,
            member.profiles,
        )
        member.actions, member.profiles = actions, profiles
        member.slots, member.ready, member.part, member.traits = slots, ready, part, traits
        if has_new_tags:
            pool.sync_lanes(member)
        pool.on_standing(member)

    def remove_member(self, agent: str) -> None:
        member = self._members.pop(agent, None)
        if member is not None:
            self._pools[member.group].remove(member)

    def hold(self, agent: str, *, held: bool) -> None:
        """Hold an agent back, or release it: it reports that it has no room."""
        member = self._members.get(agent)
        if member is not None and member.held != held:
            member.held = held
            self._pools[member.group].touch(member)

    def is_ready(self, agent: str) -> bool:
        member = self._members.get(agent)
        return member is not None and member.ready

    def has_ready(self, group: str, tags: Tags = (), *, avoid: Collection[str] = ()) -> bool:
        """Whether a member with these tags, not in `avoid`, may be given work."""
        pool = self.pool(group)
        if not tags and not avoid:
            return pool.ready > 0
        return any(
            member.ready and member.agent not in avoid and member.has(tags)
            for member in pool.members.values()
        )

    def is_busy(self, group: str) -> bool:
        """Whether members may be given work, but each has as many tasks as it may have."""
        pool = self.pool(group)
        if not pool.ready:
            return False
        return pool.is_full or not any(each.free > 0 for each in pool.members.values())

    def has_member(self, group: str, tags: Tags) -> bool:
        """Whether a member, ready or not, has these tags."""
        pool = self.pool(group)
        lane = pool.lanes.get(tags)
        members = pool.members if lane is None else lane.members
        return any(member.has(tags) for member in members.values())

    def load(self, agent: str) -> int:
        member = self._members.get(agent)
        return member.load if member is not None else 0

    def group_load(self, group: str) -> int:
        return self.pool(group).load

    def take(self, agent: str, connection: str = "", *, shared: bool = False) -> None:
        """Count one more attempt on `agent`, through a connection unless that is empty.

        Every `take` is followed by one `give_back`.
        """
        if connection:
            self.ways.take(connection)
        member = self._members.get(agent)
        if member is not None:
            pool = self._pools[member.group]
            pool.take(member)
            if shared:
                pool.spread.note(agent)

    def give_back(self, agent: str, connection: str = "") -> None:
        if connection:
            self.ways.give_back(connection)
        member = self._members.get(agent)
        if member is not None and member.load > 0:
            self._pools[member.group].give_back(member)

    # -- the choice

    def choose(self, wish: Wish, *, avoid: Collection[str] = ()) -> Choice | None:
        """The member to send to now, or None if the command has to wait.

        avoid: agents that have refused it.
        """
        pool = self.pool(wish.group)
        if pool.is_full:
            return None
        if wish.agent:
            member = self._members.get(wish.agent)
            if member is None or member.free <= 0 or wish.agent in avoid:
                return None
            return Choice(wish.agent, "the only target")
        if self.ways.is_full(wish.connection):
            return None
        return self._choose_shared(pool, wish, avoid)

    def _choose_shared(self, pool: Pool, wish: Wish, avoid: Collection[str]) -> Choice | None:
        if wish.sticky and pool.policy.balance == "sticky":
            member = pool.owner(wish.sticky, wish.tags, avoid)
            if member is None or member.free <= 0:
                return None
            return Choice(member.agent, _sticky_reason(pool))
        member = (pool.lane(wish.tags) if wish.tags else pool.any).best(avoid)
        if member is None:
            return None
        why = reason(member, pool.policy)
        if wish.tags:
            what = _what_it_has(wish)
            return Choice(member.agent, f"{why}; has {what}")
        return Choice(member.agent, why, shared=True)

    # -- waiting

    def wish(self, accepted: Accepted) -> Wish:
        terms, label = accepted.terms, self.pool(accepted.group).policy.sticky_label
        return Wish(
            accepted.group,
            accepted.agent,
            accepted.client,
            terms.priority,
            self.needs(accepted),
            accepted.labels.get(label, "") if label else "",
            accepted.connection,
        )

    def needs(self, accepted: Accepted) -> Tags:
        """Tags required of an agent for a command: its own, its action, and its profile."""
        needed = needs_of(accepted.terms.tags, accepted.needs)
        if not accepted.connection:
            return needed
        return (*needed, *self.ways.needs(accepted.connection, accepted.action))

    def enqueue(self, wish: Wish, command_id: str, *, first: bool = False) -> None:
        """Add a command to its queue; `first` for one that waited before and lost its agent."""
        pool = self._home(wish)
        self.withdraw(command_id)
        queue = self._queue(pool, wish)
        waiting = queue.put(
            command_id, wish.client, wish.priority, first=first, sticky=wish.sticky, tags=wish.tags
        )
        pool.waiting += 1
        self._places[command_id] = _Place(pool, queue, waiting)

    def is_queued(self, command_id: str) -> bool:
        return command_id in self._places

    @property
    def has_waiting(self) -> bool:
        return bool(self._places)

    def waiting(self, group: str) -> int:
        return self.pool(group).waiting

    def is_saturated(self, least: int) -> bool:
        """Whether at least `least` commands wait, and no agent of any group could start one now.

        Commands that wait for an absent agent do not count: others go to agents with free slots.
        """
        return len(self._places) >= least and not any(
            pool.free and not pool.is_full for pool in self._pools.values()
        )

    def withdraw(self, command_id: str) -> None:
        """Remove a command that ended while it waited from its queue."""
        place = self._places.get(command_id)
        if place is not None:
            place.queue.remove(place.waiting)
            self._left(command_id)

    def next_for(self, agent: str) -> str | None:
        """Take the command that `agent` may start now, or None if it is full or nothing waits."""
        member = self._members.get(agent)
        if member is None or member.free <= 0:
            return None
        pool = self._pools[member.group]
        if not pool.waiting or pool.is_full:
            return None
        best: tuple[tuple[int, int, float, int], FairQueue] | None = None
        for is_shared, queue in self._queues_of(member, pool):
            head = queue.head()
            if head is not None:
                order = (head[0], is_shared, head[1], head[2])
                if best is None or order < best[0]:
                    best = (order, queue)
        return self._taken(best[1]) if best is not None else None

    def next_beside(self, agent: str) -> tuple[str, Choice] | None:
        """Take a command for another member, after an attempt on `agent` has ended.

        Only a group or a connection with a limit has such commands; otherwise no command waits
        while a member is free.
        """
        member = self._members.get(agent)
        pool = self._pools[member.group] if member is not None else None
        has_limit = pool is not None and (pool.policy.limit or self.ways.limited)
        if pool is None or not has_limit or not pool.waiting or pool.is_full:
            return None
        heads = [
            (head, lane)
            for lane in pool.lanes.values()
            if (head := lane.queue.head()) and not self.ways.is_full(lane.connection)
        ]
        for _, lane in sorted(heads, key=lambda each: each[0]):
            member = lane.best()
            if member is not None:
                choice = Choice(member.agent, reason(member, pool.policy), shared=not lane.tags)
                return self._taken(lane.queue), choice
        return None

    def is_waiting(self, wish: Wish) -> bool:
        """Whether other commands wait that go before such a command."""
        pool = self._home(wish)
        return bool(pool.waiting) and bool(self._queue(pool, wish))

    def is_crowded(self, group: str, tags: Tags) -> bool:
        """Whether waiting commands already have too many different sets of tags for one more."""
        pool = self.pool(group)
        return bool(tags) and tags not in pool.lanes and pool.lanes_waiting() >= LANES_MAX

    def idle_agents_with_work(self) -> list[str]:
        """Agents with a free slot for which something waits."""
        return [
            member.agent
            for pool in self._pools.values()
            if pool.waiting and not pool.is_full
            for member in pool.members.values()
            if member.free > 0 and any(queue for _, queue in self._queues_of(member, pool))
        ]

    def requeue_sticky(self) -> None:
        """Move sticky commands to other queues after their agent left or returned."""
        for pool in self._pools.values():
            if pool.is_unsettled and (pool.sticky or pool.orphans):
                for waiting, queue in pool.requeue_sticky():
                    self._places[waiting.command] = _Place(pool, queue, waiting)

    def rotate_spread(self) -> None:
        for pool in self._pools.values():
            pool.spread.rotate()

    def pool(self, group: str) -> Pool:
        pool = self._pools.get(group)
        if pool is None:
            pool = self._pools[group] = Pool(group, self.ways)
        return pool

    def _home(self, wish: Wish) -> Pool:
        """The pool in which it waits: for one agent, that of the agent's present group."""
        member = self._members.get(wish.agent) if wish.agent else None
        return self.pool(wish.group if member is None else member.group)

    def _bring(self, agent: str, pool: Pool) -> None:
        """Move the commands that wait for this agent alone into its new group."""
        own = self._own.get(agent)
        if not own:
            return
        for command_id, place in self._places.items():
            if place.queue is own and place.pool is not pool:
                place.pool.waiting -= 1
                pool.waiting += 1
                self._places[command_id] = _Place(pool, own, place.waiting)

    def _queue(self, pool: Pool, wish: Wish) -> FairQueue:
        if wish.agent:
            return self._own.setdefault(wish.agent, FairQueue(Turns()))
        if wish.sticky and pool.policy.balance == "sticky":
            return pool.sticky_queue(wish.sticky, wish.tags)
        return pool.lane(wish.tags).queue if wish.tags else pool.any.queue

    def _queues_of(self, member: Member, pool: Pool) -> list[tuple[int, FairQueue]]:
        """Queues that a member may take from: 0 for its own commands, 1 for shared ones."""
        queues = [(1, each) for each in pool.shared_queues(member.agent)]
        own = self._own.get(member.agent)
        if own is not None:
            queues.append((0, own))
        return queues

    def _taken(self, queue: FairQueue) -> str:
        command_id = queue.take().command
        self._left(command_id)
        return command_id

    def _left(self, command_id: str) -> None:
        pool = self._places.pop(command_id).pool
        pool.waiting -= 1
        if not pool.waiting:
            pool.turns.forget()


def _what_it_has(wish: Wish) -> str:
    if wish.connection:
        return f"profile {wish.connection}"
    return "its action" if wish.tags[0][0] == ACTION_TAG else "the tags that are asked for"


def _sticky_reason(pool: Pool) -> str:
    return f"sticky: its {pool.policy.sticky_label} belongs to it"
