"""`mesh audit …`."""

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from cyclopts import Parameter

from broker_client.cli.command.listing import check_limit, say_more
from broker_client.cli.options import LISTING, Listing
from broker_client.cli.screen.columns import COLUMNS_HELP, Columns, Trait, print_columns, text
from broker_client.cli.screen.tables import local_time
from broker_client.cli.session import call
from broker_client.cli.spans import check_moment, moment_of
from schemas.messages.api import AuditQuery, AuditRecord
from schemas.verbs import AUDIT_LIST

if TYPE_CHECKING:
    from broker_client.api import MeshClient

# Greatest page of the master.
PAGE: Final = 500
Since = Annotated[
    str | None,
    Parameter(
        help="Not before: a date, or how long ago: 90 (seconds), 2h.", validator=check_moment
    ),
]
Until = Annotated[
    str | None,
    Parameter(help="Not after: a date, or how long ago: 90 (seconds), 2h.", validator=check_moment),
]

_TRAITS: Final[dict[str, Trait[AuditRecord]]] = {
    "at": text("AT", lambda e: e.at, shown=local_time),
    "by": text("BY", lambda e: e.by, least=8),
    "from": text("FROM", lambda e: e.address, rank=2, least=9),
    "action": text("ACTION", lambda e: e.action, least=12),
    "target": text("TARGET", lambda e: e.target, rank=1, least=10),
    "result": text("RESULT", lambda e: e.code or e.result),
    "group": text("GROUP", lambda e: e.group, rank=4),
    "detail": text("DETAIL", lambda e: e.detail, rank=3, least=16),
}
TRAIL: Final = Columns(_TRAITS, other={"address": "from", "client": "by", "code": "result"})


def list_(  # noqa: PLR0913  (a filter per column)
    *,
    by: Annotated[str | None, Parameter(help="Only what this client or agent did.")] = None,
    action: Annotated[
        str | None, Parameter(help="Only this action, such as agent.revoke, or noun.")
    ] = None,
    target: Annotated[str | None, Parameter(help="Only what was done to this name or id.")] = None,
    group: Annotated[str | None, Parameter(help="Only what concerns this group.")] = None,
    result: Annotated[
        str | None, Parameter(help="Only this result: done, unchanged, refused, failed, alarm.")
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, Parameter(help="At most this many.", validator=check_limit)] = 50,
    columns: Annotated[str | None, Parameter(help=COLUMNS_HELP, validator=TRAIL.check)] = None,
    shared: Listing = LISTING,
) -> None:
    """List who did what to what, from where, when: the newest first."""
    wanted = AuditQuery(
        by=by,
        action=action,
        target=target,
        group=group,
        result=result,
        since=None if since is None else moment_of(since),
        until=None if until is None else moment_of(until),
    )
    entries, is_more = call(shared, lambda mesh: _read(mesh, wanted, limit))
    nothing = "nothing in the audit trail"
    print_columns(shared, TRAIL, AuditRecord, entries, names=columns, nothing=nothing)
    if is_more:
        say_more(limit)


async def _read(
    mesh: "MeshClient", wanted: AuditQuery, limit: int
) -> tuple[list[AuditRecord], bool]:
    """Return the first `limit` entries, and whether there may be more."""
    found: list[AuditRecord] = []
    cursor = None
    while len(found) < limit:
        query = msgspec.structs.replace(wanted, limit=min(PAGE, limit - len(found)), cursor=cursor)
        page = await mesh.ask(AUDIT_LIST, query)
        found += page.entries
        cursor = page.cursor
        if cursor is None:
            return found, False
    return found, True
