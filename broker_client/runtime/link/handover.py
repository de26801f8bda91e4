"""Moving a link from one connection to the next without a gap."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from broker_client.runtime.link.dial import Complaints, Dialer
from broker_client.runtime.link.guard import GuardedClient
from broker_client.runtime.link.opening import LinkIdentity
from broker_client.runtime.link.overlap import Overlap, Trial
from broker_client.runtime.link.reconnect import FLUSH_S, Keeper
from broker_client.runtime.link.subscriptions import Subscriptions
from schemas.faults import MeshError, Unreachable

# Timeout in seconds for messages under way on the old connection, and the time for which both stay
# open, so that the nodes of a cluster learn about the new one.
DRAIN_S: Final = 10.0
OVERLAP_S: Final = 0.1

Test = Callable[[Trial], Awaitable[None]]


class Handover:
    """Replaces the connection of `keeper` by a new one with the same subscriptions."""

    def __init__(
        self,
        keeper: Keeper,
        dialer: Dialer,
        subscriptions: Subscriptions,
        complaints: Complaints,
    ) -> None:
        self._keeper = keeper
        self._dialer = dialer
        self._subscriptions = subscriptions
        self._complaints = complaints

    async def run(self, identity: LinkIdentity | None, test: Test | None) -> None:
        """Hand over as `Link.renew` says."""
        keeper, routes = self._keeper, self._subscriptions.routes
        old = keeper.client
        if old is None or not keeper.is_up:
            raise keeper.down()
        overlap = Overlap(routes)
        client: GuardedClient | None = None
        old.reader.routes = overlap.old()
        try:
            client = await self._open_beside(old, overlap, identity, test)
            if keeper.client is not old:
                raise Unreachable("broker_unreachable", "the connection was lost meanwhile")
            keeper.note_up(client)
            await self._leave(old)
        except BaseException:
            if client is not None and keeper.client is not client:
                client.abort("not renewed")
            raise
        finally:
            old.reader.routes = routes
            if client is not None:
                client.reader.routes = routes

    async def _open_beside(
        self,
        old: GuardedClient,
        overlap: Overlap,
        identity: LinkIdentity | None,
        test: Test | None,
    ) -> GuardedClient:
        refused: list[str] = []

        def note(text: str) -> None:
            if not refused:
                refused.append(text)
            self._complaints.note_refused_line(text)

        client = await self._dialer.open(
            old.endpoint or self._dialer.endpoints[0],
            overlap.new(),
            self._keeper.leave,
            identity=identity or self._dialer.identity(),
            refused_line=note,
        )
        try:
            await self._subscriptions.tell(client, FLUSH_S)
            if test is not None:
                await test(Trial(client, overlap, refused))
        except BaseException:
            client.abort("not renewed")
            raise
        return client

    async def _leave(self, old: GuardedClient) -> None:
        """Flush the old connection, which receives its last messages so, and close it."""
        try:
            with contextlib.suppress(MeshError):  # it may be lost already
                await old.flush(DRAIN_S)
                await asyncio.sleep(OVERLAP_S)
                self._subscriptions.end_all(old)
            await old.close(DRAIN_S)
        finally:
            old.abort("replaced")
