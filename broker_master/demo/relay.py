"""A stretch of network between an agent and its broker that can be cut and healed."""

import asyncio
import contextlib
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self

BLOCK_BYTES: Final = 65_536
START_S: Final = 5.0
STOP_S: Final = 5.0


class Relay:
    """Forwards TCP from a port of its own to `port`, both on loopback, in a thread of its own.

    While it is cut nothing passes in either direction and no end is notified, as with a pulled
    cable: connections stay open, new ones get no answer. Healing ends the old ones, which both ends
    have given up by then or will, and serves the new ones.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._passes = asyncio.Event()
        self._links: set[asyncio.Task[None]] = set()
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(START_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result(STOP_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_S)

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._passes.clear)

    def heal(self) -> None:
        asyncio.run_coroutine_threadsafe(self._heal(), self._loop).result(START_S)

    # In the thread.

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    async def _listen(self) -> int:
        self._passes.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _heal(self) -> None:
        await self._end_links()
        self._passes.set()

    async def _end_links(self) -> None:
        await _end(self._links)

    async def _end_all(self) -> None:
        self._server.close()
        await _end(asyncio.all_tasks() - {asyncio.current_task()})

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Connections made while the link is cut wait here, and count as new once it heals.
        await self._passes.wait()
        link = asyncio.ensure_future(self._forward(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Both directions, until either end closes: then both are closed at once."""
        with contextlib.closing(writer), contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
            with contextlib.closing(far_writer):
                pumps = [
                    asyncio.ensure_future(self._pump(reader, far_writer)),
                    asyncio.ensure_future(self._pump(far_reader, writer)),
                ]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
        writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(BLOCK_BYTES):
            await self._passes.wait()
            writer.write(data)
            await writer.drain()
        await self._passes.wait()


async def _end(tasks: Iterable[asyncio.Task[None] | None]) -> None:
    ending = [task for task in tasks if task is not None]
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
