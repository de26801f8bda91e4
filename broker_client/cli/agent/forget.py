"""`mesh agent forget`: deletes agents that have been silent for long."""

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from cyclopts import Parameter

from broker_client.cli.options import LISTING, Listing
from broker_client.cli.screen.columns import COLUMNS_HELP, Columns, Trait, print_columns, text
from broker_client.cli.screen.report import print_json, say
from broker_client.cli.screen.tables import local_time
from broker_client.cli.session import call
from broker_client.cli.spans import check_span, span_s
from schemas.messages.api import AgentForget, ForgetAnswer, SilentRecord
from schemas.verbs import AGENT_FORGET

if TYPE_CHECKING:
    from broker_client.api import MeshClient


_TRAITS: Final[dict[str, Trait[SilentRecord]]] = {
    "agent": text("AGENT", lambda a: a.agent),
    "group": text("GROUP", lambda a: a.group),
    "status": text("STATUS", lambda a: a.status),
    "since": text("SILENT SINCE", lambda a: a.silent_since, shown=local_time),
}
SILENT: Final = Columns(_TRAITS, other={"name": "agent", "silent": "since"})


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
    columns: Annotated[str | None, Parameter(help=COLUMNS_HELP, validator=SILENT.check)] = None,
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
    nothing = f"no agent has been silent for {silent_for}"
    print_columns(shared, SILENT, SilentRecord, answer.agents, names=columns, nothing=nothing)
    count = len(answer.agents)
    if count and answer.applied:
        say(f"{count} deleted")
    elif count:
        say(f"nothing is deleted yet: add --yes to delete {'it' if count == 1 else 'these'}")
