"""Revokes credentials: at the broker, now, and after each of its restarts."""

import structlog

from broker_master.ca.accounts import Accounts
from broker_master.plane import Plane
from broker_master.services.system import BrokerSystem
from schemas.messages.registry import CertificateEntry

log = structlog.get_logger()


class Revoker:
    def __init__(self, plane: Plane, accounts: Accounts, system: BrokerSystem) -> None:
        self._plane = plane
        self._accounts = accounts
        self._system = system

    @property
    def refused(self) -> set[str]:
        """The broker keys on the list."""
        return set(self._accounts.revocations)

    async def revoke(self, name: str, certificates: list[CertificateEntry]) -> None:
        """Refuse these keys from now on, and disconnect their connections.

        The list is kept in the account's token, on disk before the broker gets it, so a restarted
        broker refuses them too. Keys whose certificates have ended are dropped from it.
        """
        now = self._plane.clock.now()
        users = {certificate.user_nkey: certificate.not_after for certificate in certificates}
        token = self._accounts.revoke(users, now=now)
        await self._system.update_account(token)
        for connection in await self._system.connections():
            if connection.user in users:
                await self._system.kick(connection)
                self._plane.note(
                    "connection.kick",
                    name,
                    detail=f"from {connection.address}: its credentials were revoked",
                )
        log.info("credentials_revoked", name=name, keys=len(users))
