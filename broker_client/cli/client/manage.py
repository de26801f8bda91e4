"""`mesh client …`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from cyclopts import Parameter

from broker_client.cli.options import LISTING, SHARED, Listing, Shared
from broker_client.cli.screen.columns import COLUMNS_HELP, Columns, Trait, print_columns, text
from broker_client.cli.screen.report import print_json, say
from broker_client.cli.screen.tables import in_local_time, local_time, utc_time
from broker_client.cli.session import call, context_of
from schemas.messages.api import (
    ClientCreate,
    ClientRecord,
    NameQuery,
)
from schemas.verbs import CLIENT_CREATE, CLIENT_REVOKE

Name = Annotated[str, Parameter(help="Name of the client.")]
Role = Literal["viewer", "operator", "admin"]


def create(
    name: Name,
    /,
    *,
    role: Annotated[Role, Parameter(help="What it may do.")],
    group: Annotated[
        list[str] | None,
        Parameter(negative="", help="Limit it to this group; repeatable. All groups without it."),
    ] = None,
    out: Annotated[Path, Parameter(help="New or empty directory for its files.")],
    shared: Shared = SHARED,
) -> None:
    """Make keys here, get a certificate for them, and write the files of a client."""
    # The keys import X.509, which the other commands of this module do not need.
    from broker_client.cli.client.files import NewClient

    fresh = NewClient(name, out)
    request = ClientCreate(
        name=name,
        role=role,
        groups=group or [],
        csr_pem=fresh.csr_pem,
        user_nkey=fresh.user_nkey,
        user_signature=fresh.proof(context_of(shared).mesh),
    )
    with fresh.reserved():
        answer = call(shared, lambda mesh: mesh.ask(CLIENT_CREATE, request))
        fresh.store(answer)
    if shared.output == "json":
        kept = {"mesh": answer.mesh, "name": answer.name, "role": answer.role, "out": str(out)}
        print_json({**kept, "serial": answer.serial, "not_after": answer.not_after})
    else:
        until = f"{utc_time(answer.not_after)} UTC"
        print(f"client {name} ({role}) until {until}: --context {out / 'context.toml'}")


_TRAITS: Final[dict[str, Trait[ClientRecord]]] = {
    "client": text("CLIENT", lambda c: c.client),
    "role": text("ROLE", lambda c: c.role),
    "groups": text("GROUPS", lambda c: ", ".join(c.groups) or "all", least=16),
    "until": text(
        "UNTIL (UTC)",
        lambda c: c.certificate.not_after if c.certificate else "",
        rank=1,
        shown=utc_time,
    ),
    "created": text("CREATED", lambda c: c.created_at, rank=2, shown=local_time),
    "addresses": text("ADDRESSES", lambda c: c.addresses, rank=3),
}
CLIENTS: Final = Columns(_TRAITS, other={"name": "client", "expires": "until"})


def list_(
    *,
    columns: Annotated[str | None, Parameter(help=COLUMNS_HELP, validator=CLIENTS.check)] = None,
    shared: Listing = LISTING,
) -> None:
    """List clients with role, groups and the end of their certificates."""
    clients = call(shared, lambda mesh: mesh.clients())
    _tell_warnings(clients, is_text=shared.output == "table")
    print_columns(shared, CLIENTS, ClientRecord, clients, names=columns, nothing="no clients")


def revoke(name: Name, /, *, shared: Shared = SHARED) -> None:
    """Refuse a client's credentials from now on."""
    done = call(shared, lambda mesh: mesh.ask(CLIENT_REVOKE, NameQuery(name=name)))
    if shared.output == "json":
        print_json(msgspec.to_builtins(done))
    else:
        print(f"client {name} revoked")


def renew(*, shared: Shared = SHARED) -> None:
    """Renew the credentials of the context in use now; they do so by themselves as well."""
    until = call(shared, lambda mesh: mesh.renew())
    if shared.output == "json":
        print_json({"not_after": until})
    else:
        print(f"renewed until {utc_time(until)} UTC")


def _tell_warnings(clients: Sequence[ClientRecord], *, is_text: bool) -> None:
    """One line for each certificate with a warning; other outputs have it in the record."""
    for client in clients if is_text else ():
        if client.certificate is not None and client.certificate.warning:
            say(f"{client.client}: certificate {in_local_time(client.certificate.warning)}")
