"""`client.*` and `mesh.status`."""

from collections.abc import Mapping

import msgspec

from broker_client.runtime import failpoints
from broker_client.runtime.tls import trust_digest
from broker_master.api.operations import Operations
from broker_master.ca.issuer import Credentials, Issuer
from broker_master.core.pages import Rows
from broker_master.core.rights import check_client, check_no_wider, may_see_client
from broker_master.core.validity import overdue
from broker_master.plane import Plane
from broker_master.services.keys import NOT_PROVED, KeyDesk
from broker_master.services.revoke import Revoker
from broker_master.services.views import Views, certificate_record
from schemas import limits
from schemas.faults import Refused
from schemas.ids import check_name
from schemas.messages.api import (
    CertificateRecord,
    ClientCreate,
    ClientList,
    ClientRecord,
    ClientsAnswer,
    Done,
    IdentityAnswer,
    NameQuery,
    NoQuery,
    StatusAnswer,
)
from schemas.messages.registry import ClientEntry
from schemas.messages.renewal import RenewalRequest
from schemas.moments import rfc3339
from schemas.permissions import CLIENT_ROLES
from schemas.spans import DAY_S
from schemas.verbs import CLIENT_CREATE, CLIENT_LIST, CLIENT_RENEW, CLIENT_REVOKE, MESH_STATUS

# Valid certificates of one client at a time.
_KEPT = 16


class ClientOperations:
    """addresses: by client, the digest of the addresses of brokers that it uses."""

    def __init__(
        self,
        plane: Plane,
        views: Views,
        issuer: Issuer,
        keys: KeyDesk,
        revoker: Revoker,
        addresses: Mapping[str, str],
    ) -> None:
        self._addresses = addresses
        self._plane = plane
        self._views = views
        self._issuer = issuer
        self._keys = keys
        self._revoker = revoker

    def register(self, operations: Operations) -> None:
        operations.add(CLIENT_CREATE, self.create)
        operations.add(CLIENT_LIST, self.list)
        operations.add(CLIENT_REVOKE, self.revoke)
        operations.add(CLIENT_RENEW, self.renew)
        operations.add(MESH_STATUS, self.status)

    async def create(self, caller: ClientEntry, request: ClientCreate) -> IdentityAnswer:
        """Sign the keys that the caller made for a new client."""
        name = check_name("a client", request.name)
        if request.role not in CLIENT_ROLES:
            raise Refused("field_invalid", f"role: one of {', '.join(CLIENT_ROLES)}")
        groups = [self._plane.registry.group(group).name for group in request.groups]
        check_no_wider(caller, groups)
        self._plane.registry.check_free(name)
        csr_pem, user, proof = request.csr_pem, request.user_nkey, request.user_signature
        is_proved = self._issuer.check_key("client", name, csr_pem, user, proof)
        with self._keys.held(name, user, csr_pem):
            issued = self._issuer.issue(
                request.role, name, csr_pem.encode(), user, self._lifetime_end()
            )
            await self._enter(caller, request, groups, issued)
        if not is_proved:
            self._plane.note(
                "client.create", name, by=caller.name, actor="client", detail=NOT_PROVED
            )
        return self._identity(name, request.role, issued)

    async def _enter(
        self, caller: ClientEntry, request: ClientCreate, groups: list[str], issued: Credentials
    ) -> None:
        at = self._plane.clock.now()
        await self._plane.registry.create_client(
            ClientEntry(
                name=request.name,
                role=request.role,
                created_at=at,
                created_by=caller.name,
                groups=groups,
                certificates=[issued.entry(at)],
                trust=trust_digest(issued.ca_pem),
            )
        )

    def _identity(self, name: str, role: str, issued: Credentials) -> IdentityAnswer:
        return IdentityAnswer(
            mesh=self._plane.master.mesh,
            name=name,
            role=role,
            urls=self._plane.master.urls,
            cert_pem=issued.cert_pem.decode(),
            ca_pem=issued.ca_pem.decode(),
            jwt=issued.jwt,
            serial=issued.serial,
            not_after=rfc3339(issued.not_after),
        )

    def _lifetime_end(self) -> int:
        plane = self._plane
        return int(plane.clock.now() + plane.settings.certificates.client_days * DAY_S)

    async def renew(self, caller: ClientEntry, request: RenewalRequest) -> IdentityAnswer:
        """Sign new keys for the caller itself; its present certificate stays valid until its end.

        The new one is a candidate until the caller confirms its use (`certificate.trust`).
        """
        clock = self._plane.clock
        proved = self._issuer.check_proof(caller.role, caller.name, request)
        _check_good(caller, proved, clock.now())
        with self._keys.held(caller.name, request.user_nkey, request.csr_pem):
            issued = self._issuer.issue(
                caller.role,
                caller.name,
                request.csr_pem.encode(),
                request.user_nkey,
                self._lifetime_end(),
            )
            await self._enter_renewed(caller, issued, proved)
        return self._identity(caller.name, caller.role, issued)

    async def _enter_renewed(self, caller: ClientEntry, issued: Credentials, proved: str) -> None:
        clock, settings = self._plane.clock, self._plane.settings.certificates
        candidate = msgspec.structs.replace(
            issued.entry(clock.now()), candidate_until=clock.now() + settings.candidate_s
        )

        def enter(entry: ClientEntry) -> ClientEntry:
            _check_good(entry, proved, clock.now())
            kept = [each for each in entry.certificates if each.not_after > clock.now()]
            if len(kept) >= _KEPT:
                raise Refused("rate_limited", f"client {entry.name} has {len(kept)} certificates")
            return msgspec.structs.replace(entry, certificates=[*kept, candidate])

        await self._plane.registry.change_client(caller.name, enter)

    async def list(self, caller: ClientEntry, wanted: ClientList) -> ClientsAnswer:
        rows = Rows[ClientRecord](wanted.limit, limits.WHOLE_LIST_BYTES)
        for name, entry in sorted(self._plane.registry.clients.items()):
            if wanted.cursor is not None and name <= wanted.cursor:
                continue
            if not may_see_client(caller, entry):
                continue
            if not rows.add(_record(entry, self._plane, self._addresses)):
                return ClientsAnswer(clients=rows.taken, cursor=rows.taken[-1].client)
        return ClientsAnswer(clients=rows.taken)

    async def revoke(self, caller: ClientEntry, query: NameQuery) -> Done:
        client = self._plane.registry.client(query.name)
        check_client(caller, client)
        if client.name == caller.name:
            raise Refused("forbidden", "a client cannot revoke itself")
        barred = await self._plane.registry.change_client(
            client.name, lambda entry: msgspec.structs.replace(entry, revoked=True)
        )
        failpoints.reach("master.barred")
        await self._revoker.revoke(client.name, barred.certificates)
        return Done(changed=not client.revoked, message=f"client {client.name} revoked")

    async def status(self, caller: ClientEntry, _query: NoQuery) -> StatusAnswer:
        return self._views.status(caller)


def _check_good(entry: ClientEntry, serial: str, at: float) -> None:
    if entry.revoked:
        raise Refused("client_disabled", f"client {entry.name} is revoked")
    if not any(each.serial == serial and each.not_after > at for each in entry.certificates):
        raise Refused("renewal_refused", f"certificate {serial} of {entry.name} is not good")


def _certificate(entry: ClientEntry, at: float) -> CertificateRecord | None:
    """The newest one, with its warnings."""
    if not entry.certificates:
        return None
    newest = entry.certificates[-1]
    record = certificate_record(newest, at)
    late = "" if entry.revoked else overdue(newest, at)
    warnings = [each for each in (record.warning, late) if each]
    return msgspec.structs.replace(record, warning="; ".join(warnings))


def _record(entry: ClientEntry, plane: Plane, addresses: Mapping[str, str]) -> ClientRecord:
    return ClientRecord(
        client=entry.name,
        role="revoked" if entry.revoked else entry.role,
        groups=entry.groups,
        certificate=_certificate(entry, plane.clock.now()),
        created_at=rfc3339(entry.created_at),
        addresses=plane.addresses_of(addresses.get(entry.name, "")),
    )
