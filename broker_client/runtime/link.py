"""The link of a process to the broker: one connection at a time, always on its way back.

The link owns the subscriptions, the requests in flight and the decision when to try again; each
connection is a `GuardedClient` that lives once. Callbacks are plain functions, called straight from
the reading of the socket in the order of arrival: they decide and hand on, they never wait. What
is published while there is no connection is refused at once, never kept for later.
"""

import asyncio
import contextlib
import functools
import itertools
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Self

import structlog

from broker_client.runtime.backoff import Backoff
from broker_client.runtime.clock import Clock, SystemClock
from broker_client.runtime.frames import (
    NO_RESPONDERS,
    Msg,
    check_subject,
    render_headers,
)
from broker_client.runtime.guard import (
    CONNECT_S,
    PATIENCE_S,
    Endpoint,
    GuardedClient,
    GuardEvents,
    LinkIdentity,
    Untrusted,
)
from broker_client.runtime.rates import TokenBucket
from broker_client.runtime.succession import Overlap, Routes, Trial
from schemas.faults import MeshError, Misused, Refused, Unreachable

__all__ = ["Endpoint", "Link", "LinkIdentity", "Msg", "NoResponders", "Subscription", "Trial"]

Callback = Callable[[Msg], object]

FIRST_WAIT_S: Final = 0.2
# Short for a broker that is away: an agent should be back within seconds of its return. Long for
# one that has refused us: only new credentials will help.
WAIT_CAP_S: Final = 2.0
REFUSED_WAIT_CAP_S: Final = 30.0
# A connection that lived this long was a good one, and the next wait begins small again.
STABLE_S: Final = 5.0
FLUSH_S: Final = 5.0
# What a broker allows unless its configuration says otherwise; for as long as none was asked.
DEFAULT_MAX_PAYLOAD: Final = 1024 * 1024
CLOSE_FLUSH_S: Final = 1.0
# What an old connection may take to bring and to take all that is under way, and how long both are
# kept, for the nodes of a cluster to learn of the new one.
DRAIN_S: Final = 10.0
OVERLAP_S: Final = 0.1

log = structlog.get_logger(__name__)


class NoResponders(Unreachable):
    """Nobody listens on that subject: said by the broker at once, so nothing has happened."""

    effect = "none"


class Subscription:
    """Interest in a subject that survives connections, until `unsubscribe`."""

    def __init__(self, link: "Link", sid: bytes, subject: str, queue: str) -> None:
        self._link = link
        self.sid = sid
        self.subject = subject
        self.queue = queue

    def unsubscribe(self) -> None:
        """From now on the callback is not called any more, whatever is still on its way."""
        self._link._forget(self)  # noqa: SLF001


class Link:
    """See the module. All methods belong to the loop that `connect` ran in.

    Counters: `reconnects`, `callback_failures`, `malformed` (messages skipped). A refusal of the
    broker to let us publish or subscribe arrives late and by itself: `last_permission_error`.
    """

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
        if not urls:
            raise Misused("settings_invalid", "no address of a broker is given")
        self._endpoints = [Endpoint(url=url) for url in urls]
        self._identity = identity
        self._name = name
        self._clock = clock or SystemClock()
        self._chance = chance
        self._loopback_s = loopback_s
        self._client: GuardedClient | None = None
        self._is_up = False
        self._is_closed = False
        self._connected = asyncio.Event()
        self._routes: dict[bytes, Callback] = {}
        self._subscriptions: dict[bytes, Subscription] = {}
        self._sids = itertools.count(1)
        self._inbox = f"{check_subject(inbox_prefix)}.{secrets.token_hex(8)}"
        self._tokens = itertools.count(1)
        self._replies: dict[str, Callback] = {}
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._on_connected: list[Callable[[], object]] = []
        self._on_disconnected: list[Callable[[MeshError], object]] = []
        self._failure_lines = TokenBucket(per_s=0.2, burst=5)
        self._keeper: asyncio.Task[None] | None = None
        self._loopback_heard = True
        self._patience_s = 0.0
        self._failed = 0
        self.reconnects = 0
        self.callback_failures = 0
        self.permission_errors = 0
        self.last_permission_error: str | None = None
        self.last_error: MeshError | None = None
        self.connected_url: str | None = None
        self.connected_at: float | None = None
        self.subscribe(f"{self._inbox}.>", self._route_reply)

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
        """A link that is up; or the last fault, if it is not up after `wait_s` (None: for ever).

        identity: read anew at every attempt, so that rotated files are picked up; it may raise a
        MeshError, which counts as a failed attempt. inbox_prefix: without a final dot.
        loopback_s: send a message to itself this often and reconnect when one is not heard; for
        processes that may publish to their own inbox. Refused credentials do not wait, and neither
        does a certificate that is not trusted, unless `wait_s` is None.
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
        """Begin to connect, and go on until `close`. For those who do not want to wait for it."""
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(
                self._keep(), name=f"link {self._name}"
            )

    async def wait_connected(self, wait_s: float | None = None) -> None:
        """Wait for the connection; see `connect` for what is raised otherwise."""
        waiter = asyncio.ensure_future(self._connected.wait())
        deadline = None if wait_s is None else self._clock.elapsed() + wait_s
        try:
            while not self._connected.is_set():
                left = None if deadline is None else max(0.0, deadline - self._clock.elapsed())
                if deadline is not None and self._is_hopeless():
                    raise self.last_error or self._down()
                if left == 0:
                    raise self.last_error or Unreachable(
                        "broker_unreachable", "no connection in time", effect="none"
                    )
                # In short steps: a refusal is to be seen when it comes.
                await asyncio.wait({waiter}, timeout=None if left is None else min(left, 0.05))
        finally:
            waiter.cancel()

    def _is_hopeless(self) -> bool:
        """Whether to wait is no use. Another of several brokers may have the right certificate."""
        if isinstance(self.last_error, Untrusted):
            return self._failed >= len(self._endpoints)
        return isinstance(self.last_error, Refused)

    async def close(self, deadline_s: float = 3.0) -> None:
        """Unsubscribe, flush, end; takes no longer than `deadline_s`, whatever the network does."""
        self._is_closed = True
        if self._keeper is not None:
            # More than once: `asyncio.wait_for` of 3.11, which nats-py connects with, may lose one.
            while not self._keeper.done():
                self._keeper.cancel()
                await asyncio.wait({self._keeper}, timeout=0.1)
            self._keeper = None
        client, self._client = self._client, None
        self._set_down(Unreachable("broker_unreachable", "the link was closed"))
        if client is not None:
            with contextlib.suppress(MeshError):
                for sid in self._subscriptions:
                    client.unsubscribe_nowait(sid)
            await client.close(min(CLOSE_FLUSH_S, deadline_s))
        self._routes.clear()

    async def renew(
        self,
        identity: LinkIdentity | None = None,
        test: Callable[[Trial], Awaitable[None]] | None = None,
    ) -> None:
        """Move to a new connection and close the old one after that, without a gap.

        identity: of the new connection, by default a fresh one. test: tries the new connection
        before it is used, and raises if it is not fit. Both are subscribed for a moment; every
        message is delivered once, and all that was published over the old one is taken by the
        broker before that is closed.

        Raises the fault of the new connection or of its test, in which case the old one stays; and
        Unreachable if there is none to be renewed, or if it was lost meanwhile.
        """
        old = self._client
        if old is None or not self._is_up:
            raise self._down()
        overlap = Overlap(self._routes)
        client: GuardedClient | None = None
        old.reader.routes = overlap.old()
        try:
            client = await self._open_beside(old, overlap, identity, test)
            if self._client is not old:
                raise Unreachable("broker_unreachable", "the connection was lost meanwhile")
            self._client = client
            self._note_up(client)
            await self._leave_old(old)
        except BaseException:
            if client is not None and self._client is not client:
                client.abort("not renewed")
            raise
        finally:
            old.reader.routes = self._routes
            if client is not None:
                client.reader.routes = self._routes

    async def _open_beside(
        self,
        old: GuardedClient,
        overlap: Overlap,
        identity: LinkIdentity | None,
        test: Callable[[Trial], Awaitable[None]] | None,
    ) -> GuardedClient:
        refused: list[str] = []

        def note(text: str) -> None:
            if not refused:
                refused.append(text)
            self._note_refused_line(text)

        client = await self._open(
            old.endpoint or self._endpoints[0],
            identity=identity or self._identity(),
            routes=overlap.new(),
            refused_line=note,
        )
        try:
            await self._subscribe_all(client)
            if test is not None:
                await test(Trial(client, overlap, refused))
        except BaseException:
            client.abort("not renewed")
            raise
        return client

    async def _leave_old(self, old: GuardedClient) -> None:
        """What the broker had sent there before it knew of the new one has come when it answers."""
        try:
            with contextlib.suppress(MeshError):  # it may be lost by now
                await old.flush(DRAIN_S)
                await asyncio.sleep(OVERLAP_S)
                for sid in self._subscriptions:
                    old.unsubscribe_nowait(sid)
            await old.close(DRAIN_S)
        finally:
            old.abort("replaced")

    def rebuild(self, reason: str) -> None:
        """Give the present connection up and begin a new one: it is not what it seems to be."""
        if self._client is not None:
            self._client.abort(reason)

    @property
    def is_connected(self) -> bool:
        return self._is_up

    @property
    def malformed(self) -> int:
        return 0 if self._client is None else self._client.reader.malformed

    @property
    def max_payload(self) -> int:
        """The broker's limit for headers and body of one message."""
        return DEFAULT_MAX_PAYLOAD if self._client is None else self._client.max_payload

    @property
    def pending_bytes(self) -> int:
        """What was published and not yet taken by the kernel."""
        return 0 if self._client is None else self._client.pending_bytes

    def on_connected(self, listener: Callable[[], object]) -> None:
        """Call `listener` after each connection, when all subscriptions are known to the broker."""
        self._on_connected.append(listener)

    def on_disconnected(self, listener: Callable[[MeshError], object]) -> None:
        self._on_disconnected.append(listener)

    # messages

    def subscribe(self, subject: str, callback: Callback, queue: str = "") -> Subscription:
        """Call `callback` with each message on `subject`, on this and on all later connections.

        The callback must not wait. If it raises, that is logged and counted, and the next message
        is delivered. `await flush()` to be sure that the broker knows of the subscription.
        """
        check_subject(subject)
        if queue:
            check_subject(queue)
        sid = b"%d" % next(self._sids)
        subscription = Subscription(self, sid, subject, queue)
        self._subscriptions[sid] = subscription
        self._routes[sid] = callback
        if self._client is not None:
            with contextlib.suppress(Unreachable):  # the next connection subscribes it
                self._client.subscribe_nowait(sid, subject, queue)
        return subscription

    def _forget(self, subscription: Subscription) -> None:
        self._routes.pop(subscription.sid, None)
        if self._subscriptions.pop(subscription.sid, None) and self._client is not None:
            with contextlib.suppress(Unreachable):
                self._client.unsubscribe_nowait(subscription.sid)

    def publish_nowait(
        self,
        subject: str,
        payload: bytes,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send one message, with all others of this turn of the loop.

        Raises Unreachable (effect none) while there is no connection, or when more than
        `guard.UNSENT_MAX_BYTES` wait to be sent. No error does not mean that it arrives.
        """
        client = self._client
        if client is None:
            raise self._down()
        if headers is None:
            client.publish_nowait(subject, payload, reply)
        else:
            client.publish_headers_nowait(subject, render_headers(headers), payload, reply)

    def publish_block(self, block: bytes, messages: int) -> None:
        """Send frames rendered by `frames`, on one connection or not at all."""
        if self._client is None:
            raise self._down()
        self._client.publish_block(block, messages)

    async def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Wait until the broker has taken all that was sent before."""
        if self._client is None:
            raise self._down()
        await self._client.flush(timeout_s)

    async def drained(self, timeout_s: float) -> None:
        """Back-pressure for bulk senders: wait until little is left to be sent."""
        if self._client is None:
            raise self._down()
        await self._client.drained(timeout_s)

    async def request(
        self,
        subject: str,
        payload: bytes,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Msg:
        """The first answer.

        Raises NoResponders at once if nobody listens; Unreachable (`no_answer`, effect unknown)
        after `timeout_s`, or when the connection is lost meanwhile.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Msg] = loop.create_future()
        token = f"{next(self._tokens)}"
        timer = loop.call_later(timeout_s, _time_out, answer, subject, timeout_s)
        self._waiting[token] = answer
        try:
            self.publish_nowait(subject, payload, f"{self._inbox}.{token}", headers)
            return await answer
        finally:
            timer.cancel()
            del self._waiting[token]

    def open_inbox(self, callback: Callback) -> "tuple[str, Callable[[], None]]":
        """A subject for any number of answers, with all that is below it, and what ends it.

        Costs the broker nothing: it lies below the link's one inbox.
        """
        token = f"{next(self._tokens)}"
        self._replies[token] = callback
        return f"{self._inbox}.{token}", lambda: self._replies.pop(token, None) and None

    def _route_reply(self, msg: Msg) -> None:
        token = msg.subject[len(self._inbox) + 1 :].partition(".")[0]
        answer = self._waiting.get(token)
        if answer is not None:
            if answer.done():
                return
            if not msg.data and msg.raw_headers and msg.status == NO_RESPONDERS:
                answer.set_exception(NoResponders("no_answer", "nobody listens there"))
            else:
                answer.set_result(msg)
            return
        callback = self._replies.get(token)
        if callback is not None:
            callback(msg)

    # the keeper

    async def _keep(self) -> None:
        backoff = Backoff(self._chance, first_s=FIRST_WAIT_S, cap_s=WAIT_CAP_S)
        refused = Backoff(self._chance, first_s=FIRST_WAIT_S, cap_s=REFUSED_WAIT_CAP_S)
        while True:
            began_at = self._clock.elapsed()
            reason = await self._live_once()
            if self._clock.elapsed() - began_at >= STABLE_S and self.last_error is reason:
                backoff.reset()
                refused.reset()
            is_refused = isinstance(reason, Refused)
            await asyncio.sleep((refused if is_refused else backoff).next_s())

    async def _live_once(self) -> MeshError:
        """Connect to the next endpoint and stay until it is over; why it is over."""
        try:
            client = await self._open(self._next_endpoint())
            self._client = client
            await self._subscribe_all(client)
        except MeshError as error:
            if self._client is not None:
                self._client.abort("subscribing failed")
                self._client = None
            if self.last_error is None or str(self.last_error) != str(error):
                log.warning("connect_failed", link=self._name, error=str(error))
            self.last_error = error
            self._failed += 1
            return error
        except Exception as error:
            # Identity callbacks read files, and anything may be in them.
            log.exception("connect_failed", link=self._name)
            self.last_error = Unreachable("internal", f"{type(error).__name__} while connecting")
            return self.last_error
        self._note_up(client)
        reason = await self._watch()
        self.last_error = reason
        self._client = None
        log.warning("disconnected", link=self._name, url=self.connected_url, reason=str(reason))
        self._set_down(reason)
        return reason

    async def _open(
        self,
        endpoint: Endpoint,
        *,
        identity: LinkIdentity | None = None,
        routes: Routes | None = None,
        refused_line: Callable[[str], None] | None = None,
    ) -> GuardedClient:
        client = GuardedClient(
            self._routes if routes is None else routes,
            GuardEvents(
                refused_line=refused_line or self._note_refused_line,
                callback_failed=self._note_callback_failed,
                leaving=self._leave,
            ),
            patience_s=self._patience_s,
        )
        try:
            who = identity or self._identity()
            await client.open(endpoint, who, name=self._name, timeout_s=CONNECT_S)
        except MeshError:
            self._patience_s = PATIENCE_S if client.is_encrypted else 0.0
            raise
        self._patience_s = 0.0
        known = {known.url for known in self._endpoints}
        self._endpoints += [found for found in client.discovered if found.url not in known]
        return client

    async def _subscribe_all(self, client: GuardedClient) -> None:
        for subscription in self._subscriptions.values():
            client.subscribe_nowait(subscription.sid, subscription.subject, subscription.queue)
        await client.flush(FLUSH_S)

    def _next_endpoint(self) -> Endpoint:
        """Round robin: whoever failed or was lost last is tried last."""
        endpoint = self._endpoints.pop(0)
        self._endpoints.append(endpoint)
        return endpoint

    async def _watch(self) -> MeshError:
        """Wait for the end of the connection; `renew` may put another one in its place."""
        while True:
            client = self._client
            if client is None:
                return Unreachable("broker_unreachable", "the link was closed")
            done, _ = await asyncio.wait({client.lost}, timeout=self._loopback_s)
            if done:
                if self._client is client:
                    return client.lost.result()
            elif self._client is client:
                self._check_loopback(client)

    def _check_loopback(self, client: GuardedClient) -> None:
        if not self._loopback_heard:
            client.abort("deaf: our own message did not come back")
            return
        self._loopback_heard = False
        with contextlib.suppress(MeshError):
            client.publish_nowait(f"{self._inbox}.loop", b"")

    def _note_up(self, client: GuardedClient) -> None:
        self.connected_url = client.endpoint.url if client.endpoint is not None else None
        self.connected_at = self._clock.elapsed()
        self._loopback_heard = True
        self._replies["loop"] = self._note_loopback
        self.last_error = None
        was_up, self._is_up = self._is_up, True
        self._connected.set()
        log.info("connected", link=self._name, url=self.connected_url)
        if not was_up:
            self._tell(self._on_connected)

    def _note_loopback(self, _msg: Msg) -> None:
        self._loopback_heard = True

    def _set_down(self, reason: MeshError) -> None:
        if not self._is_up:
            return
        self._is_up = False
        self._connected.clear()
        self.connected_at = None
        self.reconnects += not self._is_closed
        for answer in self._waiting.values():
            if not answer.done():
                lost = Unreachable("no_answer", f"the connection was lost: {reason.message}")
                answer.set_exception(lost)
        self._tell([functools.partial(each, reason) for each in self._on_disconnected])

    def _tell(self, listeners: Sequence[Callable[[], object]]) -> None:
        for listener in listeners:
            try:
                listener()
            except Exception:
                log.exception("listener_failed", link=self._name)

    def _down(self) -> Unreachable:
        why = "" if self.last_error is None else f": {self.last_error.message}"
        return Unreachable("broker_unreachable", f"not connected{why}", effect="none")

    def _note_refused_line(self, text: str) -> None:
        self.permission_errors += 1
        self.last_permission_error = text
        if self._failure_lines.take(self._clock.elapsed()):
            log.warning("permission_refused", link=self._name, text=text)

    def _note_callback_failed(self, subject: str, error: BaseException) -> None:
        self.callback_failures += 1
        if self._failure_lines.take(self._clock.elapsed()):
            log.error("callback_failed", link=self._name, subject=subject, exc_info=error)

    def _leave(self) -> None:
        """The broker is about to stop: go to another node now, if there is one."""
        if self._client is not None and len(self._endpoints) > 1:
            self._client.abort("the broker node is about to stop")


def _time_out(answer: "asyncio.Future[Msg]", subject: str, timeout_s: float) -> None:
    if not answer.done():
        answer.set_exception(Unreachable("no_answer", f"no answer on {subject} in {timeout_s:g} s"))
