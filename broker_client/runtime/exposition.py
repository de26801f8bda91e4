"""The text format of Prometheus, and a small server for it on its own port.

The format is version 0.0.4 of the text exposition format. Source: the Prometheus documentation,
"Exposition formats".

The server is not the web framework: an agent serves its metrics with the base install, which has
none, in a few hundred KiB; and a master's port for metrics alone answers nothing else.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

import structlog

from schemas.faults import Refused

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# Timeout of a request; a scraper sends its few hundred bytes at once.
_REQUEST_S: Final = 5.0
_SEND_S: Final = 10.0
_REQUEST_BYTES: Final = 8 * 1024
_CONNECTIONS_MAX: Final = 64
_LABEL_LEN: Final = 64

log = structlog.get_logger(__name__)


def header(name: str, kind: str, help_text: str) -> str:
    return f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n"


def escape(text: str) -> str:
    """Return an escaped label value; long texts of a host are cut."""
    return text[:_LABEL_LEN].replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def labels(values: Mapping[str, str]) -> str:
    if not values:
        return ""
    return "{" + ",".join(f'{name}="{escape(value)}"' for name, value in values.items()) + "}"


def number(value: float) -> str:
    """Format a number; whole ones without a fraction, exact up to 2^53."""
    if isinstance(value, int):
        return str(value)
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


class Page(NamedTuple):
    """Answer to a scraper. encoding: of the body, empty for none."""

    body: bytes
    encoding: str = ""


# Called with whether the scraper accepts gzip.
Render = Callable[[bool], Awaitable[Page]]


def takes_gzip(accept_encoding: str) -> bool:
    names = [part.partition(";")[0].strip() for part in accept_encoding.lower().split(",")]
    return "gzip" in names


class ExpositionServer:
    """`GET /metrics` at HOST:PORT and nothing else; one request per connection."""

    name = "metrics"

    def __init__(self, host: str, port: int, render: Render) -> None:
        self._host = host
        self._port = port
        self._render = render
        # Open connections, the oldest first.
        self._open: dict[asyncio.StreamWriter, None] = {}
        self.url = ""

    async def run(self, ready: asyncio.Event) -> None:
        try:
            server = await asyncio.start_server(
                self._serve, self._host, self._port, limit=_REQUEST_BYTES
            )
        except OSError as error:
            where = f"{self._host}:{self._port}"
            raise Refused("settings_invalid", f"metrics at {where}: {error.strerror}") from error
        async with server:
            host, port = server.sockets[0].getsockname()[:2]
            self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            log.info("metrics_served", url=f"{self.url}/metrics")
            ready.set()
            await asyncio.Event().wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._admit(writer)
        try:
            # A scraper may disconnect during its request.
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(_REQUEST_S):
                    status, page = await self._answer(reader)
                encoding = f"Content-Encoding: {page.encoding}\r\n" if page.encoding else ""
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\n{encoding}"
                    f"Content-Length: {len(page.body)}\r\nConnection: close\r\n\r\n".encode()
                )
                writer.write(page.body)
                async with asyncio.timeout(_SEND_S):
                    await writer.drain()
        finally:
            self._open.pop(writer, None)
            writer.close()

    def _admit(self, writer: asyncio.StreamWriter) -> None:
        """Admit a connection; above the limit the oldest one is disconnected."""
        if len(self._open) >= _CONNECTIONS_MAX:
            oldest = next(iter(self._open))
            self._open.pop(oldest)
            oldest.transport.abort()
        self._open[writer] = None

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[str, Page]:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return "431 Request Header Fields Too Large", Page(b"")
        method, _, rest = request.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method != b"GET":
            return "405 Method Not Allowed", Page(b"")
        if path != b"/metrics":
            return "404 Not Found", Page(b"there is /metrics\n")
        return "200 OK", await self._render(takes_gzip(_header(request, b"accept-encoding")))


def _header(request: bytes, name: bytes) -> str:
    for line in request.split(b"\r\n")[1:]:
        found, _, value = line.partition(b":")
        if found.strip().lower() == name:
            return value.decode("latin-1")
    return ""
