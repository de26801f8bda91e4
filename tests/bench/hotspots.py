"""Where a process spends its time under load: py-spy's samples, added up by function."""

from collections import Counter
from pathlib import Path

from tests.bench import output, process
from tests.bench.load import Latencies
from tests.bench.mesh_client import Copied
from tests.bench.noop import SLOTS, WARM_UP
from tests.bench.stage import Mesh, load_child, mesh_processes, result_of
from tests.children import Child
from tests.harness import program

SHOWN = 45
RATE = 250
SPY_S = 60.0
WATCH_S = 6
FRAME_PATH_PARTS = 3
# Enough to last longer than the watch; one copy is as long as the limit of output lets it be.
COUNTS = {"noop": 30_000, "process": 4_000, "copy": 1}
AT_ONCE = {"noop": SLOTS, "process": process.SLOTS, "copy": 4}


async def profile(directory: Path, who: str, load: str, in_flight: int) -> str:
    """The hottest functions of `master`, `agent` or `client` while `load` runs.

    load: `noop`, `process` or `copy`, as the load client knows them.
    """
    source, _ = output.make_source(directory / "source", output.SIZE_MIB)
    samples = directory / f"{who}.samples"
    async with mesh_processes(directory, slots=AT_ONCE[load]) as mesh:
        await mesh.noop(*WARM_UP)
        argv = mesh.client(load, count=COUNTS[load], in_flight=in_flight)
        child = load_child([*argv, "--source", str(source)], mesh.processes.logs)
        child.launch()
        spy = _spy(mesh, child, who, samples, directory)
        try:
            spy.launch()
            await spy.wait(SPY_S)
            took: Copied | Latencies
            if load == "copy":
                took = await result_of(child, Copied)
            else:
                took = await result_of(child, Latencies)
        finally:
            child.kill()
            spy.kill()
    head = f"{who} under {load}, {in_flight} in flight, {took.seconds:.1f} s while watched"
    return f"{head}\n{summarise(samples.read_text())}"


def _spy(mesh: Mesh, load: Child, who: str, samples: Path, logs: Path) -> Child:
    pids = {"agent": mesh.agent.pid, "master": mesh.processes.master.pid, "client": load.pid}
    options = ["--pid", str(pids[who]), "--format", "raw", "--output", str(samples)]
    timing = ["--rate", str(RATE), "--duration", str(WATCH_S)]
    return Child("py-spy", program("py-spy", "record", "--nonblocking", *options, *timing), logs)


def summarise(samples: str) -> str:
    """`own %  with callees %  function`, the hottest first. A line is `a;b;c count`."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    seen = 0
    for line in samples.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_short(frame) for frame in stack.split(";")]
        seen += int(count)
        own[frames[-1]] += int(count)
        for frame in set(frames):
            total[frame] += int(count)
    lines = [f"{'own %':>7} {'all %':>7}  function ({seen} samples)"]
    shown = {name for name, _ in own.most_common(SHOWN)} | {
        name for name, _ in total.most_common(SHOWN)
    }
    lines += [
        f"{100 * own[name] / seen:7.1f} {100 * total[name] / seen:7.1f}  {name}"
        for name in sorted(shown, key=lambda name: -own[name])
    ]
    return "\n".join(lines)


def _short(frame: str) -> str:
    """`work (/long/way/nats/aio/client.py:12)` becomes `work (nats/aio/client.py)`."""
    name, _, place = frame.partition(" (")
    path = place.rstrip(")").rpartition(":")[0] or place.rstrip(")")
    return f"{name} ({'/'.join(path.split('/')[-FRAME_PATH_PARTS:])})"
