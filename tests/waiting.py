"""The one way in which a test waits for something that gives no signal."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final

STEP_S: Final = 0.01
# For whatever must come about, on a machine as slow as any: no judgement of how quick it is.
PATIENCE_S: Final = 60.0


async def eventually(
    condition: Callable[[], object], within_s: float = PATIENCE_S, *, what: str = ""
) -> float:
    """Return the seconds it took until `condition()` was true; AssertionError after `within_s`."""
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    while not condition():
        if loop.time() - began_at > within_s:
            raise AssertionError(f"not within {within_s:g} s: {what or condition}")
        await asyncio.sleep(STEP_S)
    return loop.time() - began_at


async def soon(condition: Callable[[], object], *, what: str = "") -> None:
    """Let the loop turn until `condition()` is true: for unit tests, which do not sleep."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + PATIENCE_S
    while not condition():
        if loop.time() > give_up_at:
            raise AssertionError(f"not within {PATIENCE_S:g} s: {what or condition}")
        await asyncio.sleep(0)


class Ticks:
    """Turns of a timer on this loop. Where the process stands still, so do they."""

    def __init__(self) -> None:
        self.count = 0


@contextlib.asynccontextmanager
async def ticking(every_s: float) -> AsyncIterator[Ticks]:
    """Counts sleeps of `every_s`: the measure for a product's timer in the same process."""
    ticks = Ticks()

    async def tick() -> None:
        while True:
            await asyncio.sleep(every_s)
            ticks.count += 1

    counting = asyncio.ensure_future(tick())
    try:
        yield ticks
    finally:
        counting.cancel()
