"""The HTTP listener: bounded connections, deadlines for slow peers, known hosts only.

At the connection limit a new connection replaces the one that has been idle longest. So a peer that
holds connections open locks out nobody, and costs few descriptors.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Collection
from typing import Final

from uvicorn.protocols.http.h11_impl import H11Protocol

from broker_master.metrics.http import Application, Message, Receive, Send
from schemas.addresses import place_to_listen
from schemas.faults import Refused

# From the first byte of a connection or of a next request to the end of its headers.
HEAD_S: Final = 10.0
# A peer that reads nothing of its answer for this time is disconnected.
STALL_S: Final = 20.0
_NAMES: Final = frozenset({"localhost"})


def listen(address: str) -> socket.socket:
    """A listening socket at HOST:PORT, or at PORT of the loopback address.

    Raises Refused (`settings_invalid`).
    """
    host, port = place_to_listen("http", address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise Refused("settings_invalid", f"http {address}: {error}") from error


class Crowd:
    """The open connections, the oldest first. most: their limit."""

    def __init__(self, most: int, *, head_s: float = HEAD_S, stall_s: float = STALL_S) -> None:
        self.most = most
        self.head_s = head_s
        self.stall_s = stall_s
        self.shed = 0
        self._open: dict[HttpConnection, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: "HttpConnection") -> None:
        """Make room for a connection: disconnect the oldest idle one, else this one."""
        if len(self._open) >= self.most:
            oldest = next((each for each in self._open if not each.is_serving), connection)
            self.disconnect(oldest)
            if oldest is connection:
                return
        self._open[connection] = None

    def disconnect(self, connection: "HttpConnection") -> None:
        self.shed += 1
        self.leave(connection)
        connection.transport.abort()

    def leave(self, connection: "HttpConnection") -> None:
        self._open.pop(connection, None)


class HttpConnection(H11Protocol):
    """One HTTP connection with a deadline for what the peer owes."""

    crowd: Crowd

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Register the connection; the signature departs from asyncio's as uvicorn's does."""
        super().connection_made(transport)
        self._deadline: asyncio.TimerHandle | None = None
        self._is_stalled = False
        self._expect(self.crowd.head_s)
        self.crowd.admit(self)

    @property
    def is_serving(self) -> bool:
        """Whether a request has come whole and its answer is not."""
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_stalled:
            return  # input in the meantime does not show that the peer reads its answer
        if self.is_serving:
            self._expect(None)
        elif self._deadline is None:
            self._expect(self.crowd.head_s)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._is_stalled = True
        self._expect(self.crowd.stall_s)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_stalled = False
        self._expect(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(None)
        self.crowd.leave(self)
        super().connection_lost(exc)

    def _expect(self, within_s: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None
        if within_s is not None:
            self._deadline = self.loop.call_later(within_s, self.crowd.disconnect, self)


def protocol(crowd: Crowd) -> type[HttpConnection]:
    """The class that uvicorn makes its connections of."""
    return type("HttpConnection", (HttpConnection,), {"crowd": crowd})


class KnownHost:
    """Refuses requests whose host name is not the master's (DNS rebinding).

    Addresses are always accepted: a page of another site reaches the master under a name.
    """

    def __init__(self, app: Application, names: Collection[str]) -> None:
        self._app = app
        self._names = _NAMES | {name.lower().rstrip(".") for name in names if name}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_known(scope["headers"]):
            await _refuse(send)
            return
        await self._app(scope, receive, send)

    def _is_known(self, headers: list[tuple[bytes, bytes]]) -> bool:
        asked = [value.decode("latin-1") for name, value in headers if name == b"host"]
        return len(asked) <= 1 and all(self._knows(host_of(each)) for each in asked)

    def _knows(self, name: str) -> bool:
        return name in self._names or is_address(name)


def host_of(text: str) -> str:
    """The name or address of a `Host` header, lower case, without port and brackets."""
    if text.startswith("["):
        return text[1:].partition("]")[0].lower()
    return text.rpartition(":")[0].lower() if ":" in text else text.lower()


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


async def _refuse(send: Send) -> None:
    body = b"not a host of this master; add it to the setting http_hosts\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 421, "headers": headers})
    await send({"type": "http.response.body", "body": body})
