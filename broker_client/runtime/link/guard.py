"""One connection to the broker, used once: nats-py's handshake with our own reader and writer.

The stock client decides by itself when to reconnect and when to give up, and may decide so by
accident: an expired token, a callback that raises, a half-open link, a hostile header. Here a
connection with any fault is aborted at once and reports the reason; the link (`reconnect.py`) opens
a new one.

    open() ──▶ connected ──any trouble, or close()──▶ lost (for ever)
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from nats import errors as nats_errors
from nats.aio.client import Client

from broker_client.runtime.frames import FrameReader, Msg
from broker_client.runtime.link.heartbeat import Heartbeat
from broker_client.runtime.link.opening import (
    Endpoint,
    LinkIdentity,
    credentials,
    describe,
    fault_of,
    opening_fault,
)
from broker_client.runtime.link.outbox import Outbox
from broker_client.runtime.link.transport import READ_BYTES, WideTransport
from schemas.faults import Corrupt, MeshError, Misused, Unreachable

CONNECT_S: Final = 5.0
MESSAGES_PER_TURN: Final = 500


@dataclass(frozen=True, kw_only=True)
class GuardEvents:
    """Callbacks of a connection to its owner; plain functions that do not wait."""

    refused_line: Callable[[str], None]
    callback_failed: Callable[[str, BaseException], None]
    leaving: Callable[[], None]


class GuardedClient(Client):
    """A connection that never reconnects. `lost` is done at its end, with the reason."""

    def __init__(
        self,
        routes: Mapping[bytes, Callable[[Msg], object]],
        events: GuardEvents,
        *,
        patience_s: float = 0.0,
    ) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[MeshError] = loop.create_future()
        self.endpoint: Endpoint | None = None
        self.discovered: list[Endpoint] = []
        self._loop = loop
        self._events = events
        self._wire = WideTransport(patience_s)
        self._transport = self._wire
        self.out = Outbox(self._wire)
        self.reader = FrameReader(routes, self)
        self._heartbeat = Heartbeat(self._urgent_ping)
        self._last_error_line = ""
        self._require_tls = False

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS was established; if opening failed after that, retry with `patience_s`."""
        return self._wire.is_encrypted

    # opening

    async def open(
        self, endpoint: Endpoint, identity: LinkIdentity, *, name: str, timeout_s: float = CONNECT_S
    ) -> None:
        """Connect and log in. Raises Unreachable or Refused; the connection is lost then.

        Refused (`credentials_rejected`) is an explicit refusal by the broker; an untrusted
        certificate of the broker is Unreachable, as it may be the broker of another mesh.
        """
        self.endpoint = endpoint
        self._require_tls = endpoint.url.startswith("tls://")
        if self._require_tls and identity.tls is None:
            raise Misused("internal", f"{endpoint.url} needs a TLS context")
        try:
            async with asyncio.timeout(timeout_s):
                await super().connect(
                    [endpoint.url],
                    error_cb=_ignore,
                    name=name,
                    allow_reconnect=False,
                    connect_timeout=int(CONNECT_S),
                    pending_size=0,
                    **credentials(endpoint, identity),
                )
            if self._status != Client.CONNECTED:
                raise ConnectionResetError("closed by the broker during the handshake")
            self.out.open(self.max_payload)
        except (OSError, TimeoutError, nats_errors.Error, ValueError) as error:
            fault = opening_fault(endpoint, error)
            self._fail(fault)
            raise fault from error
        except BaseException:
            self._fail(Unreachable("broker_unreachable", "given up", effect="none"))
            raise

    async def _select_next_server(self) -> None:
        """Try once; the stock loop would never end."""
        server = self._server_pool[0]
        await self._wire.connect(server.uri, READ_BYTES, CONNECT_S)
        self._current_server = server

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002
        if initial_connection and self._require_tls and not info.get("tls_required"):
            raise nats_errors.Error("nats: the broker offers no TLS")
        self._note_cluster(info)

    def _note_cluster(self, info: Mapping[str, Any]) -> None:
        """Store the other nodes of the cluster; their certificate must have the same name."""
        server = self._current_server
        if server is None:
            return
        scheme = server.uri.scheme
        name = self.options.get("tls_hostname") or server.uri.hostname
        urls = info.get("connect_urls") or ()
        self.discovered = [
            Endpoint(url=f"{scheme}://{url}", tls_name=name if self._require_tls else None)
            for url in urls
            if isinstance(url, str)
        ]

    async def flush(self, timeout: float = CONNECT_S) -> None:
        """Wait until the broker has processed all that was sent; Unreachable after `timeout`."""
        pong: asyncio.Future[bool] = self._loop.create_future()
        # Queued behind published frames: the stock client's ping overtakes them.
        self.out.send(b"PING\r\n")
        self._pongs.append(pong)
        try:
            async with asyncio.timeout(timeout):
                await pong
        except TimeoutError as error:
            raise Unreachable("broker_unreachable", f"no pong in {timeout:g} s") from error

    # receiving

    async def _read_loop(self) -> None:
        try:
            while data := await self._wire.read(READ_BYTES * 4):
                self._heartbeat.heard = True
                while self.reader.feed(data, MESSAGES_PER_TURN):
                    # Bounded work per turn, so that the other tasks of the loop run as well.
                    data = b""
                    await asyncio.sleep(0)
            self._fail(self._reason("the broker closed the connection"))
        except asyncio.CancelledError:
            raise
        except MeshError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - a reader must never end silently
            self._fail(self._reason(describe(error)))

    async def _flusher(self) -> None:
        """Do nothing: the loop itself flushes the outbox."""

    async def _ping_interval(self) -> None:
        await self._heartbeat.until_silent()
        self._fail(Unreachable("broker_unreachable", "the broker is silent: the link is half open"))

    def _urgent_ping(self, pong: "asyncio.Future[bool]") -> None:
        if self.out.is_open:
            self.out.flush_nowait()
            self.out.send_now(b"PING\r\n")
            self._pongs.append(pong)

    def on_ping(self) -> None:
        self.out.send_now(b"PONG\r\n")

    def on_pong(self) -> None:
        if self._pongs:
            pong = self._pongs.pop(0)
            if not pong.done():
                pong.set_result(True)

    def on_info(self, text: bytes) -> None:
        try:
            info = msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise Corrupt("broker_unreachable", "the broker sent a malformed INFO") from error
        self._note_cluster(info)
        if info.get("ldm"):
            self._events.leaving()

    def on_error_line(self, text: str) -> None:
        """Store the broker's error; after a fatal one the broker closes the connection."""
        if "permissions violation" in text.lower():
            self._events.refused_line(text)
        else:
            self._last_error_line = text

    def on_callback_failed(self, subject: str, error: BaseException) -> None:
        self._events.callback_failed(subject, error)

    # ending

    async def close(self, timeout_s: float = 1.0) -> None:
        """Flush, then end; takes at most `timeout_s`."""
        if self.out.is_open:
            with contextlib.suppress(MeshError):  # it is over either way
                await self.flush(timeout_s)
        self._fail(Unreachable("broker_unreachable", "closed by us"))
        await asyncio.sleep(0)

    def abort(self, reason: str) -> None:
        """End at once; unsent frames are lost."""
        self._fail(Unreachable("broker_unreachable", reason))

    def _reason(self, text: str) -> MeshError:
        said = self._last_error_line
        return fault_of(f"{text}: {said}" if said else text, said)

    def _fail(self, reason: MeshError) -> None:
        """End the connection for any cause; aborts the transport: a wait for the peer took 33 s."""
        if self.lost.done():
            return
        self._status = Client.CLOSED
        self._wire.abort()
        self.lost.set_result(reason)
        self.out.close()
        current = asyncio.current_task()
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None and task is not current:
                task.cancel()
        for pong in self._pongs:
            if not pong.done():
                pong.set_exception(reason)
                pong.exception()  # raised in a waiter; without a waiter it is no error
        self._pongs.clear()


async def _ignore(_error: Exception) -> None:
    """Ignore an error of nats-py, which raises it as well."""
