"""Subscriptions that survive a reconnect, and their callbacks."""

import contextlib
import itertools
from collections.abc import Callable

from broker_client.runtime.frames import Msg, check_subject
from broker_client.runtime.link.guard import GuardedClient
from schemas.faults import MeshError

Callback = Callable[[Msg], object]


class Subscription:
    """Interest in a subject that survives reconnects, until `unsubscribe`."""

    def __init__(
        self, sid: bytes, subject: str, queue: str, end: "Callable[[Subscription], None]"
    ) -> None:
        self.sid = sid
        self.subject = subject
        self.queue = queue
        self._end = end

    def unsubscribe(self) -> None:
        """End the subscription: the callback is not called again, also for messages under way."""
        self._end(self)


class Subscriptions:
    """All subscriptions of one link. routes: callbacks by the id in their messages."""

    def __init__(self) -> None:
        self.routes: dict[bytes, Callback] = {}
        self._subscriptions: dict[bytes, Subscription] = {}
        self._sids = itertools.count(1)

    def add(
        self, subject: str, callback: Callback, queue: str, end: Callable[[Subscription], None]
    ) -> Subscription:
        check_subject(subject)
        if queue:
            check_subject(queue)
        sid = b"%d" % next(self._sids)
        subscription = Subscription(sid, subject, queue, end)
        self._subscriptions[sid] = subscription
        self.routes[sid] = callback
        return subscription

    def remove(self, subscription: Subscription) -> bool:
        """Remove a subscription; False if it was not there."""
        self.routes.pop(subscription.sid, None)
        return self._subscriptions.pop(subscription.sid, None) is not None

    async def tell(self, client: GuardedClient, timeout_s: float) -> None:
        """Subscribe all on a new connection, and wait until its broker has processed that."""
        for each in self._subscriptions.values():
            client.out.subscribe_nowait(each.sid, each.subject, each.queue)
        await client.flush(timeout_s)

    def end_all(self, client: GuardedClient) -> None:
        """Unsubscribe all on a connection that is about to be closed, if it still sends."""
        with contextlib.suppress(MeshError):
            for sid in self._subscriptions:
                client.out.unsubscribe_nowait(sid)
