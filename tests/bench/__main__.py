"""`make bench`: every number as a ratio to its floor or peer of the same run, and one table.

    python -m tests.bench [--quick] [noop process output memory idle demo scrape scale
        shell connections]
    python -m tests.bench --profile master|agent|client [--load noop|process|copy]

A target that is missed is said, and fails nothing: how fast a machine is, is no bug. An error is.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import uvloop

from broker_client.runtime.logs import configure_logs
from tests.bench import (
    connections,
    demo,
    hotspots,
    idle,
    memory,
    noop,
    output,
    process,
    scale,
    scrape,
    shell,
)
from tests.bench.table import Row, render

ROUNDS: Final = 3
BENCHMARKS: Final[Mapping[str, Callable[[Path, int], Awaitable[list[Row]]]]] = {
    "noop": noop.measure,
    "process": process.measure,
    "output": output.measure,
    "memory": memory.measure,
    "idle": idle.measure,
    "demo": demo.measure,
    "scrape": scrape.measure,
    "scale": scale.measure,
    "shell": shell.measure,
    "connections": connections.measure,
}


def main() -> int:
    options = _options()
    configure_logs("error")
    uvloop.install()  # as clients may have it: where one loads the mesh from here
    if options.profile:
        with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
            print(asyncio.run(_profiled(Path(folder), options)))
        return 0
    rows: list[Row] = []
    failed = []
    rounds = 1 if options.quick else options.rounds
    for name in options.names or BENCHMARKS:
        began = time.monotonic()
        print(f"{name} (load {os.getloadavg()[0]:.1f})", flush=True)
        try:
            with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
                rows += asyncio.run(_measured(name, Path(folder), rounds))
        except Exception:  # noqa: BLE001  one that fails must not hide what the others find
            traceback.print_exc()
            failed.append(name)
        print(f"  took {time.monotonic() - began:.0f} s", flush=True)
    print(f"\n{render(rows)}")
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


async def _measured(name: str, directory: Path, rounds: int) -> list[Row]:
    return await BENCHMARKS[name](directory, rounds)


async def _profiled(directory: Path, options: argparse.Namespace) -> str:
    return await hotspots.profile(directory, options.profile, options.load, options.in_flight)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="which; all without")
    parser.add_argument("--quick", action="store_true", help="one round of each")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--profile", choices=["master", "agent", "client"])
    parser.add_argument("--load", choices=[*hotspots.COUNTS], default="noop", help="to profile")
    parser.add_argument("--in-flight", type=int, default=1000, help="of the profile's load")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
