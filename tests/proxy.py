"""A TCP proxy that treats connections as bad networks do.

async with Proxy(server.port) as proxy:
    link = await Link.connect([f"nats://127.0.0.1:{proxy.port}"], ...)
    proxy.freeze()        # a black hole: nothing passes, nobody is told
"""

import asyncio
import contextlib
import random
from typing import Final, Literal, Self

Direction = Literal["up", "down"]  # up: from the client to the server
CHUNK_BYTES: Final = 16 * 1024
# Chunks on their way in one direction: what a long line holds.
IN_FLIGHT: Final = 256


class Proxy:
    """Settings hold for all connections, present and future, until they are changed.

    delay_s and jitter_s: each chunk is late by delay_s plus up to jitter_s; order is kept.
    bytes_per_s: the width of the line, each way and connection, None for no limit.
    cut_after: a connection is reset once so many bytes went that way, None for never.
    """

    def __init__(self, port: int, host: str = "127.0.0.1", *, seed: int = 1) -> None:
        self._target = (host, port)
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()
        self._gates: dict[Direction, asyncio.Event] = {
            "up": asyncio.Event(),
            "down": asyncio.Event(),
        }
        self.delay_s = 0.0
        self.jitter_s = 0.0
        self.bytes_per_s: float | None = None
        self.cut_after: dict[Direction, int | None] = {"up": None, "down": None}
        self.accepted = 0
        self.passed_bytes: dict[Direction, int] = {"up": 0, "down": 0}
        self.thaw()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for pair in list(self._pairs):
            pair.reset()
        while self._pairs:
            await asyncio.sleep(0.001)
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def open_connections(self) -> int:
        return len(self._pairs)

    def freeze(self, *directions: Direction, present_only: bool = False) -> None:
        """Let nothing pass (in `directions` only); connections stay open and fill up.

        present_only: connections made from now on pass.
        """
        for direction in directions or ("up", "down"):
            for pair in self._pairs:
                pair.gates[direction].clear()
            if not present_only:
                self._gates[direction].clear()

    def thaw(self) -> None:
        """Let everything pass again, first of all what has been held back."""
        for gate in self._gates.values():
            gate.set()
        for pair in self._pairs:
            for gate in pair.gates.values():
                gate.set()

    def reset(self) -> None:
        """Break all present connections, both ways, as a firewall does."""
        for pair in list(self._pairs):
            pair.reset()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(writer, far_writer)
        for direction, gate in self._gates.items():
            if gate.is_set():
                pair.gates[direction].set()
        self._pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as group:
                for flow in (
                    self._flow(pair, "up", reader, far_writer),
                    self._flow(pair, "down", far_reader, writer),
                ):
                    pair.tasks.append(group.create_task(flow))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            pair.reset()
            self._pairs.discard(pair)

    async def _flow(
        self,
        pair: "_Pair",
        direction: Direction,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(IN_FLIGHT)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._send(pair, direction, line, writer))
            pair.tasks.append(sending)
            loop = asyncio.get_running_loop()
            while True:
                await pair.gates[direction].wait()
                data = await reader.read(CHUNK_BYTES)
                late_s = self.delay_s + self._random.random() * self.jitter_s
                await line.put((loop.time() + late_s, data))
                if not data:
                    break

    async def _send(
        self,
        pair: "_Pair",
        direction: Direction,
        line: "asyncio.Queue[tuple[float, bytes]]",
        writer: asyncio.StreamWriter,
    ) -> None:
        loop = asyncio.get_running_loop()
        sent = 0
        while True:
            due_at, data = await line.get()
            await asyncio.sleep(max(0.0, due_at - loop.time()))
            await pair.gates[direction].wait()
            if not data:
                with contextlib.suppress(OSError):
                    writer.close()
                pair.reset()
                return
            limit = self.cut_after[direction]
            if limit is not None and sent + len(data) > limit:
                writer.write(data[: limit - sent])
                await writer.drain()
                await asyncio.sleep(0.01)  # let the last bytes leave before the line breaks
                pair.reset()
                return
            writer.write(data)
            await writer.drain()
            sent += len(data)
            self.passed_bytes[direction] += len(data)
            if self.bytes_per_s is not None:
                await asyncio.sleep(len(data) / self.bytes_per_s)


class _Pair:
    """The two connections that belong together."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.writers = writers
        self.gates: dict[Direction, asyncio.Event] = {
            "up": asyncio.Event(),
            "down": asyncio.Event(),
        }
        self.tasks: list[asyncio.Task[None]] = []

    def reset(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        for task in self.tasks:
            task.cancel()
