"""The load that floor and mesh are both put under, in a client process of its own, and its result.

So many workers as commands in flight; each takes the next command when its last one has ended.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import msgspec


class Latencies(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one load. Latencies from the submission to the result.

    cpu_s: what the client itself spent; `spent_s` what the others did, by their names, where asked.
    """

    count: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_s: float
    spent_s: dict[str, float] = {}

    @property
    def per_s(self) -> float:
        return self.count / self.seconds

    @property
    def cpu_us(self) -> dict[str, float]:
        """Of each process, per command."""
        spent = {"client": self.cpu_s, **self.spent_s}
        return {name: seconds / self.count * 1e6 for name, seconds in spent.items()}


async def run_load(
    run_one: Callable[[], Awaitable[object]], *, count: int, in_flight: int
) -> Latencies:
    """Run `count` commands, `in_flight` at a time. The first failure ends it and is raised."""
    took: list[float] = []
    left = count

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            began = time.perf_counter()
            await run_one()
            took.append(time.perf_counter() - began)

    spent = time.process_time()
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())
    seconds = time.perf_counter() - began
    took.sort()
    return Latencies(
        count=count,
        seconds=seconds,
        p50_ms=took[len(took) // 2] * 1e3,
        p99_ms=took[int(len(took) * 0.99)] * 1e3,
        cpu_s=time.process_time() - spent,
    )


def print_result(result: msgspec.Struct) -> None:
    """The only line that a load process says, read by `loads.run_client`."""
    print(json.dumps(msgspec.to_builtins(result)), flush=True)
