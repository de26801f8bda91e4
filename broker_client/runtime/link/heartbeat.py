"""Heartbeat of a connection: pings to the broker, and the longest silence of it."""

import asyncio
from collections.abc import Callable
from typing import Final

# A dead link is detected within 5 ticks (3.75 s), an idle one is pinged on every second tick.
TICK_S: Final = 0.75
SILENT_TICKS: Final = 4
# Longest wait in seconds for a pong while other bytes come, as it may queue behind them.
PONG_S: Final = 10.0


class Heartbeat:
    """Detects a silent broker. heard: set by the reader of the connection at each received byte.

    ping: sends a ping ahead of queued frames; the pong completes the future.
    """

    def __init__(self, ping: "Callable[[asyncio.Future[bool]], None]") -> None:
        self._ping = ping
        self.heard = True

    async def until_silent(self) -> None:
        """Return after a long silence, counted in turns of this loop.

        Turns are counted, not seconds, so that a process that was stopped for a while reads the
        received bytes before it declares the link dead.
        """
        loop = asyncio.get_running_loop()
        silent = 0
        asked: list[tuple[float, asyncio.Future[bool]]] = []
        for turn in range(1 << 62):
            await asyncio.sleep(TICK_S)
            silent = 0 if self.heard else silent + 1
            self.heard = False
            asked = [(at, pong) for at, pong in asked if not pong.done()]
            is_deaf = bool(asked) and loop.time() - asked[0][0] > PONG_S
            if silent >= SILENT_TICKS or is_deaf:
                return
            if turn % 2 and len(asked) < SILENT_TICKS:
                pong: asyncio.Future[bool] = loop.create_future()
                asked.append((loop.time(), pong))
                self._ping(pong)
