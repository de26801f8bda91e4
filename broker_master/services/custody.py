"""Renews the mesh's own certificates while it runs, and warns of those that end soon."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import structlog

from broker_client.runtime.creds import decode_creds
from broker_client.runtime.files import read_bytes
from broker_client.runtime.identity import CERT_FILE, CREDS_FILE
from broker_client.runtime.link import Link
from broker_client.runtime.nkeys import UserClaims, decode_user_jwt
from broker_client.runtime.tls import certificate_facts
from broker_master.ca.authority import certified_digest
from broker_master.ca.mesh import Mesh, certificate_ends, renew_own
from broker_master.core.certificates import newest_confirmed
from broker_master.core.validity import Holding, Kind, fresh_warnings, warnings_at
from broker_master.plane import Plane
from broker_master.services.system import BrokerSystem
from schemas.faults import MeshError
from schemas.messages.registry import CertificateEntry
from schemas.moments import rfc3339
from schemas.states import BARRED

log = structlog.get_logger()


class Custody:
    """Renews the mesh's own certificates, and warns of ends.

    links: the master's two, by the role of the user that each connects as. authorities, servers:
    when their certificates end, for the metrics; kept up to date.
    """

    name = "custody"

    def __init__(
        self, plane: Plane, mesh: Mesh, system: BrokerSystem, links: dict[str, Link]
    ) -> None:
        self._plane = plane
        self._mesh = mesh
        self._system = system
        self._links = links
        self._told: dict[str, str] | None = None
        self._lock = asyncio.Lock()
        self.authorities: dict[str, float] = {}
        self.servers: dict[str, float] = {}
        self._note_ends()

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        while True:
            try:
                await self.renew()
            except MeshError as error:
                log.warning("own_renewal_failed", code=error.code, error=str(error))
                self._plane.note("master.renew", result="failed", code=error.code)
            self._warn()
            await asyncio.sleep(self._plane.settings.certificates.look_s)

    async def renew(self, *, reload: bool = False) -> None:
        """Renew the mesh's own certificates that are due, and use them without a disconnect.

        reload: make the broker read its files again in any case. Raises MeshError if that fails:
        the present ones stay in use, and the files are read at the next start or turn.
        """
        async with self._lock:
            renewed = renew_own(self._mesh)
            if renewed.server or reload:
                await self._system.reload()
            for role, is_new in (("master", renewed.master), ("system", renewed.system)):
                if is_new:
                    await self._links[role].renew()
            self._note_ends()
            if any(renewed):
                log.info("own_certificates_renewed", **renewed._asdict())
                what = ", ".join(name for name, is_new in renewed._asdict().items() if is_new)
                self._plane.note("master.renew", detail=what)

    def own_users(self) -> dict[str, str]:
        """The broker keys of the master itself, with its name."""
        claims = _claims(self._mesh.master_directory)
        return {claims.user: claims.name}

    def own_keys(self) -> tuple[set[str], set[str]]:
        """Keys of the mesh's own: all broker keys, and the digests of its X.509 keys."""
        mesh = self._mesh
        folders = (mesh.master_directory, mesh.system_directory)
        users = mesh.accounts.publics | {_claims(folder).user for folder in folders}
        pems = [mesh.authority.of(each).ca_pem for each in mesh.authority.rotation.trusted]
        pems += [read_bytes(folder / CERT_FILE) for folder in folders]
        pems.append(read_bytes(mesh.broker_directory / "server.pem"))
        return users, {certified_digest(pem) for pem in pems}

    def holdings(self) -> Iterator[Holding]:
        """Every certificate in use, and the mesh's own; none of barred holders."""
        yield from self._own()
        for agent in self._plane.registry.agents.values():
            held = newest_confirmed(agent.certificates)
            if held is not None and not held.retired_at and agent.admin not in BARRED:
                presence = self._plane.roster.get(agent.name)
                failed = presence.renewal if presence is not None else ""
                yield Holding(
                    kind="agent", name=agent.name, group=agent.group, entry=held, failed=failed
                )
        for client in self._plane.registry.clients.values():
            held = newest_confirmed(client.certificates)
            if held is not None and not client.revoked:
                yield Holding(kind="client", name=client.name, entry=held)

    def _own(self) -> Iterator[Holding]:
        authority, mesh = self._mesh.authority, self._mesh
        for generation in authority.rotation.trusted:
            pem = authority.of(generation).ca_pem
            yield _holding("authority", mesh.id, pem, generation)
        files = {
            "broker": mesh.broker_directory / "server.pem",
            "master": mesh.master_directory / CERT_FILE,
        }
        for kind, path in files.items():
            pem = read_bytes(path)
            yield _holding(
                "broker" if kind == "broker" else "master", kind, pem, authority.signer_of(pem)
            )

    def _warn(self) -> None:
        """Put each new warning into the audit trail.

        At a start these are the ones that were not due yet when the previous master ended. If that
        moment is not known, they are only logged.
        """
        at, left_at = self._plane.clock.now(), self._plane.statuses.left_at
        if self._told is None and left_at:
            self._told = warnings_at(self.holdings(), left_at)
        fresh, now = fresh_warnings(self.holdings(), self._told or {}, at)
        if self._told is None and fresh:
            log.warning("certificates_end_soon", count=len(fresh))
        for holding, warning in fresh if self._told is not None else []:
            detail = f"{holding.kind} certificate {holding.entry.serial}: {warning}"
            until = f"valid until {rfc3339(holding.entry.not_after)}"
            self._plane.note(
                "certificate.warning", holding.name, result="alarm", detail=f"{detail}, {until}"
            )
            self._plane.telemetry.eventlog.add(
                "certificate",
                holding.name,
                holding.group,
                "expired" if holding.entry.not_after <= at else "warning",
                at=at,
                detail=f"{detail}, {until}",
            )
        self._told = now

    def _note_ends(self) -> None:
        self.authorities["mesh"] = self._mesh.authority.not_after
        self.servers.update(certificate_ends(self._mesh))


def _claims(folder: Path) -> UserClaims:
    return decode_user_jwt(decode_creds(read_bytes(folder / CREDS_FILE)).jwt)


def _holding(kind: Kind, name: str, pem: bytes, authority: int) -> Holding:
    facts = certificate_facts(pem)
    entry = CertificateEntry(
        serial=facts.serial,
        not_after=facts.not_after,
        user_nkey="",
        issued_at=facts.not_before,
        fingerprint=facts.fingerprint,
        authority=authority,
    )
    return Holding(kind=kind, name=name, entry=entry)
