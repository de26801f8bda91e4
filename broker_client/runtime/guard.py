"""One connection to the broker, once: nats-py's handshake behind our own reading and writing.

The stock client decides by itself when to reconnect and when to give up for good, and each of
these decisions can be reached by accident: an expired token, a callback that raises, a link that is
half open, a hostile header. Here a connection that has any trouble is aborted at once and says why;
what happens then is the link's business (`runtime/link.py`), which opens a new one.

    open() ──▶ connected ──any trouble, or close()──▶ lost (for ever)
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import ParseResult

import msgspec
from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from broker_client.runtime.frames import (
    FrameReader,
    Msg,
    check_subject,
    render_hpub,
    render_pub,
)
from broker_client.runtime.nkeys import KeyPair
from schemas.faults import Corrupt, MeshError, Misused, Refused, Unreachable

CONNECT_S: Final = 5.0
# A dead link is known within 5 ticks (3.75 s), an idle one is asked on every second tick.
TICK_S: Final = 0.75
SILENT_TICKS: Final = 4
# The broker's answer to a ping may queue behind much else; other bytes show life for this long.
PONG_S: Final = 10.0
# How long a broker that has closed without a word is given to say why, at the next try.
PATIENCE_S: Final = 0.3
# What may wait to be sent before a publish is refused; bulk senders wait for `drained` before that.
UNSENT_MAX_BYTES: Final = 16 * 1024 * 1024
READ_BYTES: Final = 256 * 1024
_CREDENTIALS: Final = (
    "authorization violation",
    "authentication expired",
    "authentication revoked",
    "credentials",
    "certificate required",
    "certificate expired",
    "certificate revoked",
    "bad certificate",
    "unknown ca",
    "unknown_ca",
)


@dataclass(frozen=True, kw_only=True, repr=False)
class LinkIdentity:
    """Who we are to the broker: TLS context, user token and the seed of its key, or None each."""

    tls: ssl.SSLContext | None = None
    jwt: str | None = None
    seed: str | None = None


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A broker's address; `tls_name` is whose certificate it must show if not its own host's."""

    url: str
    tls_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class GuardEvents:
    """What a connection tells its owner while it lives; plain functions that do not wait."""

    refused_line: Callable[[str], None]
    callback_failed: Callable[[str, BaseException], None]
    leaving: Callable[[], None]


class _WideTransport(TcpTransport):
    """TCP with a read buffer that is worth a wake-up, and an end that waits for nobody."""

    def __init__(self, patience_s: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._patience_s = patience_s
        self.is_encrypted = False

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: float) -> None:
        await super().connect(uri, READ_BYTES, int(connect_timeout))

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: float,
    ) -> None:
        """As the stock one, which forgets flow control: its reader does not know its transport."""
        if self._io_writer is None:
            raise Misused("internal", "TLS before TCP")
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=READ_BYTES, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport = await loop.start_tls(
            self._io_writer.transport,
            protocol,
            ssl_context,
            server_hostname=uri if isinstance(uri, str) else uri.hostname,
            ssl_handshake_timeout=connect_timeout,
        )
        if transport is None:
            raise ConnectionResetError("closed during the TLS handshake")
        protocol.connection_made(transport)
        self._io_reader = reader
        self._io_writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self.is_encrypted = True
        await self._wait_for_alert(reader)

    async def _wait_for_alert(self, reader: asyncio.StreamReader) -> None:
        """Give the broker time to say what it has against our certificate.

        With TLS 1.3 our side of the handshake is done before the broker has looked at it, and
        bytes that we send to a connection it has closed destroy its word on the matter.
        """
        until = asyncio.get_running_loop().time() + self._patience_s
        while asyncio.get_running_loop().time() < until and not reader.at_eof():
            error = reader.exception()
            if error is not None:
                raise error
            await asyncio.sleep(0.01)

    def write(self, payload: bytes) -> None:
        if self._io_writer is not None:
            self._io_writer.write(payload)

    async def drain(self) -> None:
        if self._io_writer is not None:
            await self._io_writer.drain()

    def abort(self) -> None:
        for writer in (self._io_writer, self._bare_io_writer):
            if writer is not None:
                writer.transport.abort()

    def unsent_bytes(self) -> int:
        return 0 if self._io_writer is None else self._io_writer.transport.get_write_buffer_size()


class GuardedClient(Client):
    """A connection that never mends itself. `lost` is done when it is over, with the reason."""

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
        self._wire = _WideTransport(patience_s)
        self._transport = self._wire
        self.reader = FrameReader(routes, self)
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._is_congested = False
        self._heard = True
        self._last_error_line = ""
        self._require_tls = False

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS was agreed on; if opening failed after that, try with `patience_s` next."""
        return self._wire.is_encrypted

    # opening

    async def open(
        self, endpoint: Endpoint, identity: LinkIdentity, *, name: str, timeout_s: float = CONNECT_S
    ) -> None:
        """Connect, prove who we are, and be ready; raises Unreachable or Refused, and is then lost.

        Refused (`credentials_rejected`) is the broker's clear word; a certificate of the broker
        that we do not trust is Unreachable, since it may be somebody else's broker.
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
                    **_credentials(endpoint, identity),
                )
            if self._status != Client.CONNECTED:
                raise ConnectionResetError("closed by the broker during the handshake")
        except (OSError, TimeoutError, nats_errors.Error, ValueError) as error:
            fault = _opening_fault(endpoint, error)
            self._fail(fault)
            raise fault from error
        except BaseException:
            self._fail(Unreachable("broker_unreachable", "given up", effect="none"))
            raise

    async def _select_next_server(self) -> None:
        """One try; the stock loop would go on for ever."""
        server = self._server_pool[0]
        await self._wire.connect(server.uri, READ_BYTES, CONNECT_S)
        self._current_server = server

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002
        if initial_connection and self._require_tls and not info.get("tls_required"):
            raise nats_errors.Error("nats: the broker offers no TLS")
        self._note_cluster(info)

    def _note_cluster(self, info: Mapping[str, Any]) -> None:
        """Remember the other nodes of a cluster; they must show a certificate for the same name."""
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

    # sending

    def publish_nowait(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Hand one message over to be sent with all others of this turn of the loop.

        Raises Unreachable with effect none if there is no connection, or too much waits already.
        Nothing is ever kept for a later connection.
        """
        check_subject(subject)
        if reply:
            check_subject(reply)
        if len(payload) > self._max_payload:
            raise _too_large(subject, len(payload))
        self._send(render_pub(subject, payload, reply))

    def publish_headers_nowait(
        self, subject: str, header_block: bytes, payload: bytes, reply: str = ""
    ) -> None:
        """As `publish_nowait`, with a block that `frames.render_headers` made."""
        check_subject(subject)
        if reply:
            check_subject(reply)
        if len(payload) + len(header_block) > self._max_payload:
            raise _too_large(subject, len(payload))
        self._send(render_hpub(subject, header_block, payload, reply))

    def publish_block(self, block: bytes, messages: int) -> None:
        """Send rendered frames as they are; they go out together or not at all."""
        self.stats["out_msgs"] += messages - 1
        self._send(block)

    def subscribe_nowait(self, sid: bytes, subject: str, queue: str = "") -> None:
        to = f"{subject} {queue}" if queue else subject
        self._send(b"SUB %b %b\r\n" % (to.encode(), sid))

    def unsubscribe_nowait(self, sid: bytes) -> None:
        self._send(b"UNSUB %b\r\n" % sid)

    def _send(self, frame: bytes) -> None:
        if self._status != Client.CONNECTED:
            raise Unreachable("broker_unreachable", "not connected to the broker", effect="none")
        if self._is_congested and self.pending_bytes > UNSENT_MAX_BYTES:
            raise Unreachable(
                "broker_unreachable",
                f"{self.pending_bytes} bytes wait to be sent to the broker",
                effect="none",
            )
        out = self._out
        if not out:
            self._loop.call_soon(self._write_out)
        out.append(frame)
        self._out_bytes += len(frame)
        self.stats["out_msgs"] += 1
        # Without a turn of the loop nothing is written: a tight loop is stopped here as well.
        if self._out_bytes > UNSENT_MAX_BYTES // 2:
            self._write_out()

    def _write_out(self) -> None:
        out = self._out
        if not out or self._status != Client.CONNECTED:
            out.clear()
            self._out_bytes = 0
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._out_bytes = 0
        self.stats["out_bytes"] += len(data)
        self._wire.write(data)
        self._is_congested = self._wire.unsent_bytes() > UNSENT_MAX_BYTES // 2

    @property
    def pending_bytes(self) -> int:
        """What was published and has not been taken by the kernel yet."""
        return self._out_bytes + self._wire.unsent_bytes()

    async def drained(self, timeout_s: float) -> None:
        """Wait until little (64 KiB) is left to be sent; Unreachable if that takes too long."""
        self._write_out()
        try:
            async with asyncio.timeout(timeout_s):
                await self._wire.drain()
        except (TimeoutError, OSError) as error:
            raise Unreachable(
                "broker_unreachable",
                f"{self.pending_bytes} bytes not sent in {timeout_s:g} s",
            ) from error

    async def flush(self, timeout: float = CONNECT_S) -> None:
        """Wait until the broker has processed all that was sent; Unreachable after `timeout`."""
        pong: asyncio.Future[bool] = self._loop.create_future()
        self._ping(pong)
        try:
            async with asyncio.timeout(timeout):
                await pong
        except TimeoutError as error:
            raise Unreachable("broker_unreachable", f"no pong in {timeout:g} s") from error

    def _ping(self, pong: "asyncio.Future[bool]") -> None:
        """In line with what was published: the stock client's ping overtakes it."""
        self._send(b"PING\r\n")
        self._pongs.append(pong)

    # receiving

    async def _read_loop(self) -> None:
        try:
            while data := await self._wire.read(READ_BYTES * 4):
                self._heard = True
                self.reader.feed(data)
            self._fail(self._reason("the broker closed the connection"))
        except asyncio.CancelledError:
            raise
        except MeshError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - deaf without a word is the one thing not to be
            self._fail(self._reason(_describe(error)))

    async def _flusher(self) -> None:
        """Unused: `_write_out` is called by the loop itself."""

    async def _ping_interval(self) -> None:
        """Abort when nothing was heard for long, counted in turns of this loop.

        Turns and not seconds, so that a process that was stopped for a while reads what has come
        meanwhile before it judges.
        """
        silent = 0
        asked: list[tuple[float, asyncio.Future[bool]]] = []
        for turn in range(1 << 62):
            await asyncio.sleep(TICK_S)
            silent = 0 if self._heard else silent + 1
            self._heard = False
            asked = [(at, pong) for at, pong in asked if not pong.done()]
            is_deaf = bool(asked) and self._loop.time() - asked[0][0] > PONG_S
            if silent >= SILENT_TICKS or is_deaf:
                self._fail(
                    Unreachable("broker_unreachable", "the broker is silent: the link is half open")
                )
                return
            if turn % 2 and len(asked) < SILENT_TICKS:
                pong: asyncio.Future[bool] = self._loop.create_future()
                asked.append((self._loop.time(), pong))
                self._urgent_ping(pong)

    def _urgent_ping(self, pong: "asyncio.Future[bool]") -> None:
        if self._status == Client.CONNECTED:
            self._write_out()
            self._wire.write(b"PING\r\n")
            self._pongs.append(pong)

    def on_ping(self) -> None:
        if self._status == Client.CONNECTED:
            self._wire.write(b"PONG\r\n")

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
        """Keep what the broker says. If it means it, it closes the connection by itself."""
        if "permissions violation" in text.lower():
            self._events.refused_line(text)
        else:
            self._last_error_line = text

    def on_callback_failed(self, subject: str, error: BaseException) -> None:
        self._events.callback_failed(subject, error)

    # ending

    async def close(self, timeout_s: float = 1.0) -> None:
        """Send what waits, then end; never takes longer than `timeout_s`."""
        if self._status == Client.CONNECTED:
            with contextlib.suppress(MeshError):  # it is over either way
                await self.flush(timeout_s)
        self._fail(Unreachable("broker_unreachable", "closed by us"))
        await asyncio.sleep(0)

    def abort(self, reason: str) -> None:
        """End at once; what has not been sent is lost."""
        self._fail(Unreachable("broker_unreachable", reason))

    def _reason(self, text: str) -> MeshError:
        said = self._last_error_line
        return _fault_of(f"{text}: {said}" if said else text, said)

    def _fail(self, reason: MeshError) -> None:
        """The one way out. The transport goes first: waiting for the peer's end took 33 s."""
        if self.lost.done():
            return
        self._status = Client.CLOSED
        self._wire.abort()
        self.lost.set_result(reason)
        self._out.clear()
        self._out_bytes = 0
        current = asyncio.current_task()
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None and task is not current:
                task.cancel()
        for pong in self._pongs:
            if not pong.done():
                pong.set_exception(reason)
                pong.exception()  # whoever waits gets it; nobody waiting is no error
        self._pongs.clear()

    async def _process_op_err(self, e: Exception) -> None:
        self._fail(self._reason(_describe(e)))

    async def _process_err(self, err_msg: str) -> None:
        self.on_error_line(err_msg)

    async def _close(self, status: int, do_cbs: bool = True) -> None:  # noqa: FBT001, FBT002
        self._fail(self._reason("closed by the client library"))


class Untrusted(Unreachable):
    """Something answered, but it is not a broker of this mesh: waiting will not change that."""


async def _ignore(_error: Exception) -> None:
    """nats-py reports each failure twice; it is also raised."""


def _too_large(subject: str, size_bytes: int) -> Refused:
    """Said here, since the broker would close the connection over it."""
    return Refused("too_large", f"{subject}: {size_bytes} bytes are more than the broker takes")


def _credentials(endpoint: Endpoint, identity: LinkIdentity) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if identity.tls is not None:
        options["tls"] = identity.tls
        options["tls_hostname"] = endpoint.tls_name
    if identity.jwt is not None and identity.seed is not None:
        jwt = identity.jwt.strip().encode()
        options["user_jwt_cb"] = lambda: jwt
        options["signature_cb"] = KeyPair.from_seed(identity.seed.strip()).sign_nonce
    return options


def _opening_fault(endpoint: Endpoint, error: Exception) -> MeshError:
    if isinstance(error, TimeoutError):
        text = "no answer in time"
    elif isinstance(error, ssl.SSLCertVerificationError):
        return Untrusted(
            "broker_unreachable",
            f"{endpoint.url}: its certificate is not trusted: {error.verify_message}",
            effect="none",
        )
    else:
        text = _describe(error)
    return _fault_of(f"{endpoint.url}: {text}", text)


def _fault_of(message: str, said: str) -> MeshError:
    """Refused only where the broker's words leave no doubt."""
    lower = said.lower().replace("_", " ")
    if any(word in lower for word in _CREDENTIALS):
        return Refused("credentials_rejected", message)
    return Unreachable("broker_unreachable", message)


def _describe(error: Exception) -> str:
    text = str(error).removeprefix("nats: ").strip("'")
    return text or type(error).__name__
