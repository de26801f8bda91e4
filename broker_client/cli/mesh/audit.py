"""`mesh audit …`."""

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from cyclopts import Parameter

from broker_client.cli.command.listing import check_limit
from broker_client.cli.options import LISTING, Listing
from broker_client.cli.screen.report import print_list, say, screen_width
from broker_client.cli.screen.tables import Column, fit, local_time
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
    _print(shared, entries)
    if is_more:
        say(f"there may be more than these {limit}: see --limit")


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


def _print(shared: Listing, entries: list[AuditRecord]) -> None:
    columns = (
        Column("AT"),
        Column("BY", least=8),
        Column("FROM", 2, least=9),
        Column("ACTION", least=12),
        Column("TARGET", 1, least=10),
        Column("RESULT"),
        Column("GROUP", 4),
        Column("DETAIL", 3, least=16),
    )
    rows = [
        (
            local_time(entry.at),
            entry.by,
            entry.address,
            entry.action,
            entry.target,
            entry.code or entry.result,
            entry.group,
            entry.detail,
        )
        for entry in entries
    ]
    print_list(
        shared,
        AuditRecord,
        entries,
        lambda: fit(columns, rows, screen_width()),
        nothing="nothing in the audit trail",
    )
