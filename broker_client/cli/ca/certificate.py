"""`mesh certificate list`: certificates by expiry."""

import time
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from broker_client.cli.options import LISTING, Listing
from broker_client.cli.screen.report import print_list, screen_width
from broker_client.cli.screen.tables import Column, fit, left_of, utc_time
from broker_client.cli.session import call
from broker_client.cli.spans import check_span, span_s
from schemas.messages.api import CertificateList, HoldingRecord
from schemas.verbs import CERTIFICATE_LIST

if TYPE_CHECKING:
    from broker_client.api import MeshClient


def list_(
    *,
    expiring: Annotated[
        str | None,
        Parameter(
            help="Only what ends within this time: 90 (seconds), 12h, 30d.", validator=check_span
        ),
    ] = None,
    shared: Listing = LISTING,
) -> None:
    """List certificates of agents, clients, the broker and the mesh itself.

    What ends first comes first; what could not be renewed is listed however long it holds.
    """
    request = CertificateList(expiring_s=None if expiring is None else span_s(expiring))

    async def gather(mesh: "MeshClient") -> list[HoldingRecord]:
        found: list[HoldingRecord] = []
        cursor: str | None = None
        while True:
            page = msgspec.structs.replace(request, cursor=cursor)
            answer = await mesh.ask(CERTIFICATE_LIST, page)
            found += answer.certificates
            cursor = answer.cursor
            if cursor is None:
                return found

    found = call(shared, gather)
    columns = (
        Column("KIND"),
        Column("NAME", least=12),
        Column("VALID UNTIL (UTC)"),
        Column("LEFT"),
        Column("WARNING", least=10),
        Column("GROUP", 1),
        Column("SERIAL", 2),
    )
    rows = [
        (
            each.kind,
            each.name,
            utc_time(each.not_after),
            left_of(each.not_after, time.time()),
            each.warning,
            each.group,
            each.serial,
        )
        for each in found
    ]
    ends = f" ends within {expiring}" if expiring else ""
    print_list(
        shared,
        HoldingRecord,
        found,
        lambda: fit(columns, rows, screen_width()),
        nothing=f"no certificate{ends}",
    )
