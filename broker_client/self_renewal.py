"""Automatic renewal of a client's credentials, and trust in new authorities before rotation.

A failure never fails the caller's work: it is logged and retried later.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from broker_client.asking import Asker
from broker_client.runtime.context import Context, write_context_urls
from broker_client.runtime.context_files import ContextFiles
from broker_client.runtime.identity import NewIdentity
from broker_client.runtime.link import Link, LinkIdentity
from broker_client.runtime.tls import trust_digest
from schemas import addresses
from schemas.faults import MeshError
from schemas.messages.api import IdentityAnswer, TrustAnswer, TrustQuery
from schemas.messages.renewal import RenewalRequest
from schemas.verbs import CERTIFICATE_TRUST, CLIENT_RENEW

# Seconds between requests for changes to the master; fewer for credentials with a short life.
LOOK_S: Final = 3600.0
_LOOKS_PER_LIFE: Final = 30
SETTLE_S: Final = 5.0

log = structlog.get_logger(__name__)


class SelfRenewal:
    """Renewal of one connected client. A lock admits one process at a time to a context's files."""

    def __init__(self, context: Context, link: Link, asker: Asker) -> None:
        self._files = ContextFiles(context)
        self._name = context.name
        self._urls = context.urls
        self._file = context.file
        self._link = link
        self._asker = asker
        self._busy = asyncio.Lock()

    async def run(self) -> None:
        """Check periodically while the connection is used; the first time when due."""
        while True:
            every_s = self._look_every_s()
            await asyncio.sleep(max(0.0, every_s - self._files.looked_s_ago))
            await self.look()
            # Files of another owner have no time stamp of the last check.
            await asyncio.sleep(every_s)

    async def wait_idle(self) -> None:
        """Wait a short time for a renewal under way."""
        try:
            async with asyncio.timeout(SETTLE_S), self._busy:
                pass
        except TimeoutError:
            log.warning("client_renewal_cut_short", client=self._name)

    async def look(self) -> None:
        """Request the trusted authorities, and renew if due.

        A failure is logged, and kept for `mesh doctor` until a renewal succeeds.
        """
        try:
            if self._files.note_look():
                await self.renew(now=False)
        except MeshError as error:
            log.warning(
                "client_renewal_failed", client=self._name, code=error.code, error=str(error)
            )
            await asyncio.to_thread(self._files.note_failure, str(error))

    async def renew(self, *, now: bool) -> str:
        """Renew if due, or `now`. Returns the end of the new credentials (RFC 3339), or "".

        Raises the fault that prevented it; the credentials in use stay then.
        """
        async with self._busy:
            lock = await asyncio.to_thread(self._files.lock)
            try:
                until = await self._renew(now=now)
                self._files.note_failure("")
                return until
            finally:
                lock.release()
                self._files.clear()

    async def _renew(self, *, now: bool) -> str:
        said = addresses.digest(self._urls)
        told = await self._ask_trust(said)
        offered = await self._learn(told.urls)
        if told.ca_pem:
            await asyncio.to_thread(self._files.trust, told.ca_pem.encode())
        if told.ca_pem or offered not in ("", said):
            told = await self._ask_trust(offered)
        if not (now or told.renew or self._files.is_due(self._files.claims(), time.time())):
            return ""
        keys, answer = await self._request()
        await self._link.renew(await asyncio.to_thread(_link_identity, keys, answer))
        await asyncio.to_thread(self._store, keys, answer)
        await self._ask_trust(offered)
        log.info("client_renewed", client=self._name, not_after=answer.not_after)
        return answer.not_after

    async def _request(self) -> tuple[NewIdentity, IdentityAnswer]:
        # Imported here: only a renewal needs keys and proofs.
        from broker_client.runtime.identity import new_identity
        from broker_client.runtime.proofs import renewal_request

        def prepare() -> tuple[NewIdentity, RenewalRequest]:
            keys = new_identity(self._name)
            cert_pem, key_pem = self._files.pems()
            return keys, renewal_request(self._name, keys, cert_pem=cert_pem, key_pem=key_pem)

        keys, request = await asyncio.to_thread(prepare)
        return keys, await self._asker.ask(CLIENT_RENEW, request)

    async def _learn(self, offered: Sequence[str]) -> str:
        """Use the broker addresses of the master; returns their digest, or "".

        The connection stays in use even if the context cannot be written.
        """
        urls = addresses.learned(offered, self._urls, self._link.connected_url or "")
        if urls != self._urls:
            try:
                if self._file:
                    await asyncio.to_thread(write_context_urls, Path(self._file), urls)
            except MeshError as error:
                log.warning("addresses_not_kept", client=self._name, error=str(error))
                return ""
            self._urls = urls
            self._link.look_at(urls)
        return addresses.digest(offered)

    async def _ask_trust(self, known: str) -> TrustAnswer:
        query = await asyncio.to_thread(self._query, known)
        return await self._asker.ask(CERTIFICATE_TRUST, query)

    def _query(self, known: str) -> TrustQuery:
        from broker_client.runtime.tls import certificate_facts

        cert_pem, _ = self._files.pems()
        return TrustQuery(
            known=trust_digest(self._files.ca_pem()),
            serial=certificate_facts(cert_pem).serial,
            addresses=known,
        )

    def _store(self, keys: NewIdentity, answer: IdentityAnswer) -> None:
        self._files.store(
            keys, cert_pem=answer.cert_pem.encode(), ca_pem=answer.ca_pem.encode(), jwt=answer.jwt
        )

    def _look_every_s(self) -> float:
        try:
            claims = self._files.claims()
        except MeshError:
            return LOOK_S
        life_s = claims.expires_at - claims.not_before
        return min(LOOK_S, life_s / _LOOKS_PER_LIFE) if life_s > 0 else LOOK_S


def _link_identity(keys: NewIdentity, answer: IdentityAnswer) -> LinkIdentity:
    from broker_client.runtime.tls import client_context_of

    tls = client_context_of(answer.ca_pem.encode(), answer.cert_pem.encode(), keys.key_pem)
    return LinkIdentity(tls=tls, jwt=answer.jwt, seed=keys.seed)
