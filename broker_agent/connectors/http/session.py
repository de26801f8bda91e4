"""One kept connection to an HTTP service, and the requests over it."""

import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from typing import Any, Final
from urllib.parse import urlencode, urljoin, urlsplit

import msgspec
import urllib3.exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.response import HTTPResponse

from broker_agent.connectors.api import Call, CallFailed, Out, Result
from broker_agent.connectors.http.addresses import networks_of, resolve
from broker_agent.connectors.http.bodies import Body, result_headers
from broker_agent.connectors.http.paths import encoded, is_allowed, is_below, why_refused
from broker_agent.connectors.http.profile import HttpProfile, origin_of
from schemas.messages.actions.http import READING, HttpRequestArgs

# Set by this code, or by the library that sends the request.
_OWN_HEADERS: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer",
     "expect", "accept-encoding", "proxy-authorization", "idempotency-key"}
)  # fmt: skip
# By these, servers and proxies take another method or path than the one that was checked.
_STEERING: Final = frozenset(
    {"x-http-method", "x-http-method-override", "x-method-override", "x-original-url",
     "x-rewrite-url", "x-original-uri"}
)  # fmt: skip
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_TEST_S: Final = 10.0
_BROKEN: Final = (urllib3.exceptions.HTTPError, HTTPException, OSError)


class HttpSession:
    """A connection that is made when it is needed, and again after it was closed."""

    server_id = ""

    def __init__(self, profile: HttpProfile, headers: dict[str, str]) -> None:
        self._profile = profile
        self._headers = headers
        self._origin = origin_of(profile.base_url)
        self._networks = networks_of(profile.networks)
        self._connection: HTTPConnection | None = None
        self._is_cancelled = False
        self._tls = self._context() if self._origin.scheme == "https" else None

    @property
    def is_broken(self) -> bool:
        return self._is_cancelled

    # -- calls

    def call(self, action: str, args: HttpRequestArgs, out: Out, call: Call) -> Result:
        del action
        url = self._url(args.method, args.path, args.query)
        headers, body = self._request(args, call)
        for _ in range(self._profile.redirects + 1):
            answer = self._exchange(args.method, url, headers, body, call)
            redirect = self._redirect(args.method, url, answer)
            if redirect is None:
                return self._result(args, answer, out, call)
            url = redirect
        raise CallFailed("target_refused", "too many redirects", effect="done")

    def _url(self, method: str, path: str, query: dict[str, Any]) -> str:
        """Return the request target; raises CallFailed with effect none."""
        whole = f"{self._origin.prefix}{path}"
        reason = why_refused(whole)
        if reason:
            raise CallFailed("address_refused", f"path {path!r}: {reason}", effect="none")
        if not is_allowed(method, whole, self._profile.allow):
            raise CallFailed(
                "address_refused", f"the profile does not allow {method} {whole}", effect="none"
            )
        target = encoded(whole)
        return f"{target}?{urlencode(query, doseq=True)}" if query else target

    def _request(self, args: HttpRequestArgs, call: Call) -> tuple[dict[str, str], bytes | None]:
        headers = {"User-Agent": "agent-mesh", "Accept": "*/*", **args.headers}
        for name, value in args.headers.items():
            if _plain(name) in _OWN_HEADERS | _STEERING:
                raise CallFailed("parameter_invalid", f"headers.{name} is set here", effect="none")
            if not (value.isascii() and value.isprintable()):
                raise CallFailed("parameter_invalid", f"headers.{name} is no ASCII", effect="none")
        body = args.body
        if bytes(args.json):
            body = msgspec.json.encode(msgspec.msgpack.decode(args.json))
            headers.setdefault("Content-Type", "application/json")
        elif args.text is not None:
            body = args.text.encode()
            headers.setdefault("Content-Type", "text/plain; charset=utf-8")
        if args.method not in READING:
            headers["Idempotency-Key"] = call.key
        fixed = {_plain(name) for name in self._headers}
        headers = {name: value for name, value in headers.items() if _plain(name) not in fixed}
        return {**headers, **self._headers, "Accept-Encoding": "gzip"}, body

    def _exchange(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None, call: Call
    ) -> HTTPResponse:
        """Send one request, and return its answer with the body unread."""
        was_kept = self._connection is not None
        while True:
            connection = self._connected(call.deadline)
            try:
                return self._send(connection, method, url, headers, body, call)
            except _BROKEN as error:
                self._drop()
                may_repeat = was_kept and method in READING and not self._is_cancelled
                if not (may_repeat and _was_closed(error)):
                    raise self._broken(error, call) from error
                # The server has closed an idle connection, and has never seen the request.
                was_kept = False

    def _send(
        self,
        connection: HTTPConnection,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | None,
        call: Call,
    ) -> HTTPResponse:
        self._limit(connection, call)
        connection.request(
            method,
            url,
            body=body,
            headers={**headers, "Host": self._origin.authority},
            preload_content=False,
            decode_content=False,
        )
        return connection.getresponse()

    def _redirect(self, method: str, url: str, answer: HTTPResponse) -> str | None:
        """The target of a redirect that is followed, or None."""
        where = answer.headers.get("Location")
        followed = self._profile.redirects and answer.status in _REDIRECTS and method in READING
        if not followed or where is None:
            return None
        # Its body stays unread, so the connection is not used again.
        self._drop()
        base = f"{self._origin.scheme}://{self._origin.authority}"
        parts = urlsplit(urljoin(f"{base}{url}", where))
        if f"{parts.scheme}://{parts.netloc}" != base:
            raise CallFailed("address_refused", "a redirect to another origin", effect="done")
        if (
            not is_below(parts.path, self._origin.prefix)
            or why_refused(parts.path)
            or not is_allowed(method, parts.path, self._profile.allow)
        ):
            raise CallFailed("address_refused", "a redirect that is not allowed", effect="done")
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    def _result(self, args: HttpRequestArgs, answer: HTTPResponse, out: Out, call: Call) -> Result:
        try:
            body = Body(answer.headers, out)
            while chunk := answer.read(64 * 1024, decode_content=False):
                self._limit(self._connection, call)
                body.take(chunk)
            body.finish()
        except _BROKEN as error:
            self._drop()
            raise self._broken(error, call) from error
        except CallFailed:
            self._drop()
            raise
        if "close" in answer.headers.get("Connection", "").lower():
            self._drop()
        status = answer.status
        is_expected = status in args.expect if args.expect else 200 <= status <= 299
        if not is_expected:
            said = f"{args.method} {args.path}: {status} {answer.reason or ''}".strip()
            raise CallFailed("target_refused", said, effect="done")
        return {
            "status": status,
            "headers": result_headers(answer.headers),
            "bytes": body.size,
            "json": body.json,
        }

    # -- the connection

    def _connected(self, deadline: float) -> HTTPConnection:
        """The kept connection, or a new one. Raises CallFailed with effect none."""
        connection = self._connection
        if connection is not None and connection.is_connected:
            return connection
        self._drop()
        if self._is_cancelled:
            raise CallFailed("target_lost", "the call was cancelled", effect="none")
        origin = self._origin
        address = resolve(origin.host, origin.port, self._networks)
        connect_s = min(self._profile.connect_s, max(deadline - time.monotonic(), 0.001))
        made = self._made(address, connect_s)
        try:
            made.connect()
        except (ssl.SSLError, urllib3.exceptions.SSLError) as error:
            raise CallFailed("tls_failed", f"{origin.host}: {error}", effect="none") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise CallFailed(
                "target_unreachable", f"{origin.host} port {origin.port}: {error}", effect="none"
            ) from error
        self._connection = made
        return made

    def _made(self, address: str, connect_s: float) -> HTTPConnection:
        origin = self._origin
        if self._tls is None:
            return HTTPConnection(address, origin.port, timeout=connect_s)
        return HTTPSConnection(
            address,
            origin.port,
            timeout=connect_s,
            ssl_context=self._tls,
            server_hostname=origin.host,
            assert_hostname=origin.host,
        )

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._profile.ca)
        except OSError as error:
            raise CallFailed(
                "tls_failed", f"ca: {error.strerror or error}", effect="none"
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def _limit(self, connection: HTTPConnection | None, call: Call) -> None:
        """Let the next wait on the socket end with the call's deadline."""
        left = call.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if connection is not None and connection.sock is not None:
            connection.sock.settimeout(left)

    def _broken(self, error: Exception, call: Call) -> CallFailed:
        if time.monotonic() >= call.deadline or isinstance(
            error, TimeoutError | urllib3.exceptions.TimeoutError
        ):
            return CallFailed("target_timeout", "no whole answer in time", effect="unknown")
        return CallFailed("target_lost", f"the connection broke: {error}", effect="unknown")

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # -- its life

    def test(self, step: Callable[[str], None]) -> str:
        origin = self._origin
        deadline = time.monotonic() + _TEST_S
        resolve(origin.host, origin.port, self._networks)
        step("resolve")
        self._connected(deadline)
        step("connect")
        if self._tls is not None:
            step("tls")
        call = Call(id="test", key="test", deadline=deadline)
        url = encoded(f"{origin.prefix}{self._profile.test_path}")
        headers = {"User-Agent": "agent-mesh", **self._headers}
        answer = self._exchange("GET", url, headers, None, call)
        self._drop()
        if answer.status in (401, 403):
            raise CallFailed("login_refused", f"status {answer.status}", effect="none")
        step("login")
        step("query")
        return answer.headers.get("Server", "") or f"HTTP/{answer.version / 10}"

    def cancel(self) -> None:
        self._is_cancelled = True
        connection = self._connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._drop()


def _plain(name: str) -> str:
    """A header's name as servers read it that take `_` for `-`."""
    return name.lower().replace("_", "-")


def _was_closed(error: Exception) -> bool:
    cause = error.args[-1] if error.args else error
    return isinstance(cause, ConnectionError) or isinstance(error, ConnectionError)
