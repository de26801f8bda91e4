"""`mesh agent forget`: deletes agents that have been silent for long."""

from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from broker_client.cli.options import LISTING, Listing
from broker_client.cli.screen.report import print_json, print_list, say, screen_width
from broker_client.cli.screen.tables import Column, fit, local_time
from broker_client.cli.session import call
from broker_client.cli.spans import check_span, span_s
from schemas.messages.api import AgentForget, ForgetAnswer, SilentRecord
from schemas.verbs import AGENT_FORGET

if TYPE_CHECKING:
    from broker_client.api import MeshClient


def forget(
    *,
    silent_for: Annotated[
        str,
        Parameter(
            help="Those silent for at least this long: 90 (seconds), 12h, 30d.",
            validator=check_span,
        ),
    ],
    group: Annotated[str | None, Parameter(help="Only agents of this group.")] = None,
    yes: Annotated[
        bool, Parameter(negative="", help="Delete them; without it they are only listed.")
    ] = False,
    shared: Listing = LISTING,
) -> None:
    """List agents that have been silent for long, and delete them with --yes.

    Agents that were never set up count from their creation, or from the end of their token.
    """
    request = AgentForget(silent_for_s=span_s(silent_for), group=group, apply=yes)

    async def gather(mesh: "MeshClient") -> ForgetAnswer:
        """Return all pages as one answer."""
        agents: list[SilentRecord] = []
        cursor: str | None = None
        while True:
            page = msgspec.structs.replace(request, cursor=cursor)
            answer = await mesh.ask(AGENT_FORGET, page)
            agents += answer.agents
            cursor = answer.cursor
            if cursor is None:
                return msgspec.structs.replace(answer, agents=agents)

    answer = call(shared, gather)
    if shared.output == "json":
        print_json(answer)
        return
    columns = (Column("AGENT"), Column("GROUP"), Column("STATUS"), Column("SILENT SINCE"))
    rows = [
        (each.agent, each.group, each.status, local_time(each.silent_since))
        for each in answer.agents
    ]
    print_list(
        shared,
        SilentRecord,
        answer.agents,
        lambda: fit(columns, rows, screen_width()),
        nothing=f"no agent has been silent for {silent_for}",
    )
    if rows and answer.applied:
        say(f"{len(rows)} deleted")
    elif rows:
        say(f"nothing is deleted yet: add --yes to delete {'it' if len(rows) == 1 else 'these'}")
