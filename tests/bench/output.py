"""The output of one task, from its file on the agent to a reader: speed, and memory on the way."""

import hashlib
import statistics
from pathlib import Path

from tests.bench.stage import mesh_processes
from tests.bench.table import Row
from tests.children import peak_rss_bytes, reset_peak_rss, rss_bytes

MIB = 1024 * 1024
SIZE_MIB = 100
WARM_UP_MIB = 1


async def measure(directory: Path, rounds: int) -> list[Row]:
    source, digest = make_source(directory / "source", SIZE_MIB)
    small, _ = make_source(directory / "small", WARM_UP_MIB)
    speeds: list[float] = []
    async with mesh_processes(directory) as mesh:
        await mesh.copy(small)
        pids = {"agent": mesh.agent.pid, "master": mesh.processes.master.pid}
        for pid in pids.values():
            reset_peak_rss(pid)
        before = {name: rss_bytes(pid) for name, pid in pids.items()}
        for _ in range(rounds):
            copied = await mesh.copy(source)
            if (copied.size_bytes, copied.sha256) != (SIZE_MIB * MIB, digest):
                raise RuntimeError(f"read {copied.size_bytes} bytes that are not those written")
            speeds.append(copied.size_bytes / 1e6 / copied.seconds)
            print(f"  {SIZE_MIB} MiB of output: {speeds[-1]:.1f} MB/s", flush=True)
        grown = {name: (peak_rss_bytes(pid) - before[name]) / MIB for name, pid in pids.items()}
    return [
        Row("output, file to reader", statistics.median(speeds), "MB/s", target=">= 30"),
        *(
            Row(f"{name} RSS, peak growth", growth, "MiB", target="<= 32")
            for name, growth in grown.items()
        ),
    ]


def make_source(path: Path, size_mib: int) -> tuple[Path, str]:
    """A file of lines that differ, and its digest."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in range(size_mib):
            lines = b"".join(b"%010d %052d\n" % (block, line) for line in range(MIB // 64))
            digest.update(lines)
            file.write(lines)
    return path, digest.hexdigest()
