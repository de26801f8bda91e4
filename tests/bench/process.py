"""`/bin/true` through the mesh, output included, in turns with plain asyncio beside it."""

from pathlib import Path

from tests.bench.load import Latencies
from tests.bench.stage import mesh_processes, python, run_to_end
from tests.bench.table import Row, compared

AT_ONCE = 16
COUNT = 4000
# As many in flight as the no-ops have. Each waits for the disk three times, so more of them hold a
# slot than run; and enough are submitted ahead that no slot waits for the next one.
SLOTS = 256
IN_FLIGHT = 1000
# As on a host where no control groups can be made; docs/tasks.md says what they cost.
WITHOUT_CELLS = {"MESH_TASKS__CELLS": "false"}
# Both sides are noisy on a machine whose two processors are both in use.
MORE_ROUNDS = 2


async def measure(directory: Path, rounds: int) -> list[Row]:
    pairs: list[tuple[float, float]] = []
    async with mesh_processes(directory, slots=SLOTS, env=WITHOUT_CELLS) as mesh:
        await mesh.process(1000, IN_FLIGHT)
        for _ in range(rounds + MORE_ROUNDS):
            bare = await _bare(directory)
            ours = await mesh.process(COUNT, IN_FLIGHT)
            pairs.append((ours.per_s, bare.per_s))
            print(f"  /bin/true: asyncio {bare.per_s:,.0f}/s, mesh {ours.per_s:,.0f}/s", flush=True)
    return [compared("/bin/true as commands", pairs, "/s", target=">= 0.65")]


async def _bare(directory: Path) -> Latencies:
    load = ("--count", str(COUNT), "--in-flight", str(AT_ONCE))
    return await run_to_end(python("tests.bench.spawner", *load), directory, Latencies)
