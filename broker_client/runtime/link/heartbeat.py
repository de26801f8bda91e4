"""Whether the broker is still there: pings of our own, and the silence between what it sends."""

import asyncio
from collections.abc import Callable
from typing import Final

# A dead link is known within 5 ticks (3.75 s), an idle one is asked on every second tick.
TICK_S: Final = 0.75
SILENT_TICKS: Final = 4
# The broker's answer to a ping may queue behind much else; other bytes show life for this long.
PONG_S: Final = 10.0


class Heartbeat:
    """heard: set by the reader of the connection whenever bytes have come.

    ping: sends a ping ahead of what waits, whose answer completes the future.
    """

    def __init__(self, ping: "Callable[[asyncio.Future[bool]], None]") -> None:
        self._ping = ping
        self.heard = True

    async def until_silent(self) -> None:
        """Return when nothing was heard for long, counted in turns of this loop.

        Turns and not seconds, so that a process that was stopped for a while reads what has come
        meanwhile before it judges.
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
