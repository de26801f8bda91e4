"""The link of a process to the broker: one connection at a time, with automatic reconnect.

Callbacks are plain functions, called directly by the reader of the socket in the order of arrival:
they decide and hand on, they never wait. A publish without a connection is refused at once, never
kept for later.
"""

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self

from broker_client.runtime.clock import Clock, SystemClock
from broker_client.runtime.frames import Msg, render_headers
from broker_client.runtime.link.dial import Complaints, Dialer
from broker_client.runtime.link.guard import GuardedClient
from broker_client.runtime.link.handover import Handover, Test
from broker_client.runtime.link.opening import LinkIdentity
from broker_client.runtime.link.reconnect import FLUSH_S, Keeper
from broker_client.runtime.link.requests import Requests
from broker_client.runtime.link.standing import LinkState
from broker_client.runtime.link.subscriptions import Callback, Subscription, Subscriptions
from schemas.faults import MeshError, Unreachable

CLOSE_FLUSH_S: Final = 1.0


class Link(LinkState):
    """See the module. All methods belong to the loop that `connect` ran in."""

    def __init__(
        self,
        urls: Sequence[str],
        identity: Callable[[], LinkIdentity],
        name: str,
        inbox_prefix: str,
        *,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
        loopback_s: float | None = None,
    ) -> None:
        clock = clock or SystemClock()
        complaints = Complaints(name, clock)
        self._subscriptions = Subscriptions()
        self._requests = Requests(inbox_prefix)
        self._dialer = Dialer(urls, identity, name, complaints)
        keeper = Keeper(
            name,
            self._dialer,
            self._subscriptions,
            self._requests,
            clock=clock,
            chance=chance,
            loopback_s=loopback_s,
        )
        super().__init__(keeper, complaints)
        self._handover = Handover(keeper, self._dialer, self._subscriptions, complaints)
        self.subscribe(f"{self._requests.inbox}.>", self._requests.route)

    # life

    @classmethod
    async def connect(
        cls,
        urls: Sequence[str],
        identity: Callable[[], LinkIdentity],
        name: str,
        inbox_prefix: str,
        *,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
        loopback_s: float | None = None,
        wait_s: float | None = 10.0,
    ) -> Self:
        """Return a connected link; raises the last fault after `wait_s` (None: no limit).

        identity: called at every attempt, so that rotated files are picked up; it may raise a
        MeshError, which counts as a failed attempt. inbox_prefix: without a final dot. loopback_s:
        period of messages to itself; the link reconnects when one is missing; for processes that
        may publish to their own inbox. Refused credentials and an untrusted certificate raise at
        once, unless `wait_s` is None.
        """
        link = cls(
            urls, identity, name, inbox_prefix, clock=clock, chance=chance, loopback_s=loopback_s
        )
        link.start()
        try:
            await link.wait_connected(wait_s)
        except BaseException:
            await link.close(0)
            raise
        return link

    def start(self) -> None:
        """Connect in the background and stay connected until `close`, without waiting."""
        self._keeper.start()

    async def wait_connected(self, wait_s: float | None = None) -> None:
        """Wait for the connection; raises as `connect`.

        Raises Unreachable if the link is closed meanwhile.
        """
        await self._keeper.wait_up(wait_s)

    async def close(self, deadline_s: float = 3.0) -> None:
        """Unsubscribe, flush, end; takes at most `deadline_s`, whatever the network does."""
        client = await self._keeper.stop()
        if client is not None:
            self._subscriptions.end_all(client)
            await client.close(min(CLOSE_FLUSH_S, deadline_s))
        self._subscriptions.routes.clear()

    async def renew(self, identity: LinkIdentity | None = None, test: Test | None = None) -> None:
        """Hand over to a new connection without a gap, then close the old one.

        identity: of the new connection, by default a fresh one. test: tries the new connection
        before its use, and raises if it is unfit. Both are subscribed during the overlap; each
        message is delivered once, and the broker takes all messages published over the old
        connection before it is closed.

        Raises the fault of the new connection or of its test, the old connection stays then; and
        Unreachable if there is no connection, or if it was lost meanwhile.
        """
        await self._handover.run(identity, test)

    def look_at(self, urls: Sequence[str]) -> None:
        """Use these broker addresses, in their order, from the next connection on.

        The present connection stays.
        """
        self._dialer.look_at(urls)

    def rebuild(self, reason: str) -> None:
        """Abort the present connection and reconnect: it does not do what it should."""
        if self._keeper.client is not None:
            self._keeper.client.abort(reason)

    def on_connected(self, listener: Callable[[], object]) -> None:
        """Call `listener` after each connect, when the broker knows all subscriptions."""
        self._keeper.on_connected.append(listener)

    def on_disconnected(self, listener: Callable[[MeshError], object]) -> None:
        self._keeper.on_disconnected.append(listener)

    # messages

    def subscribe(self, subject: str, callback: Callback, queue: str = "") -> Subscription:
        """Call `callback` with each message on `subject`, on this and on all later connections.

        The callback must not wait. An exception is logged and counted, and the next message is
        delivered. `await flush()` to be sure that the broker knows the subscription.
        """
        subscription = self._subscriptions.add(subject, callback, queue, self._end)
        if self._keeper.client is not None:
            with contextlib.suppress(Unreachable):  # the next connection subscribes it
                self._keeper.client.out.subscribe_nowait(subscription.sid, subject, queue)
        return subscription

    def _end(self, subscription: Subscription) -> None:
        if self._subscriptions.remove(subscription) and self._keeper.client is not None:
            with contextlib.suppress(Unreachable):
                self._keeper.client.out.unsubscribe_nowait(subscription.sid)

    def publish_nowait(
        self,
        subject: str,
        payload: bytes,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send one message, together with all others of this turn of the loop.

        Raises Unreachable (effect none) while there is no connection, or when more than
        `outbox.UNSENT_MAX_BYTES` wait to be sent. Delivery is not guaranteed.
        """
        client = self._keeper.client
        if client is None:
            raise self._keeper.down()
        if headers is None:
            client.out.publish_nowait(subject, payload, reply)
        else:
            client.out.publish_headers_nowait(subject, render_headers(headers), payload, reply)

    def publish_block(self, block: bytes) -> None:
        """Send frames rendered by `frames`, all on one connection or none."""
        self._client().out.publish_block(block)

    async def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Wait until the broker has processed all that was sent before."""
        await self._client().flush(timeout_s)

    async def drained(self, timeout_s: float) -> None:
        """Wait until few bytes are left to be sent: back-pressure for bulk senders."""
        await self._client().out.drained(timeout_s)

    def _client(self) -> GuardedClient:
        if self._keeper.client is None:
            raise self._keeper.down()
        return self._keeper.client

    async def request(
        self,
        subject: str,
        payload: bytes,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Msg:
        """Send a request and return the first answer.

        Raises NoResponders at once if there is no subscriber; Unreachable (`no_answer`, effect
        unknown) after `timeout_s`, or when the connection is lost meanwhile.
        """

        def send(reply: str) -> None:
            self.publish_nowait(subject, payload, reply, headers)

        return await self._requests.ask(send, subject, timeout_s)

    def fail_requests(self, reason: str) -> None:
        """Fail all requests in flight with `no_answer`: their receiver has gone."""
        self._requests.fail_all(reason)

    def open_inbox(self, callback: Callback) -> tuple[str, Callable[[], None]]:
        """Return a subject for answers on it and below it, and a function to close it.

        It needs no subscription: it is below the link's only inbox.
        """
        return self._requests.open_inbox(callback)
