"""Where a process spends its time under load: py-spy's samples, added up by function."""

from collections import Counter
from pathlib import Path

from tests.bench.load import Latencies
from tests.bench.noop import LOADS, SLOTS, WARM_UP
from tests.bench.stage import Mesh, load_child, mesh_processes, result_of
from tests.children import Child
from tests.harness import program

SHOWN = 45
RATE = 250
# Of the load, how long it is looked at: its beginning and end are left out.
WATCH_S = 6
FRAME_PATH_PARTS = 3
COUNT = 60_000


async def profile(directory: Path, who: str, in_flight: int = LOADS[0][0]) -> str:
    """The hottest functions of `master`, `agent` or `client` while no-op commands run."""
    samples = directory / f"{who}.samples"
    async with mesh_processes(directory, slots=SLOTS) as mesh:
        await mesh.noop(*WARM_UP)
        load = load_child(
            mesh.client("noop", count=COUNT, in_flight=in_flight), mesh.processes.logs
        )
        load.launch()
        try:
            spy = _spy(mesh, load, who, samples, directory)
            spy.launch()
            await spy.wait(60)
            took = await result_of(load, Latencies)
        finally:
            load.kill()
    head = f"{who} at {in_flight} in flight: {took.per_s:,.0f} commands/s while watched"
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
