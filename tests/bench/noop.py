"""No-op commands through the mesh, in turns with the floor."""

from pathlib import Path

from tests.bench.load import Latencies
from tests.bench.stage import floor_processes, mesh_processes
from tests.bench.table import Row, compared

SLOTS = 2000
# in flight, commands a round; the last one is one at a time
LOADS = ((1000, 12_000), (100, 6_000), (1, 500))
WARM_UP = (2_000, 200)

Pairs = dict[int, list[tuple[Latencies, Latencies]]]


async def measure(directory: Path, rounds: int) -> list[Row]:
    measured: Pairs = {in_flight: [] for in_flight, _ in LOADS}
    async with (
        floor_processes(directory) as floor,
        mesh_processes(directory, slots=SLOTS) as mesh,
    ):
        await floor.noop(*WARM_UP)
        await mesh.noop(*WARM_UP)
        for _ in range(rounds):
            for in_flight, count in LOADS:
                bare = await floor.noop(count, in_flight)
                ours = await mesh.noop(count, in_flight)
                measured[in_flight].append((ours, bare))
                print(
                    f"  {in_flight:>4} in flight: floor {bare.per_s:>6,.0f}/s p50 {bare.p50_ms:.2f}"
                    f" ms, mesh {ours.per_s:>6,.0f}/s p50 {ours.p50_ms:.2f} ms",
                    flush=True,
                )
    return _rows(measured)


def _rows(measured: Pairs) -> list[Row]:
    rows = []
    for in_flight in (1000, 100):
        rates = [(ours.per_s, bare.per_s) for ours, bare in measured[in_flight]]
        rows.append(compared(f"no-op, {in_flight} in flight", rates, "/s", target=">= 0.5"))
    alone = measured[1]
    p50 = [(ours.p50_ms, bare.p50_ms) for ours, bare in alone]
    p99 = [(ours.p99_ms, bare.p99_ms) for ours, bare in alone]
    rows.append(compared("no-op, one at a time, p50", p50, "ms", target="<= 2.0"))
    rows.append(compared("no-op, one at a time, p99", p99, "ms"))
    rows += _processor_time(measured[1000])
    return rows


def _processor_time(rounds: list[tuple[Latencies, Latencies]]) -> list[Row]:
    """Where the difference goes: what each process spends on one command."""
    return [
        compared(
            f"  {name}, CPU a command",
            [(ours.cpu_us[name], bare.cpu_us[name]) for ours, bare in rounds],
            "µs",
        )
        for name in ("client", "broker", "master", "agent")
    ]
