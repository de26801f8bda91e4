"""Overlap of two connections of one link: the second is tested, then replaces the first.

Both are subscribed to the same subjects, so that no message is lost during the handover; each
message is delivered once, in the order of the first copies.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from broker_client.runtime.frames import Msg, check_subject
from broker_client.runtime.link.guard import GuardedClient
from schemas.faults import Refused, Unreachable

Callback = Callable[[Msg], object]
Routes = Mapping[bytes, Callback]
_Copy = tuple[bytes, str, str, bytes, bytes]
_OLD: Final = 1
_NEW: Final = -1


class Overlap:
    """Delivers each message once. A copy has the same subject, reply, headers and body.

    Counts per message how many copies one side is ahead of the other: of equal messages the larger
    number of both sides is delivered.
    """

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._ahead: dict[_Copy, int] = {}
        self._heard: Callable[[Msg], None] = lambda _msg: None

    def old(self) -> "Side":
        return Side(self, _OLD)

    def new(self) -> "Side":
        return Side(self, _NEW)

    def on_new(self, heard: Callable[[Msg], None]) -> None:
        """Call `heard` with each message of the new connection, copies included."""
        self._heard = heard

    def route(self, sid: bytes, side: int) -> Callback | None:
        callback = self._routes.get(sid)
        if callback is None:
            return None

        def take(msg: Msg) -> None:
            if side == _NEW:
                self._heard(msg)
            if self._is_first(sid, msg, side):
                callback(msg)

        return take

    def _is_first(self, sid: bytes, msg: Msg, side: int) -> bool:
        key = (sid, msg.subject, msg.reply, bytes(msg.raw_headers), bytes(msg.data))
        ahead = self._ahead.get(key, 0)
        if ahead + side:
            self._ahead[key] = ahead + side
        else:
            del self._ahead[key]
        return ahead * side >= 0


class Side(Mapping[bytes, Callback]):
    """Routes of one of the two connections."""

    def __init__(self, overlap: Overlap, side: int) -> None:
        self._overlap = overlap
        self._side = side

    def get(self, sid: bytes, default: object = None) -> Callback | None:  # type: ignore[override]
        return self._overlap.route(sid, self._side)

    def __getitem__(self, sid: bytes) -> Callback:
        route = self._overlap.route(sid, self._side)
        if route is None:
            raise KeyError(sid)
        return route

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    def __len__(self) -> int:
        return 0


class Trial:
    """A new connection under test, with all subscriptions of the link."""

    def __init__(self, client: GuardedClient, overlap: Overlap, refused: Sequence[str]) -> None:
        self._client = client
        self._overlap = overlap
        self._refused = refused

    def publish_nowait(self, subject: str, payload: bytes) -> None:
        self._client.out.publish_nowait(check_subject(subject), payload)

    async def flush(self, timeout_s: float) -> None:
        """Wait until the broker has processed all that was sent.

        Raises Refused (`renewal_refused`) with the broker's reason after a refusal.
        """
        await self._client.flush(timeout_s)
        if self._refused:
            raise Refused("renewal_refused", self._refused[0])

    @contextmanager
    def listening(self, subject: str, payload: bytes) -> "Iterator[asyncio.Future[None]]":
        """Yield a future that is done when this message is received on the new connection."""
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def look(msg: Msg) -> None:
            if msg.subject == subject and msg.data == payload and not heard.done():
                heard.set_result(None)

        self._overlap.on_new(look)
        try:
            yield heard
        finally:
            self._overlap.on_new(lambda _msg: None)
            heard.cancel()

    async def hears(self, heard: "asyncio.Future[None]", timeout_s: float) -> None:
        """Wait for the message. Raises Unreachable (`no_answer`) after the timeout or a loss."""
        ends: set[asyncio.Future[Any]] = {heard, self._client.lost}
        await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not heard.done():
            raise Unreachable("no_answer", "the new connection is not heard or does not hear")
