"""The one way in which a test waits for something that gives no signal."""

import asyncio
from collections.abc import Callable
from typing import Final

STEP_S: Final = 0.01


async def eventually(
    condition: Callable[[], object], within_s: float = 5.0, *, what: str = ""
) -> float:
    """Return the seconds it took until `condition()` was true; AssertionError after `within_s`."""
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    while not condition():
        if loop.time() - began_at > within_s:
            raise AssertionError(f"not within {within_s:g} s: {what or condition}")
        await asyncio.sleep(STEP_S)
    return loop.time() - began_at
