"""Counts HTTP requests by declared route.

A requested path would make a series of its own.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from broker_client.runtime.clock import Clock
from broker_master.core.measures import Measures

UNMATCHED: Final = "unmatched"
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# The shapes of ASGI. Source: its specification, "Applications".
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]


class Metered:
    """An application with a counter before it."""

    def __init__(self, app: Application, measures: Measures, clock: Clock) -> None:
        self._app = app
        self._measures = measures
        self._clock = clock

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        code = 500
        began_s = self._clock.elapsed()

        async def sending(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            route = scope.get("path_template") or UNMATCHED
            method = scope["method"] if scope["method"] in METHODS else "other"
            spent_s = self._clock.elapsed() - began_s
            self._measures.on_request(route, method, code, spent_s)
