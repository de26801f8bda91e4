"""HTTP: health, metrics and a first page for people."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from litestar import Litestar, MediaType, Response, get

from broker_master.api.metrics import render_metrics
from broker_master.plane import Plane
from broker_master.services.views import Views
from schemas.faults import Refused


class HttpServer:
    """Serves on its own socket, so that port 0 takes any free one. Signals stay the app's."""

    name = "http"

    def __init__(self, plane: Plane, views: Views, address: str) -> None:
        self._plane = plane
        self._views = views
        self._address = address
        self.url = ""

    async def run(self, ready: asyncio.Event) -> None:
        listener = _listen(self._address)
        host, port = listener.getsockname()[:2]
        self.url = f"http://{host}:{port}"
        server = _Server(
            uvicorn.Config(self._app(), log_config=None, access_log=False, lifespan="off")
        )
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        ready.set()
        try:
            await asyncio.shield(serving)
        finally:
            server.should_exit = True
            await asyncio.wait({serving}, timeout=2.0)

    def _app(self) -> Litestar:
        plane, views = self._plane, self._views

        @get("/healthz", media_type=MediaType.TEXT, sync_to_thread=False)
        def healthz() -> str:
            return "ok\n"

        @get("/readyz", media_type=MediaType.TEXT, sync_to_thread=False)
        def readyz() -> Response[str]:
            up = plane.link.is_connected
            text = "ready\n" if up else "the broker is not connected\n"
            return Response(text, status_code=200 if up else 503, media_type=MediaType.TEXT)

        @get("/metrics", sync_to_thread=False)
        def metrics() -> Response[bytes]:
            return Response(
                render_metrics(plane, views), media_type="text/plain; version=0.0.4; charset=utf-8"
            )

        return Litestar([healthz, readyz, metrics], openapi_config=None, logging_config=None)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        raise Refused("settings_invalid", f"http: {address!a} is not HOST:PORT")
    try:
        return socket.create_server((host.strip("[]"), int(port)))
    except OSError as error:
        raise Refused("settings_invalid", f"http {address}: {error.strerror}") from error
