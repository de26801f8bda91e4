"""Wakes readers of output when the broker has stored some."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from broker_client.runtime.link import Link, Subscription
from schemas import subjects


class _Watch:
    __slots__ = ("events", "subscription")

    def __init__(self) -> None:
        self.events: set[asyncio.Event] = set()
        self.subscription: Subscription | None = None

    def wake(self) -> None:
        for event in self.events:
            event.set()


class Watches:
    """One subscription for all readers of one attempt's output, while there are any.

    Notices are lost with the link: a reconnect wakes all readers.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._watches: dict[str, _Watch] = {}
        link.on_connected(self._wake_all)

    def __len__(self) -> int:
        return len(self._watches)

    def _wake_all(self) -> None:
        for watch in self._watches.values():
            watch.wake()

    @contextmanager
    def watching(self, group: str, agent: str, command: str, attempt: int) -> Iterator["Wait"]:
        subject = subjects.stored_of_attempt(group, agent, command, attempt)
        watch = self._watches.get(subject)
        if watch is None:
            watch = self._watches[subject] = _Watch()
            found = watch
            watch.subscription = self._link.subscribe(subject, lambda _: found.wake())
        event = asyncio.Event()
        watch.events.add(event)
        try:
            yield Wait(event)
        finally:
            watch.events.discard(event)
            if not watch.events:
                del self._watches[subject]
                if watch.subscription is not None:
                    watch.subscription.unsubscribe()


class Wait:
    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    def wake(self) -> None:
        self._event.set()

    async def woken(self, within_s: float, settle_s: float) -> bool:
        """Whether a notice has come since the last call, or comes in `within_s`.

        settle_s: if so, return so much later.
        """
        try:
            async with asyncio.timeout(within_s):
                await self._event.wait()
        except TimeoutError:
            return False
        await asyncio.sleep(settle_s)
        self._event.clear()
        return True
