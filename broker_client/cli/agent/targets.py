"""Agents selected by a command line: names, or the words of a filter."""

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import msgspec
from cyclopts import Parameter

from broker_client.cli.agent.listing import table_of
from broker_client.cli.bulk import Deed, carry_out
from broker_client.cli.filters import joined
from broker_client.cli.options import Shared
from broker_client.cli.screen.report import print_lines
from schemas.faults import Refused
from schemas.filters import fold, matches
from schemas.ids import check_name, is_name
from schemas.listed import AGENTS
from schemas.messages.api import AgentRecord, NameQuery
from schemas.near import near_names
from schemas.verbs import AGENT_SHOW

if TYPE_CHECKING:
    from broker_client.api import MeshClient

T = TypeVar("T", bound=msgspec.Struct)

# How alike a pattern is to names.
_ALIKE: Final = 0.7
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+")


def is_filter(words: Sequence[str]) -> bool:
    """Whether `words` are a filter; names and ids have none of its signs."""
    return any(_PLAIN.fullmatch(word) is None for word in words)


def check_targets(words: Sequence[str]) -> None:
    """Raise Refused (`filter_invalid`, `name_invalid`) at once, before any connection."""
    if is_filter(words):
        joined(words, AGENTS)
    else:
        for word in words:
            check_name("an agent", word)


async def find_agents(
    mesh: "MeshClient", words: Sequence[str], *, group: str | None = None
) -> list[AgentRecord]:
    """Return the agents named by `words`, or matched by them as a filter; no words: all agents.

    Raises Refused (`agent_unknown`, `group_unknown`) for an unknown name, also in a filter.
    """
    if not words or is_filter(words):
        found = [*await mesh.agents(group=group, filter=joined(words, AGENTS))]
        if words and not found:
            await check_named(mesh, words)
        return found
    return [await mesh.ask(AGENT_SHOW, NameQuery(name=name)) for name in dict.fromkeys(words)]


async def check_named(mesh: "MeshClient", words: Sequence[str]) -> None:
    """Raise Refused if a group or an agent that a filter names does not exist, with similar names.

    Called for a filter without a match: it may be a mistake.
    """
    groups = [each.group for each in await mesh.groups()]
    agents = [each.agent for each in await mesh.agents()]
    for field, known in (("group", groups), ("agent", agents)):
        for name in plain_names(words, field):
            if name not in {each.lower() for each in known}:
                near = near_names(name, known)
                raise Refused(f"{field}_unknown", f"no {field} {name[:64]}{near}")


async def near_patterns(mesh: "MeshClient", words: Sequence[str]) -> str:
    """Return `: did you mean web-*?` for patterns of names that match no agent; or nothing."""
    agents = [each.agent for each in await mesh.agents()]
    for word in AGENTS.parse(" ".join(words), time.time()):
        for pattern in word.patterns if word.field == "agent" and not word.is_not else ():
            if any(matches(fold(name), pattern) for name in agents):
                continue
            stem = pattern.rstrip("*")
            begins = {f"{name[: len(stem)]}{pattern[len(stem) :]}" for name in agents}
            if near := near_names(pattern, sorted(begins), _ALIKE):
                return near
    return ""


def plain_names(words: Sequence[str], field: str) -> list[str]:
    """Return the names in words such as `group:web,db`; patterns and negations have none."""
    return [
        name
        for word in AGENTS.parse(" ".join(words), time.time())
        if word.field == field and not word.is_not
        for name in word.patterns
        if is_name(name)
    ]


Targets = Annotated[
    str, Parameter(help="Names of agents, or words of a filter as of `mesh agent list`.")
]


def do_to_agents(
    shared: Shared,
    what: str,
    words: Sequence[str],
    one: Callable[["MeshClient", str], Awaitable[T]],
    told: Callable[[T], str],
    *,
    yes: bool,
    dry_run: bool,
) -> int:
    """Do `what` to the selected agents; told: returns a line about each. Returns the exit code."""
    check_targets(words)
    is_found = is_filter(words)
    deed = Deed(
        what=what,
        noun="agent",
        names=[] if is_found else [*dict.fromkeys(words)],
        find=(lambda mesh: find_agents(mesh, words)) if is_found else None,
        show=lambda mesh, name: mesh.ask(AGENT_SHOW, NameQuery(name=name)),
        name_of=lambda agent: agent.agent,
        table=table_of,
        one=one,
        told=lambda result: print_lines(shared, [told(result)]),
    )
    return carry_out(shared, deed, yes=yes, dry_run=dry_run)
