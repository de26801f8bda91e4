"""The HTTP port under people who hold it, and what it believes of a request."""

import asyncio
import contextlib
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Self
from unittest.mock import create_autospec
from urllib.parse import urlsplit

import pytest
import uvicorn

from broker_client.runtime.settings import load_settings
from broker_master.api.listener import Crowd, KnownHost, listen, protocol
from broker_master.metrics.endpoint import own_endpoint
from broker_master.metrics.scrape import Scraper
from broker_master.settings import MasterSettings, check_settings
from schemas.faults import Refused
from tests.harness import MeshProcesses
from tests.meshes import LONG_LEASE, mesh_fixture
from tests.waiting import PATIENCE_S, STEP_S, eventually

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-http")]

HELD = 1024
ALLOWED = 256
ANSWER_S = 60.0


mesh = mesh_fixture({"web": ("web-1", "web-2")}, env=LONG_LEASE)


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * HELD)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Held:
    """Connections that say `first` and nothing more."""

    def __init__(self, url: str, count: int, first: bytes = b"") -> None:
        place = urlsplit(url)
        self._place = (place.hostname or "", place.port or 0)
        self._first = first
        self.count = count
        self._sockets: list[socket.socket] = []

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._connect)
        return self

    def _connect(self) -> None:
        for _ in range(self.count):
            each = socket.create_connection(self._place, timeout=ANSWER_S)
            self._sockets.append(each)
            with contextlib.suppress(OSError):
                each.sendall(self._first)

    def say(self, more: bytes) -> None:
        for each in self._sockets:
            each.sendall(more)

    async def __aexit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()


async def get(url: str, *lines: str) -> tuple[int, str]:
    """Status and body of one GET with these headers, on a connection of its own."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        head = "".join(f"{line}\r\n" for line in (*lines, "Connection: close"))
        writer.write(f"GET {place.path} HTTP/1.1\r\n{head}\r\n".encode())
        async with asyncio.timeout(ANSWER_S):
            answer = (await reader.read()).decode()
    finally:
        writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split(" ")[1]), body


async def ready_again(mesh: MeshProcesses, killed: int) -> None:
    """Until another broker than the killed one runs, and the master is ready again."""
    host = f"Host: {urlsplit(mesh.http_url).netloc}"

    def is_replaced() -> bool:
        with contextlib.suppress(OSError, ValueError):  # the file is being written
            return mesh.broker_pid != killed
        return False

    await eventually(is_replaced)
    async with asyncio.timeout(PATIENCE_S):
        while (await get(f"{mesh.http_url}/readyz", host))[0] != 200:
            await asyncio.sleep(STEP_S)


async def test_sec_s34_held_connections_stop_neither_revoke_nor_broker_restart_nor_scrape(
    mesh: MeshProcesses, many_files: None
) -> None:
    host = f"Host: {urlsplit(mesh.http_url).netloc}"
    async with Held(mesh.http_url, HELD), Held(mesh.http_url, HELD, b"GET / HTTP/1.1\r\nHo"):
        files = len([*Path(f"/proc/{mesh.master.pid}/fd").iterdir()])
        assert files < ALLOWED + 128, f"{files} open files"
        assert (await get(f"{mesh.http_url}/metrics", host))[0] == 200
        assert (await mesh.cli("agent", "revoke", "web-2")).code == 0
        killed = mesh.broker_pid
        os.kill(killed, signal.SIGKILL)
        await ready_again(mesh, killed)
        await mesh.wait_status("web-1", "active")
        ran = await mesh.cli("run", "--agent", "web-1", "--timeout", "20", "--", "echo", "here")
        assert (ran.code, ran.out) == (0, "here\n")
        status, body = await get(f"{mesh.http_url}/metrics", host)
        assert status == 200
        assert "mesh_broker_up" in body


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        (socket.gethostname(), 200),
        ("mesh.attacker.example", 421),
        ("127.0.0.1.attacker.example:8080", 421),
        ("localhost\r\nHost: attacker.example", 421),
        ("", 421),
    ],
)
async def test_sec_s34_another_site_cannot_have_a_browser_ask_the_master(
    mesh: MeshProcesses, host: str, status: int
) -> None:
    found, body = await get(f"{mesh.http_url}/healthz", f"Host: {host}")
    assert found in ({status, 400} if "\r" in host else {status})
    assert ("http_hosts" in body) == (found == 421)


@pytest.mark.parametrize(
    ("address", "host"),
    [("0", "127.0.0.1"), (":0", "127.0.0.1"), ("0.0.0.0:0", "0.0.0.0"), ("[::1]:0", "::1")],
)
def test_sec_s34_port_alone_listens_on_this_machine_alone(address: str, host: str) -> None:
    with listen(address) as listener:
        assert listener.getsockname()[0] == host


@pytest.mark.parametrize(
    ("setting", "value"),
    [("http", "0:8080"), ("metrics_http", "*:9100"), ("nats_host", "0"), ("nats_host", "4222")],
)
def test_sec_s34_other_spellings_of_all_addresses_are_refused(setting: str, value: str) -> None:
    with pytest.raises(Refused, match=setting):
        load_settings(MasterSettings, environ={}, flags={setting: value}, check=check_settings)


async def test_sec_s34_own_port_of_metrics_is_of_this_machine() -> None:
    (endpoint,) = own_endpoint("0", create_autospec(Scraper, instance=True))
    ready = asyncio.Event()
    serving = asyncio.ensure_future(endpoint.run(ready))
    try:
        async with asyncio.timeout(ANSWER_S):
            await ready.wait()
        assert endpoint.url.startswith("http://127.0.0.1:")
    finally:
        serving.cancel()
        await asyncio.wait({serving})


@contextlib.asynccontextmanager
async def small_server(crowd: Crowd) -> AsyncIterator[str]:
    """The listener before an application that says who asks, and then more than anybody reads."""

    async def app(scope: dict[str, object], receive: object, send: object) -> None:
        assert callable(send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        body = f"{scope['client']} {scope['scheme']}".encode()
        if scope["path"] == "/endless":
            for _ in range(10_000):
                await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
        await send({"type": "http.response.body", "body": body})

    listener = listen("127.0.0.1:0")
    config = uvicorn.Config(
        KnownHost(app, ["here"]),
        http=protocol(crowd),
        log_config=None,
        lifespan="off",
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        host, port = listener.getsockname()
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        await asyncio.wait({serving}, timeout=ANSWER_S)


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: here\r\n\r\nGET /"])
async def test_sec_s34_headers_that_never_end_are_waited_for_no_longer_than_their_deadline(
    said: bytes,
) -> None:
    crowd = Crowd(8, head_s=0.5)
    async with small_server(crowd) as url, Held(url, 3, said):
        await eventually(lambda: len(crowd) > 0, within_s=ANSWER_S)
        await eventually(lambda: len(crowd) == 0, within_s=ANSWER_S)


async def test_sec_s34_answers_that_nobody_reads_are_given_up() -> None:
    crowd = Crowd(8, stall_s=0.3)
    asked = b"GET /endless HTTP/1.1\r\nHost: here\r\n\r\n"
    async with small_server(crowd) as url, Held(url, 2, asked):
        await eventually(lambda: crowd.shed == 2, within_s=ANSWER_S)
        assert len(crowd) == 0


async def test_sec_s34_client_that_keeps_asking_has_to_read_its_answers() -> None:
    crowd = Crowd(8, stall_s=1.0)
    asked = b"GET /endless HTTP/1.1\r\nHost: here\r\n\r\n"
    async with small_server(crowd) as url, Held(url, 2, asked) as held:
        await eventually(
            lambda: len(crowd) == 2 and all(each.flow.write_paused for each in crowd._open),
            within_s=ANSWER_S,
        )
        held.say(b"GET /")
        await eventually(lambda: crowd.shed == 2, within_s=ANSWER_S)


async def test_sec_s34_newcomer_takes_the_place_of_the_oldest_idle_connection() -> None:
    crowd = Crowd(4)
    async with small_server(crowd) as url, Held(url, 20):
        await eventually(lambda: crowd.shed == 16, within_s=ANSWER_S)
        assert len(crowd) == 4
        assert (await get(f"{url}/", "Host: here"))[0] == 200


async def test_sec_s34_forwarded_headers_are_not_believed() -> None:
    async with small_server(Crowd(4)) as url:
        forged = ["X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https"]
        _, body = await get(f"{url}/", "Host: here", *forged)
    assert "203.0.113.9" not in body
    assert " http\r\n" in body
