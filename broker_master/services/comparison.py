"""Compares each live connection with the registry, and cuts those that are not what they seem.

A stolen signing key makes tokens that the broker believes: here they are noticed.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from broker_master.ca.accounts import Accounts
from broker_master.core.identities import Finding, Known, Shown
from broker_master.plane import Plane
from broker_master.services.system import BrokerSystem, Connection
from schemas.faults import MeshError

log = structlog.get_logger()

# Connections that were told of: each once, and not more of them than this.
_TOLD_MAX: Final = 10_000


class Comparison:
    """own: the mesh's own broker keys with their names."""

    name = "comparison"

    def __init__(
        self,
        plane: Plane,
        accounts: Accounts,
        system: BrokerSystem,
        own: Callable[[], dict[str, str]],
    ) -> None:
        self._plane = plane
        self._accounts = accounts
        self._system = system
        self._own = own
        self._told: set[tuple[str, int]] = set()

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        while True:
            await asyncio.sleep(self._plane.settings.certificates.compare_s)
            try:
                await self.compare()
            except MeshError as error:
                log.warning("comparison_failed", code=error.code, error=str(error))

    async def compare(self) -> None:
        connections = await self._system.connections()
        # Only now: whoever was given credentials while the broker was asked is in there, too.
        registry = self._plane.registry
        known = Known(registry.agents, registry.clients, self._own())
        refused = self._accounts.revocations
        live = {(each.server, each.cid) for each in connections}
        self._told &= live
        for connection in connections:
            finding = known.judge(_shown(connection), refused)
            if finding is not None:
                await self._act(connection, finding)

    async def _act(self, connection: Connection, finding: Finding) -> None:
        key = (connection.server, connection.cid)
        if key not in self._told and len(self._told) < _TOLD_MAX:
            self._told.add(key)
            self._tell(connection, finding)
        if finding.kick:
            await self._system.kick(connection)

    def _tell(self, connection: Connection, finding: Finding) -> None:
        plane = self._plane
        plane.count("comparison", finding.kind)
        log.error(
            "connection_wrong",
            kind=finding.kind,
            reason=finding.reason,
            address=connection.address,
            issuer=connection.issuer,
            kicked=finding.kick,
        )
        did = "cut" if finding.kick else "not cut: mesh ca rotate prepare --key ROLE"
        detail = f"{finding.reason}; from {connection.address}; {did}"
        plane.note(f"connection.{finding.kind}", connection.name, result="alarm", detail=detail)


def _shown(connection: Connection) -> Shown:
    return Shown(connection.user, connection.name, connection.certificate, connection.subject)
