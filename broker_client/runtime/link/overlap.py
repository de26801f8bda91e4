"""Two connections of one link for a moment: the second is tried, then takes the first one's place.

Both are subscribed to the same subjects, so that nothing is lost on the way from one to the other;
what both bring is handed on once, in the order in which its first copy came.
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
    """Hands on each message once. A copy is one with the same subject, reply, headers and body.

    Counts per message by how much one side is ahead of the other: of messages that are equal the
    larger number of the two sides is handed on.
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
        """Call `heard` with all that the new connection brings, before it is judged a copy."""
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
    """The routes of one connection while there are two."""

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
    """A new connection while it is being tested; all that it subscribes is subscribed already."""

    def __init__(self, client: GuardedClient, overlap: Overlap, refused: Sequence[str]) -> None:
        self._client = client
        self._overlap = overlap
        self._refused = refused

    def publish_nowait(self, subject: str, payload: bytes) -> None:
        self._client.out.publish_nowait(check_subject(subject), payload)

    async def flush(self, timeout_s: float) -> None:
        """Wait until the broker has judged all that was sent.

        Raises Refused (`renewal_refused`) with its words if it did not allow something.
        """
        await self._client.flush(timeout_s)
        if self._refused:
            raise Refused("renewal_refused", self._refused[0])

    @contextmanager
    def listening(self, subject: str, payload: bytes) -> "Iterator[asyncio.Future[None]]":
        """A future that is done once this very message has come over the new connection."""
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
        """Raises Unreachable (`no_answer`) if it does not come, or the connection is lost."""
        ends: set[asyncio.Future[Any]] = {heard, self._client.lost}
        await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not heard.done():
            raise Unreachable("no_answer", "the new connection is not heard or does not hear")
