"""Chooses the member of a group for a command: ranks of each policy, and sticky keys."""

from bisect import bisect
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Final

import msgspec

from schemas.messages.registry import DEFAULT_TRAITS, Balance, Policy, Traits

# Points of each member on the ring: enough that shares differ by about a fifth.
_POINTS: Final = 40
# An action that some agents lack is required like a tag; no tag can have this name.
ACTION_TAG: Final = "action:"
# Likewise a usable profile of a connection.
PROFILE_TAG: Final = "profile:"


class Member(msgspec.Struct, kw_only=True, eq=False):
    """An agent as seen by the choice.

    load: attempts sent, accepted or running on it. part: 1, or less for a flapping agent. held: it
    has just refused for want of room. spent: turns it had, each counted as the inverse of its
    share. stamp: grows with each change, so that heap entries of before are known as stale.
    actions: those that it can run beyond the common ones. profiles: values of the implicit tag of
    its usable profiles. counted: whether its pool counts it among those with a free slot.
    """

    agent: str
    group: str
    slots: int = 0
    load: int = 0
    ready: bool = False
    held: bool = False
    part: float = 1.0
    traits: Traits = DEFAULT_TRAITS
    spent: float = 0.0
    stamp: int = 0
    actions: frozenset[str] = frozenset()
    profiles: frozenset[str] = frozenset()
    counted: bool = False

    @property
    def room(self) -> int:
        limit = self.traits.limit
        return min(self.slots, limit) if limit else self.slots

    @property
    def free(self) -> int:
        return self.room - self.load if self.ready and not self.held else 0

    def has(self, tags: Iterable[tuple[str, str]]) -> bool:
        return all(self._has(name, value) for name, value in tags)

    def _has(self, name: str, value: str) -> bool:
        if name == ACTION_TAG:
            return value in self.actions
        if name == PROFILE_TAG:
            return value in self.profiles
        return self.traits.tags.get(name) == value


def share(member: Member, balance: Balance) -> float:
    """Part of the work meant for a member, relative to the shares of the others."""
    match balance:
        case "weighted":
            return member.traits.weight * member.part
        case "round_robin" | "sticky":
            return member.part
    return max(member.room, 1) * member.part


def tier(member: Member, balance: Balance) -> int:
    """Members of a lesser tier get nothing while one in a greater tier is free."""
    return member.traits.priority if balance == "priority" else 0


def rank(member: Member, balance: Balance) -> tuple[int, float, float]:
    """Sort key of free members, the smallest first: tier, load for its size, turns it had."""
    if balance in ("round_robin", "weighted"):
        return (0, 0.0, member.spent)
    load = member.load / (max(member.room, 1) * member.part)
    return (-tier(member, balance), load, member.spent)


def reason(member: Member, policy: Policy) -> str:
    """Reason of the choice, for people."""
    taken = f"{member.load} of {member.room} slots taken"
    match policy.balance:
        case "round_robin":
            why = "round robin: its turn"
        case "weighted":
            why = f"weighted: its turn with weight {member.traits.weight}"
        case "priority":
            why = f"priority {member.traits.priority}, least loaded: {taken}"
        case _:
            why = f"least loaded: {taken}"
    return why if member.part == 1.0 else f"{why}, at half weight since it comes and goes"


class Ring:
    """Consistent hashing: a key keeps its member when others join or leave."""

    def __init__(self, agents: Iterable[str]) -> None:
        points = sorted((_hash(f"{agent}/{n}"), agent) for agent in agents for n in range(_POINTS))
        self._places = [place for place, _ in points]
        self._agents = [agent for _, agent in points]

    def find(self, key: str, wanted: Callable[[str], bool]) -> str:
        """Find the first wanted agent from the key's place on, or empty."""
        count = len(self._agents)
        first = bisect(self._places, _hash(key))
        refused: set[str] = set()
        for step in range(count):
            agent = self._agents[(first + step) % count]
            if agent not in refused:
                if wanted(agent):
                    return agent
                refused.add(agent)
        return ""


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
