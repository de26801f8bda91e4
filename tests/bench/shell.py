"""`mesh agent list` as a whole process, beside a Python that does nothing."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from tests.bench.table import Row
from tests.harness import MeshProcesses, program

TURNS = 7
# Seconds, on a machine where an empty Python takes 0.01.
TARGET = "<= 0.2"


async def measure(directory: Path, rounds: int) -> list[Row]:
    async with MeshProcesses(directory / "mesh") as mesh:
        return await asyncio.to_thread(_measured, mesh, directory / "bytecode", rounds)


def _measured(mesh: MeshProcesses, bytecode: Path, rounds: int) -> list[Row]:
    environment = {
        **os.environ,
        "MESH_CONTEXT": str(mesh.admin_context),
        # As after an install, which compiles each module once: a tree from which a host may not
        # write bytecode would be compiled again by each run.
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(bytecode),
    }
    listing = program("mesh", "agent", "list")
    nothing = [sys.executable, "-c", "pass"]
    for command in (listing, nothing):
        subprocess.run(command, env=environment, check=True, capture_output=True)
    took: dict[str, list[float]] = {"list": [], "pass": []}
    for _ in range(rounds * TURNS):
        for name, command in (("list", listing), ("pass", nothing)):
            began = time.perf_counter()
            subprocess.run(command, env=environment, check=True, capture_output=True)
            took[name].append(time.perf_counter() - began)
    for name, values in took.items():
        print(f"  {name}: median {median(values):.3f} s, least {min(values):.3f} s", flush=True)
    # The least of many: what else ran meanwhile only adds.
    ours, empty = min(took["list"]), min(took["pass"])
    return [Row("mesh agent list", ours, "s", empty, target=TARGET)]
