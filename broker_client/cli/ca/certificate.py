"""`mesh certificate list`: certificates by expiry."""

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from cyclopts import Parameter

from broker_client.cli.options import LISTING, Listing
from broker_client.cli.screen.columns import (
    COLUMNS_HELP,
    Columns,
    Trait,
    count,
    print_columns,
    text,
)
from broker_client.cli.screen.tables import Column, left_of, utc_time
from broker_client.cli.session import call
from broker_client.cli.spans import check_span, span_s
from schemas.listed import unix_of
from schemas.messages.api import CertificateList, HoldingRecord
from schemas.verbs import CERTIFICATE_LIST

if TYPE_CHECKING:
    from broker_client.api import MeshClient


def _left_s(record: HoldingRecord, now: float) -> float | None:
    end = unix_of(record.not_after)
    return None if end is None else end - now


_TRAITS: Final[dict[str, Trait[HoldingRecord]]] = {
    "kind": text("KIND", lambda c: c.kind),
    "name": text("NAME", lambda c: c.name, least=12),
    "until": text("VALID UNTIL (UTC)", lambda c: c.not_after, shown=utc_time),
    "left": Trait(Column("LEFT"), lambda c, now: left_of(c.not_after, now), _left_s, is_span=True),
    "warning": text("WARNING", lambda c: c.warning, least=10),
    "group": text("GROUP", lambda c: c.group, rank=1),
    "serial": text("SERIAL", lambda c: c.serial, rank=2),
    "authority": count("AUTHORITY", lambda c: c.authority, rank=3),
}
CERTIFICATES: Final = Columns(
    _TRAITS, usual=tuple(_TRAITS)[:-1], other={"expires": "until", "ends": "until"}
)


def list_(
    *,
    expiring: Annotated[
        str | None,
        Parameter(
            help="Only what ends within this time: 90 (seconds), 12h, 30d.", validator=check_span
        ),
    ] = None,
    columns: Annotated[
        str | None, Parameter(help=COLUMNS_HELP, validator=CERTIFICATES.check)
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
    ends = f" ends within {expiring}" if expiring else ""
    nothing = f"no certificate{ends}"
    print_columns(shared, CERTIFICATES, HoldingRecord, found, names=columns, nothing=nothing)
