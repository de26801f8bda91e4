"""`mesh agent list`: filtered, sorted, watched."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from broker_client.cli.agent.roster import ROSTER, in_order
from broker_client.cli.filters import joined, unmatched
from broker_client.cli.options import LISTING, Common, Listing
from broker_client.cli.screen.columns import COLUMNS_HELP, print_columns
from broker_client.cli.screen.live import EVERY_S, Every, Frame, keep_showing
from broker_client.cli.screen.tables import Table
from broker_client.cli.session import call
from schemas.listed import AGENTS
from schemas.messages.api import AgentRecord

if TYPE_CHECKING:
    from broker_client.api import MeshClient

Status = Literal["awaiting_setup", "no_response", "active", "disabled"]


def list_(
    *filters: Annotated[
        str,
        Parameter(
            help="Only agents that all of these hold for: web-*, status:no_response, group:web,"
            " expires:<14d, uptime:>1h, running:>0, tag:site=a, version:!=1.4; ! before one: not.",
        ),
    ],
    group: Annotated[str | None, Parameter(help="Only agents of this group.")] = None,
    status: Annotated[Status | None, Parameter(help="Only agents with this status.")] = None,
    sort: Annotated[
        str,
        Parameter(
            help="Column to sort by; -COLUMN: the greatest first.",
            allow_leading_hyphen=True,
            validator=ROSTER.check_sort,
        ),
    ] = "agent",
    columns: Annotated[
        str | None,
        Parameter(help=COLUMNS_HELP, validator=ROSTER.check),
    ] = None,
    watch: Annotated[
        bool, Parameter(negative="", help="Update it every --every seconds, until q or Ctrl-C.")
    ] = False,
    every: Every = EVERY_S,
    shared: Listing = LISTING,
) -> None:
    """List agents with status, since when and why."""
    wanted = joined(filters, AGENTS)

    async def ask(mesh: "MeshClient") -> Sequence[AgentRecord]:
        found = await mesh.agents(group=group, status=status, filter=wanted)
        return in_order(found, sort, time.time())

    if watch and shared.output == "table":
        keep_showing(shared, lambda mesh: _frame(mesh, ask, columns), every)
    else:
        print_agents(shared, call(shared, ask), columns, words=filters)


async def _frame(
    mesh: "MeshClient",
    ask: Callable[["MeshClient"], Awaitable[Sequence[AgentRecord]]],
    columns: str | None,
) -> Frame:
    agents = await ask(mesh)
    return Frame([], table_of(agents, columns))


def table_of(agents: Sequence[AgentRecord], columns: str | None = None) -> Table:
    """Return agents as a table for this screen. columns: value of `--columns`."""
    return ROSTER.table(agents, columns)


def print_agents(
    common: Common,
    agents: Sequence[AgentRecord],
    columns: str | None = None,
    *,
    words: Sequence[str] = (),
) -> None:
    nothing = "no agents: `mesh agent create NAME --group GROUP`"
    print_columns(
        common,
        ROSTER,
        AgentRecord,
        agents,
        names=columns,
        nothing=f"no agent passes the filter{unmatched(words, AGENTS)}" if words else nothing,
    )
