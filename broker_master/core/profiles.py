"""Profiles of hosts, by their agents' own account.

A profile is trusted for its own agent only: it decides what that agent is given, and is shown.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from broker_master.core.liveness import Presence
from broker_master.core.ways import usable_tags
from schemas.messages.actions import ACTIONS
from schemas.messages.liveness import Profiles, ProfileStatus
from schemas.texts import cut_text

# Characters of a problem that the master keeps.
_PROBLEM_LEN: Final = 300
_HASH_LEN: Final = 64
_NONE: Final[frozenset[str]] = frozenset()


class _Known(NamedTuple):
    incarnation: str
    digest: str
    items: dict[str, ProfileStatus]
    usable: frozenset[str]


class ProfileTable:
    """The newest profiles of each agent."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def take(self, presence: Presence, message: Profiles) -> bool:
        """Take in the profiles of the present incarnation; returns whether anything changed."""
        if presence.incarnation != message.incarnation:
            return False
        items = {each.name: _bounded(each) for each in message.items}
        before = self._known.get(presence.agent)
        self._known[presence.agent] = _Known(
            message.incarnation, message.digest, items, usable_tags(items.values())
        )
        return before is None or before.items != items

    def wants(self, presence: Presence) -> bool:
        """Whether the agent has profiles that are not known here."""
        known = self._known.get(presence.agent)
        return bool(presence.profiles) and (known is None or known.digest != presence.profiles)

    def usable(self, presence: Presence) -> frozenset[str]:
        """Values of the implicit tag that its profiles give an agent."""
        known = self._of(presence)
        return known.usable if known is not None else _NONE

    def find(self, presence: Presence | None, name: str) -> ProfileStatus | None:
        known = self._of(presence) if presence is not None else None
        return known.items.get(name) if known is not None else None

    def all_of(self, presence: Presence) -> Sequence[ProfileStatus]:
        known = self._of(presence)
        return [*known.items.values()] if known is not None else ()

    def forget(self, agent: str) -> None:
        self._known.pop(agent, None)

    def has_kind(self, kind: str) -> bool:
        """Whether the host of any agent has a profile of this kind."""
        return any(
            item.kind == kind for known in self._known.values() for item in known.items.values()
        )

    def _of(self, presence: Presence) -> _Known | None:
        """The known profiles of an agent: the newest, or those before a change under way."""
        known = self._known.get(presence.agent)
        if known is None or not presence.profiles:
            return None
        is_current = presence.profiles == known.digest or presence.incarnation == known.incarnation
        return known if is_current else None


def _bounded(profile: ProfileStatus) -> ProfileStatus:
    """Keep no more of an agent's texts than is shown."""
    return msgspec.structs.replace(
        profile,
        hash=profile.hash[:_HASH_LEN],
        actions=[name for name in ACTIONS if name in profile.actions],
        problem=cut_text(profile.problem, _PROBLEM_LEN),
    )
