"""One master and thousands of agents: how long an assignment takes, and what an agent costs.

The agents speak the real protocol on connections of their own, but share processes: what is
measured is the master. Commands come at a fixed rate, whatever the answers take.
"""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Final

import psutil

from broker_client.api import MeshClient
from schemas.messages.actions import NoopArgs
from schemas.messages.api import AgentCreate, GroupRecord, NameQuery, TokenAnswer
from tests.bench.stage import GROUP, load_child, python
from tests.bench.table import Row
from tests.children import Child
from tests.harness import MeshProcesses

SIZES: Final = (500, 1000, 2000)
RATE: Final = 200
LOAD_S: Final = 15.0
IDLE_S: Final = 10.0
SETTLE_S: Final = 300.0
IN_ONE_PROCESS: Final = 1000
AT_ONCE: Final = 50


async def measure(directory: Path, rounds: int) -> list[Row]:
    rows = []
    for size in SIZES:
        rows += await _size(directory / str(size), size)
    return rows


async def _size(directory: Path, size: int) -> list[Row]:
    async with MeshProcesses(directory / "mesh") as mesh, contextlib.AsyncExitStack() as stack:
        await mesh.add_group(GROUP)
        client = await stack.enter_async_context(mesh.client())
        tokens = directory / "tokens"
        tokens.write_text("\n".join(await _tokens(client, size)))
        for start in range(0, size, IN_ONE_PROCESS):
            count = min(IN_ONE_PROCESS, size - start)
            child = _crowd(mesh, tokens, start, count)
            stack.callback(child.kill)
            child.launch()
        await _all_active(client, size)
        master = psutil.Process(mesh.master.pid)
        idle = await _part(master, asyncio.sleep(IDLE_S))
        latencies: list[float] = []
        loaded = await _part(master, _load(client, latencies))
        memory = master.memory_info().rss / size / 1024
    latencies.sort()
    p99_ms = latencies[int(len(latencies) * 0.99)] * 1e3
    print(
        f"  {size:>4} agents: assigned p50 {latencies[len(latencies) // 2] * 1e3:.1f} ms,"
        f" p99 {p99_ms:.1f} ms; master {idle:.0%} idle, {loaded:.0%} at {RATE}/s",
        flush=True,
    )
    is_target = size == SIZES[-1]
    return [
        Row(f"{size} agents, submit to assigned, p99", p99_ms, "ms", target="<= 50" * is_target),
        Row(f"  master at {RATE} commands/s", loaded * 100, "%", target="<= 60" * is_target),
        Row("  master idle, CPU an agent", idle * 1e6 / size, "µs/s"),
        Row("  master, memory an agent", memory, "KiB"),
    ]


async def _tokens(client: MeshClient, size: int) -> list[str]:
    found: list[str] = []
    for start in range(0, size, AT_ONCE):
        requests = [
            AgentCreate(name=f"light-{number}", group=GROUP)
            for number in range(start, min(size, start + AT_ONCE))
        ]
        answers = await asyncio.gather(
            *(client.ask("agent", "create", request, TokenAnswer) for request in requests)
        )
        found += [answer.token for answer in answers]
    return found


def _crowd(mesh: MeshProcesses, tokens: Path, start: int, count: int) -> Child:
    which = ("--tokens", str(tokens), "--start", str(start), "--count", str(count))
    return load_child(python("tests.bench.crowd", "--group", GROUP, *which), mesh.logs)


async def _all_active(client: MeshClient, size: int) -> None:
    async with asyncio.timeout(SETTLE_S):
        while True:
            group = await client.ask("group", "show", NameQuery(name=GROUP), GroupRecord)
            if group.agents["active"] == size:
                return
            await asyncio.sleep(1.0)


async def _load(client: MeshClient, latencies: list[float]) -> None:
    """The answer to a submission comes when the command and its assignment are durable, as one."""
    arguments = NoopArgs()

    async def one() -> None:
        began = time.perf_counter()
        answer = await client.submit(arguments, group=GROUP)
        if answer.target != "active":
            raise RuntimeError(f"nobody was there for {answer.id}")
        latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(RATE * LOAD_S)):
            late_s = began + number / RATE - time.perf_counter()
            if late_s > 0:
                await asyncio.sleep(late_s)
            group.create_task(one())


async def _part(process: psutil.Process, work: object) -> float:
    """Share of a core that a process uses while `work` is awaited."""
    before, began = process.cpu_times(), time.perf_counter()
    await work  # type: ignore[misc]  # any awaitable
    after = process.cpu_times()
    spent = after.user + after.system - before.user - before.system
    return spent / (time.perf_counter() - began)
