"""Learns each agent's address and port from the broker."""

import asyncio

import structlog

from broker_master.plane import Plane
from broker_master.services.system import BrokerSystem
from schemas.faults import MeshError

log = structlog.get_logger()

_GATHER_S = 0.2
_PERIOD_S = 30.0


class Addresses:
    """Asks soon after an agent has returned, once for all agents that returned in the meantime."""

    name = "addresses"

    def __init__(self, plane: Plane, system: BrokerSystem) -> None:
        self._plane = plane
        self._system = system
        self._wanted = asyncio.Event()

    def want(self) -> None:
        self._wanted.set()

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        while True:
            try:
                await asyncio.wait_for(self._wanted.wait(), _PERIOD_S)
                await asyncio.sleep(_GATHER_S)
            except TimeoutError:
                pass
            self._wanted.clear()
            try:
                await self._learn()
            except MeshError as error:
                # Only a detail of a view: the next round fetches it.
                log.info("addresses_unknown", error=str(error))

    async def _learn(self) -> None:
        by_user = {
            connection.user: connection.address for connection in await self._system.connections()
        }
        for name, entry in self._plane.registry.agents.items():
            presence = self._plane.roster.get(name)
            addresses = [
                by_user[certificate.user_nkey]
                for certificate in entry.certificates
                if certificate.user_nkey in by_user
            ]
            if presence is not None and addresses:
                presence.address = addresses[-1]
