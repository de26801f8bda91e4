"""Agents selected by a command line: names, or the words of a filter."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import msgspec
from cyclopts import Parameter

from broker_client.cli.agent.listing import table_of
from broker_client.cli.bulk import Deed, carry_out
from broker_client.cli.filters import joined
from broker_client.cli.options import Shared
from broker_client.cli.screen.report import print_lines
from schemas.ids import check_name
from schemas.listed import AGENTS
from schemas.messages.api import AgentRecord, NameQuery
from schemas.verbs import AGENT_SHOW

if TYPE_CHECKING:
    from broker_client.api import MeshClient

T = TypeVar("T", bound=msgspec.Struct)

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

    Raises Refused (`agent_unknown`) for an unknown name.
    """
    if not words or is_filter(words):
        return [*await mesh.agents(group=group, filter=joined(words, AGENTS))]
    return [await mesh.ask(AGENT_SHOW, NameQuery(name=name)) for name in dict.fromkeys(words)]


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
