"""Cost of a scrape: its time and size for large fleets, and the delay of commands by it.

python -m tests.bench scrape
"""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from broker_client.runtime.clock import SystemClock
from broker_client.runtime.exposition import Page
from broker_master.core.histograms import Histogram
from broker_master.core.measures import DURATION, QUEUE, GroupMeasures
from broker_master.settings import MasterSettings
from tests.bench.stage import Mesh, mesh_processes
from tests.bench.table import Row, compared
from tests.planes import add_agent, add_group, connect, make_plane, make_scraper

MIB: Final = 1024 * 1024
GROUPS: Final = 20
RENDERINGS: Final = 7
SLOTS: Final = 2000
LOAD: Final = (8000, 1000)
WARM_UP: Final = (2000, 200)


async def measure(directory: Path, rounds: int) -> list[Row]:
    rows = await _rendered(1000, per_agent=True, most_ms=60)
    rows += await _rendered(5000, per_agent=False, most_ms=20)
    return [*rows, *await _beside_commands(directory, rounds)]


async def _rendered(agents: int, *, per_agent: bool, most_ms: int) -> list[Row]:
    plane = make_plane(SystemClock(), MasterSettings(per_agent_metrics=per_agent))
    for number in range(GROUPS):
        add_group(plane, f"group-{number:02}")
        _fill(plane.telemetry.measures.group(f"group-{number:02}"))
    for number in range(agents):
        add_agent(plane, f"agent-{number:04}", f"group-{number % GROUPS:02}")
        connect(plane, f"agent-{number:04}")
    scraper = make_scraper(plane)
    times: list[float] = []
    packed = Page(b"")
    for _ in range(RENDERINGS):
        scraper.forget()
        began = time.perf_counter()
        packed = await scraper.page(gzip=True)
        times.append(1000 * (time.perf_counter() - began))
    plain = (await scraper.page()).body
    what = f"scrape, {agents} agents{'' if per_agent else ' in totals'}"
    return [
        Row(what, statistics.median(times), "ms", target=f"<= {most_ms}"),
        Row(f"{what}: size as fetched", len(packed.body) / MIB, "MiB", target="<= 1"),
        Row(f"{what}: size unpacked", len(plain) / MIB, "MiB"),
        Row(f"{what}: samples", plain.count(b"\n") - 2 * plain.count(b"# HELP"), ""),
    ]


def _fill(measures: GroupMeasures) -> None:
    """A group in which everything has happened."""
    measures.submitted["process", "nats"] = measures.finished["process", "succeeded"] = 1000
    measures.sends.update(dict.fromkeys(range(1, 7), 10))
    measures.queue["process"], measures.duration["process"] = Histogram(QUEUE), Histogram(DURATION)
    for histogram in (measures.acknowledge, measures.round_trip, measures.queue["process"]):
        histogram.observe(0.01)
    measures.duration["process"].observe(2.0)


async def _beside_commands(directory: Path, rounds: int) -> list[Row]:
    """No-op commands with a scrape each second, in turns with none."""
    pairs = []
    async with mesh_processes(directory, slots=SLOTS) as mesh:
        await mesh.noop(*WARM_UP)
        for _ in range(rounds):
            alone = await mesh.noop(*LOAD)
            async with _scraping(mesh):
                scraped = await mesh.noop(*LOAD)
            pairs.append((scraped.per_s, alone.per_s))
    return [compared("no-op commands with a scrape a second", pairs, "/s", target=">= 0.95")]


@contextlib.asynccontextmanager
async def _scraping(mesh: Mesh) -> AsyncIterator[None]:
    url = f"{mesh.processes.http_url}/metrics"

    async def scrape() -> None:
        while True:
            await asyncio.to_thread(lambda: urlopen(url, timeout=5).read())
            await asyncio.sleep(1.0)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(scrape())
        yield
        task.cancel()
