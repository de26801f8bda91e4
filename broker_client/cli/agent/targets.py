"""Agents that a command line means: names, or the words of a filter."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from broker_client.cli.filters import joined
from schemas.ids import check_name
from schemas.listed import AGENTS
from schemas.messages.api import AgentRecord, NameQuery
from schemas.verbs import AGENT_SHOW

if TYPE_CHECKING:
    from broker_client.api import MeshClient

_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+")


def is_filter(words: Sequence[str]) -> bool:
    """Whether `words` are a filter; names and ids have none of its signs."""
    return any(_PLAIN.fullmatch(word) is None for word in words)


def check_targets(words: Sequence[str]) -> None:
    """Refused (`filter_invalid`, `name_invalid`) at once, before any connection."""
    if is_filter(words):
        joined(words, AGENTS)
    else:
        for word in words:
            check_name("an agent", word)


async def find_agents(
    mesh: "MeshClient", words: Sequence[str], *, group: str | None = None
) -> list[AgentRecord]:
    """The agents that `words` name, or for which all of them hold as a filter; none: all agents.

    Raises Refused (`agent_unknown`) for a name that there is not.
    """
    if not words or is_filter(words):
        return [*await mesh.agents(group=group, filter=joined(words, AGENTS))]
    return [await mesh.ask(AGENT_SHOW, NameQuery(name=name)) for name in dict.fromkeys(words)]
