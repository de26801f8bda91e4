"""HTTP: health, metrics and a first page for people."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from litestar import Litestar, MediaType, Request, Response, get

from broker_client.runtime.descriptors import file_limit
from broker_client.runtime.exposition import CONTENT_TYPE, takes_gzip
from broker_master.api.listener import Crowd, KnownHost, listen, protocol
from broker_master.console.overview import HEADERS, Overview
from broker_master.metrics.http import Metered
from broker_master.metrics.scrape import Scraper
from broker_master.plane import Plane


class HttpServer:
    """Serves on its own socket, so that port 0 takes any free one. Signals stay the app's."""

    name = "http"

    def __init__(self, plane: Plane, scraper: Scraper, overview: Overview, address: str) -> None:
        self._plane = plane
        self._overview = overview
        self._scraper = scraper
        self._address = address
        # A quarter of all descriptors: the broker's links, the stores and a restart need the rest.
        self.crowd = Crowd(min(plane.settings.limits.http_connections, file_limit() // 4))
        self.url = ""

    async def run(self, ready: asyncio.Event) -> None:
        listener = listen(self._address)
        host, port = listener.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        server = _Server(self._config())
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        ready.set()
        try:
            await asyncio.shield(serving)
        finally:
            server.should_exit = True
            await asyncio.wait({serving}, timeout=2.0)

    def _config(self) -> uvicorn.Config:
        plane = self._plane
        public = urlsplit(plane.settings.console.public_url).hostname or ""
        names = [socket.gethostname(), public, *plane.settings.http_hosts]
        app = Metered(KnownHost(self._app(), names), plane.telemetry.measures, plane.clock)
        return uvicorn.Config(
            app,
            http=protocol(self.crowd),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            # Forwarded headers are not trusted: a client could choose its own address.
            proxy_headers=False,
        )

    def _app(self) -> Litestar:
        plane, scraper = self._plane, self._scraper

        @get("/healthz", media_type=MediaType.TEXT, sync_to_thread=False)
        def healthz() -> str:
            return "ok\n"

        @get("/readyz", media_type=MediaType.TEXT, sync_to_thread=False)
        def readyz() -> Response[str]:
            up = plane.link.is_connected
            text = "ready\n" if up else "the broker is not connected\n"
            return Response(text, status_code=200 if up else 503, media_type=MediaType.TEXT)

        @get("/metrics")
        async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
            page = await scraper.page(takes_gzip(request.headers.get("accept-encoding", "")))
            headers = {"Content-Encoding": page.encoding} if page.encoding else {}
            return Response(page.body, media_type=CONTENT_TYPE, headers=headers)

        @get("/", media_type=MediaType.HTML, sync_to_thread=False)
        def first_page() -> Response[str]:
            return Response(self._overview.page(), media_type=MediaType.HTML, headers=HEADERS)

        routes = [first_page, healthz, readyz]
        # A separate port serves the peers that can reach it.
        routes += [] if plane.settings.metrics_http else [metrics]
        return Litestar(routes, openapi_config=None, logging_config=None)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
