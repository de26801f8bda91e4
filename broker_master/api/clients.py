"""`client.*` and `mesh.status`."""

import msgspec

from broker_client.runtime.clock import Clock
from broker_client.runtime.tls import trust_digest
from broker_master.api.operations import Operations
from broker_master.ca.issuer import Issuer
from broker_master.plane import Plane
from broker_master.services.revoke import Revoker
from broker_master.services.views import Views, certificate_record
from schemas.faults import Refused
from schemas.ids import check_name
from schemas.messages.api import (
    ClientCreate,
    ClientRecord,
    ClientsAnswer,
    Done,
    IdentityAnswer,
    NameQuery,
    NoQuery,
    StatusAnswer,
)
from schemas.messages.registry import ClientEntry
from schemas.moments import rfc3339
from schemas.permissions import CLIENT_ROLES

_DAY_S = 86_400


class ClientOperations:
    def __init__(self, plane: Plane, views: Views, issuer: Issuer, revoker: Revoker) -> None:
        self._plane = plane
        self._views = views
        self._issuer = issuer
        self._revoker = revoker

    def register(self, operations: Operations) -> None:
        operations.add("client", "create", ClientCreate, self.create)
        operations.add("client", "list", NoQuery, self.list)
        operations.add("client", "revoke", NameQuery, self.revoke)
        operations.add("mesh", "status", NoQuery, self.status)

    async def create(self, caller: ClientEntry, request: ClientCreate) -> IdentityAnswer:
        """Sign the keys that the caller made for a new client."""
        name = check_name("a client", request.name)
        if request.role not in CLIENT_ROLES:
            raise Refused("field_invalid", f"role: one of {', '.join(CLIENT_ROLES)}")
        groups = [self._plane.registry.group(group).name for group in request.groups]
        _check_no_wider(caller, groups)
        self._plane.registry.check_free(name)
        clock, plane = self._plane.clock, self._plane
        not_after = int(clock.now() + plane.settings.certificates.client_days * _DAY_S)
        issued = self._issuer.issue(
            request.role, name, request.csr_pem.encode(), request.user_nkey, not_after
        )
        await plane.registry.create_client(
            ClientEntry(
                name=name,
                role=request.role,
                created_at=clock.now(),
                created_by=caller.name,
                groups=groups,
                certificates=[issued.entry(clock.now())],
                trust=trust_digest(issued.ca_pem),
            )
        )
        return IdentityAnswer(
            mesh=plane.mesh,
            name=name,
            role=request.role,
            urls=plane.urls,
            cert_pem=issued.cert_pem.decode(),
            ca_pem=issued.ca_pem.decode(),
            jwt=issued.jwt,
            serial=issued.serial,
            not_after=rfc3339(issued.not_after),
        )

    async def list(self, _caller: ClientEntry, _query: NoQuery) -> ClientsAnswer:
        clients = sorted(self._plane.registry.clients.items())
        return ClientsAnswer(clients=[_record(entry, self._plane.clock) for _, entry in clients])

    async def revoke(self, caller: ClientEntry, query: NameQuery) -> Done:
        client = self._plane.registry.client(query.name)
        if client.name == caller.name:
            raise Refused("forbidden", "a client cannot revoke itself")
        await self._plane.registry.change_client(
            client.name, lambda entry: msgspec.structs.replace(entry, revoked=True)
        )
        await self._revoker.revoke(client.name, client.certificates)
        return Done(changed=not client.revoked, message=f"client {client.name} revoked")

    async def status(self, caller: ClientEntry, _query: NoQuery) -> StatusAnswer:
        return self._views.status(caller)


def _check_no_wider(caller: ClientEntry, groups: list[str]) -> None:
    """Whoever is limited to groups may not make a client that is not."""
    if caller.groups and not (groups and set(groups) <= set(caller.groups)):
        raise Refused("forbidden", "name the groups of the new client, out of your own")


def _record(entry: ClientEntry, clock: Clock) -> ClientRecord:
    newest = entry.certificates[-1] if entry.certificates else None
    return ClientRecord(
        client=entry.name,
        role="revoked" if entry.revoked else entry.role,
        groups=entry.groups,
        certificate=certificate_record(newest, clock.now()) if newest else None,
        created_at=rfc3339(entry.created_at),
    )
