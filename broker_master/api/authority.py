"""`certificate.*` and `ca.*`: issued certificates with their ends, and the keys behind them."""

from collections.abc import Sequence

import msgspec

from broker_master.api.operations import Operations
from broker_master.ca.key_files import OPERATOR
from broker_master.core.certificates import days_left
from broker_master.core.key_holders import AUTHORITY
from broker_master.core.pages import Rows
from broker_master.core.rights import check_unlimited, may_see, may_see_client
from broker_master.core.rotation import SETTLED, Rotation
from broker_master.core.validity import Holding, Order, page
from broker_master.plane import Plane
from broker_master.services.custody import Custody
from broker_master.services.rotation import KEYS, Rotator
from schemas.faults import Refused
from schemas.messages.api import (
    CaAnswer,
    CaRotate,
    CertificateList,
    CertificatesAnswer,
    HoldingRecord,
    NoQuery,
    RotationRecord,
    TrustAnswer,
    TrustQuery,
)
from schemas.messages.registry import CertificateEntry, ClientEntry
from schemas.moments import rfc3339
from schemas.verbs import CA_ROTATE, CA_SHOW, CERTIFICATE_LIST, CERTIFICATE_TRUST

_NAMED = 50
_EXTERNAL = (
    "this broker is not the master's own: give each node ca/trusted.pem and a server certificate"
    " of your own making, and reload it"
)
_NODES = (
    "give each broker node, also one that is down, the configuration that broker-master"
    " broker-config prints now, and restart them one after the other: they read the operator's"
    " keys at a start alone"
)
_OWN_NODE = "the broker restarts to read the operator's keys; what runs goes on"


class AuthorityOperations:
    """addresses: by client, the digest of the addresses that it uses; entered here."""

    def __init__(
        self, plane: Plane, custody: Custody, rotator: Rotator, addresses: dict[str, str]
    ) -> None:
        self._addresses = addresses
        self._plane = plane
        self._custody = custody
        self._rotator = rotator

    def register(self, operations: Operations) -> None:
        operations.add(CERTIFICATE_LIST, self.list)
        operations.add(CERTIFICATE_TRUST, self.trust)
        operations.add(CA_SHOW, self.show)
        operations.add(CA_ROTATE, self.rotate)

    async def list(self, caller: ClientEntry, wanted: CertificateList) -> CertificatesAnswer:
        at = self._plane.clock.now()
        until = None if wanted.expiring_s is None else at + wanted.expiring_s
        after = None if wanted.cursor is None else _order(wanted.cursor)
        seen = (
            each for each in self._custody.holdings() if self._may_see(caller, each.kind, each.name)
        )
        found, more = page(seen, until=until, after=after, limit=wanted.limit)
        rows = Rows[HoldingRecord](wanted.limit)
        for each in found:
            if not rows.add(_record(each, at)):
                more = True
                break
        last = found[len(rows.taken) - 1].order if more else None
        return CertificatesAnswer(
            certificates=rows.taken, cursor=_cursor(last) if last is not None else None
        )

    async def trust(self, caller: ClientEntry, query: TrustQuery) -> TrustAnswer:
        """Return the trusted authorities and whether to renew now; note which the caller uses."""
        trust = self._rotator.trust

        def note(entry: ClientEntry) -> ClientEntry:
            held = [_confirmed(each, query.serial) for each in entry.certificates]
            trusts = trust if query.known == trust else entry.trust
            return msgspec.structs.replace(entry, certificates=held, trust=trusts)

        caller = await self._plane.registry.change_client(caller.name, note)
        self._addresses[caller.name] = query.addresses
        known = query.known == trust
        return TrustAnswer(
            ca_pem="" if known else self._rotator.ca_pem.decode(),
            renew=self._rotator.has_to_renew(caller),
            urls=self._plane.master.urls,
        )

    async def show(self, caller: ClientEntry, _query: NoQuery) -> CaAnswer:
        return await self._answer(caller)

    async def rotate(self, caller: ClientEntry, request: CaRotate) -> CaAnswer:
        check_unlimited(caller)
        await self._rotator.rotate(request.key, request.step, force=request.force)
        return await self._answer(caller)

    async def _answer(self, caller: ClientEntry) -> CaAnswer:
        rotations = [await self._rotation(caller, key) for key in KEYS]
        return CaAnswer(rotations=rotations, note=self._note(rotations))

    def _note(self, rotations: Sequence[RotationRecord]) -> str:
        external = bool(self._plane.settings.nats_url)
        by_key = {each.key: each for each in rotations}
        if by_key[OPERATOR].waiting:
            return _NODES if external else _OWN_NODE
        return _EXTERNAL if external and by_key[AUTHORITY].stage != SETTLED else ""

    async def _rotation(self, caller: ClientEntry, key: str) -> RotationRecord:
        rotation: Rotation = self._rotator.rotation(key)
        waiting = [
            named
            for named in await self._rotator.waiting_for(key, rotation.next_step)
            if self._may_see(caller, *named.split(" ", 1))
        ]
        not_after = self._rotator.not_after(key)
        return RotationRecord(
            key=key,
            stage=rotation.stage,
            since=rfc3339(rotation.since) if rotation.since else None,
            next=rotation.next_step,
            active=rotation.active,
            other=rotation.other,
            not_after=None if not_after is None else rfc3339(not_after),
            waiting_for=waiting[:_NAMED],
            waiting=len(waiting),
        )

    def _may_see(self, caller: ClientEntry, kind: str, name: str) -> bool:
        """Whether the caller may see a certificate: of an agent, a client, or the mesh."""
        registry = self._plane.registry
        if kind == "agent":
            return name in registry.agents and may_see(caller, registry.agents[name].group)
        if kind == "client":
            return name in registry.clients and may_see_client(caller, registry.clients[name])
        return True


def _confirmed(entry: CertificateEntry, serial: str) -> CertificateEntry:
    return entry if entry.serial != serial else msgspec.structs.replace(entry, candidate_until=0.0)


def _record(holding: Holding, at: float) -> HoldingRecord:
    entry = holding.entry
    return HoldingRecord(
        kind=holding.kind,
        name=holding.name,
        group=holding.group,
        serial=entry.serial,
        not_after=rfc3339(entry.not_after),
        days_left=days_left(entry, at),
        warning=holding.warning(at),
        authority=entry.authority,
    )


def _cursor(order: Order) -> str:
    return "/".join([f"{order[0]:.6f}", *order[1:]])


def _order(cursor: str) -> Order:
    parts = cursor.split("/")
    try:
        end, kind, name, serial = parts
        return (float(end), kind, name, serial)
    except ValueError:
        raise Refused("field_invalid", "cursor: not one of a page before") from None
