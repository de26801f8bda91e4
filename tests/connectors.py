"""Calls of connectors without an agent, and the servers that they reach."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from broker_agent.connectors.api import Call, CallFailed, Session
from tests.proxy import Proxy
from tests.waiting import PATIENCE_S

CALL_S = 30.0


class Buffer:
    """The output of a call, in memory. most: limit of bytes."""

    def __init__(self, most: int = 64 * 1024 * 1024) -> None:
        self.data = bytearray()
        self._most = most

    @property
    def written(self) -> int:
        return len(self.data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if len(self.data) + len(data) > self._most:
            raise CallFailed("result_too_large", f"more than {self._most} bytes")
        self.data += data


def a_call(within_s: float = CALL_S, id_: str = "c1") -> Call:
    return Call(id=id_, key=id_, deadline=time.monotonic() + within_s)


def run(
    session: Session, action: str, args: Struct, *, call: Call | None = None
) -> tuple[Any, bytes]:
    """The result and the output of one call."""
    out = Buffer()
    result = session.call(action, args, out, call or a_call())
    return result, bytes(out.data)


def failure(session: Session, action: str, args: Struct, out: Buffer | None = None) -> str:
    """The code of a call that may fail with effect none; empty if it succeeds."""
    try:
        session.call(action, args, out or Buffer(), a_call())
    except CallFailed as error:
        return error.code if error.effect == "none" else f"{error.code} ({error.effect})"
    return ""


@contextlib.contextmanager
def failing(code: str, effect: str = "") -> Iterator[None]:
    with pytest.raises(CallFailed) as caught:
        yield
    assert caught.value.code == code, caught.value
    assert not effect or caught.value.effect == effect, caught.value


class HttpService(ThreadingHTTPServer):
    """An HTTP server of a test. seen: the requests so far, as (method, path, headers, body)."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[BaseHTTPRequestHandler], host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), handler)
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    """Notes each request; a subclass answers it."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        assert isinstance(self.server, HttpService)
        self.server.seen.append((self.command, self.path, dict(self.headers), body))
        self.answer(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _any  # noqa: N815  (names of the library)

    def answer(self, body: bytes) -> None:
        self.reply(200, b'{"ok": true}', {"Content-Type": "application/json"})

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextlib.contextmanager
def serving(
    handler: type[BaseHTTPRequestHandler], host: str = "127.0.0.1"
) -> Iterator[HttpService]:
    service = HttpService(handler, host)
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield service
    finally:
        service.shutdown()
        service.server_close()
        thread.join()


@contextlib.contextmanager
def proxied(port: int) -> Iterator[tuple[int, Callable[[], None]]]:
    """A port before `port`, and a function that freezes all connections through it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    proxy = Proxy(port)

    def do(work: Coroutine[Any, Any, object]) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(PATIENCE_S)

    async def freeze() -> None:
        proxy.freeze()

    do(proxy.__aenter__())
    try:
        yield proxy.port, lambda: do(freeze())
    finally:
        do(proxy.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextlib.contextmanager
def swapped(base: Path) -> Iterator[None]:
    """Make the folder `in` a link to the outside and back, again and again."""
    stop = threading.Event()
    folder, aside, link = base / "in", base / "aside", base / "link"
    link.symlink_to("../outside")

    def swap() -> None:
        while not stop.is_set():
            folder.rename(aside)
            link.rename(folder)
            folder.rename(link)
            aside.rename(folder)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        yield
    finally:
        stop.set()
        swapping.join()
