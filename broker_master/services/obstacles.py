"""Reasons why a target takes no new work just now, for its submitters and waiting clients."""

from collections import Counter
from typing import NamedTuple

from broker_master.core.badges import group_status
from broker_master.core.balance import ACTION_TAG, PROFILE_TAG
from broker_master.core.pool import Tags
from broker_master.core.ways import pin_of
from broker_master.plane import Plane
from schemas.messages.facts import Accepted
from schemas.messages.work import INPUT_ABILITY
from schemas.states import AgentStatus


class Obstacle(NamedTuple):
    """The reason why a target takes no new work.

    is_active: some of the target are active, and only lack room, or stop, or move.
    """

    is_active: bool
    text: str


class Obstacles:
    """Answers for one request: the result for a target is cached."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._known: dict[tuple[str, str, Tags], str] = {}

    def is_ready(self, group: str, agent: str = "", tags: Tags = ()) -> bool:
        """Whether any agent of the target may be given work, now or when a task of it ends."""
        dispatcher = self._plane.dispatcher
        return dispatcher.is_ready(agent) if agent else dispatcher.has_ready(group, tags)

    def is_passing(self, group: str, agent: str = "", tags: Tags = ()) -> bool:
        """Whether an active agent of the target takes no work just for a moment."""
        return any(
            entry is not None and self._plane.judge(entry).is_passing
            for entry in map(self._plane.registry.agents.get, self._names(group, agent, tags))
        )

    def _names(self, group: str, agent: str, tags: Tags) -> list[str]:
        members = self._plane.dispatcher.pool(group).members
        return [agent] if agent else [name for name, each in members.items() if each.has(tags)]

    def obstacle(self, group: str, agent: str = "", tags: Tags = ()) -> Obstacle:
        """The reason why a target without a ready agent takes no work."""
        names = self._names(group, agent, tags)
        idle = Counter(words for name in names if (words := self._idle(name)))
        if missing := self._missing(group, agent, tags):
            return Obstacle(False, missing)
        if not idle:
            return Obstacle(False, f"no agent of {agent or group} is active")
        if agent:
            return Obstacle(True, f"{agent} takes no new work: {next(iter(idle))}")
        why = ", ".join(f"{count} {words}" for words, count in sorted(idle.items()))
        return Obstacle(True, f"no agent of {group} takes new work: {why}")

    def waits_for(self, accepted: Accepted) -> str:
        """The reason why a queued command waits."""
        dispatcher = self._plane.dispatcher
        if held := self._held(accepted):
            return held
        target = (accepted.group, accepted.agent, dispatcher.needs(accepted))
        known = self._known.get(target)
        if known is None:
            known = self._known[target] = self._waits_for(*target)
        return known

    def _waits_for(self, group: str, agent: str, tags: Tags) -> str:
        target = agent or f"an agent of {group}"
        pool = self._plane.dispatcher.pool(group)
        if pool.is_full and self.is_ready(group, agent, tags):
            return (
                f"waits for a command of group {group} to end: its limit of"
                f" {pool.policy.limit} at once is reached"
            )
        if self.is_ready(group, agent, tags):
            return f"waits for a free slot of {target}"
        obstacle = self.obstacle(group, agent, tags)
        if obstacle.is_active:
            return f"waits for {target} to take work again: {obstacle.text}"
        if ACTION_TAG in dict(tags) or PROFILE_TAG in dict(tags):
            return f"waits for {target} that can run it: {obstacle.text}"
        return f"waits for {target} to be active{self._why_inactive(group, agent, tags)}"

    def _why_inactive(self, group: str, agent: str, tags: Tags) -> str:
        """Return `: disabled by ann, live; mesh agent enable web-1`; empty if not known."""
        entries = self._plane.registry.agents
        names = self._names(group, agent, tags) if agent or tags else [*entries]
        members = [entries[name] for name in names if name in entries]
        standings = [self._plane.judge(each) for each in members if each.group == group]
        is_unsure = any(each.status is AgentStatus.ACTIVE for each in standings)
        if is_unsure or (tags and not standings):
            return ""
        if agent and standings:
            return f": {standings[0].reason}; {standings[0].next}"
        verdict = group_status(Counter(str(each.status) for each in standings))
        return f": {verdict.reason}; {verdict.next}"

    def _held(self, accepted: Accepted) -> str:
        """The reason why its connection starts nothing now, or empty."""
        ways, name = self._plane.dispatcher.ways, accepted.connection
        way = ways.get(name)
        if way is None or accepted.agent or not ways.is_full(name):
            return ""
        if not way.is_open:
            return f"waits for connection {name} to be enabled: mesh connection enable {name}"
        return (
            f"waits for a command through connection {name} to end: its limit of {way.at_once} at"
            " once is reached"
        )

    def _missing(self, group: str, agent: str, tags: Tags) -> str:
        """The action that none of the target has, or the profile that no active one has."""
        members = self._plane.dispatcher.pool(group).members
        target = [each for name, each in members.items() if name == agent or not agent]
        active = [each for each in target if self._is_active(each.agent)]
        for kind, value in tags:
            have = active if kind == PROFILE_TAG else target
            is_needed = kind in (ACTION_TAG, PROFILE_TAG) and (have or kind == ACTION_TAG)
            if is_needed and not any(each.has([(kind, value)]) for each in have):
                what = "active agent" if kind == PROFILE_TAG else "agent"
                return f"no {what} of {agent or group} has {_named(kind, value)}"
        return ""

    def _is_active(self, name: str) -> bool:
        entry = self._plane.registry.agents.get(name)
        return entry is not None and self._plane.judge(entry).status is AgentStatus.ACTIVE

    def _idle(self, name: str) -> str:
        """Empty unless the agent is active, and gets no work all the same."""
        entry = self._plane.registry.agents.get(name)
        return self._plane.judge(entry).brief if entry is not None else ""


def _named(kind: str, value: str) -> str:
    """A required action or profile, for people."""
    if (kind, value) == (ACTION_TAG, INPUT_ABILITY):
        return "the ability to fetch that much stdin"
    if kind == ACTION_TAG:
        return f"the action {value}"
    name, pin = value.partition(" ")[0], pin_of(value)
    return f"profile {name} with the pinned hash {pin}" if pin else f"profile {name}"
