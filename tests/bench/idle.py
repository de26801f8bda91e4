"""Cost of an idle agent and of an idle master, with the default timers."""

import asyncio
import time
from pathlib import Path

from tests.bench.stage import mesh_processes
from tests.bench.table import Row
from tests.children import cpu_s, rss_bytes

MIB = 1024 * 1024
SETTLE_S = 10.0
WATCH_S = 20.0


async def measure(directory: Path, rounds: int) -> list[Row]:
    async with mesh_processes(directory) as mesh:
        pids = {
            "agent": mesh.agent.pid,
            "master": mesh.processes.master.pid,
            "broker": mesh.processes.broker_pid,
        }
        await asyncio.sleep(SETTLE_S)
        spent, began = {name: cpu_s(pid) for name, pid in pids.items()}, time.monotonic()
        await asyncio.sleep(WATCH_S)
        watched_s = time.monotonic() - began
        percent = {name: 100 * (cpu_s(pid) - spent[name]) / watched_s for name, pid in pids.items()}
        rss = {name: rss_bytes(pid) / MIB for name, pid in pids.items()}
    return [
        Row("idle agent, RSS", rss["agent"], "MiB", target="<= 45"),
        Row("idle agent, CPU", percent["agent"], "% of a core", target="<= 0.5"),
        *(Row(f"idle {name}, RSS", rss[name], "MiB") for name in ("master", "broker")),
        *(Row(f"idle {name}, CPU", percent[name], "% of a core") for name in ("master", "broker")),
    ]
