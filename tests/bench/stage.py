"""Stage of the benchmarks: processes of the floor and of the mesh, and clients that load them."""

import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import psutil

from tests.bench.load import Latencies
from tests.bench.mesh_client import Copied
from tests.children import Child
from tests.harness import MeshProcesses
from tests.servers import plain_server

GROUP: Final = "bench"
AGENT: Final = "bench-1"
LOAD_S: Final = 300.0

R = TypeVar("R", bound=msgspec.Struct)


@dataclass
class Floor:
    """The bare path, up and running."""

    directory: Path
    url: str
    pids: dict[str, int]
    _loads: int = 0

    async def noop(self, count: int, in_flight: int) -> Latencies:
        self._loads += 1
        load = ("--count", str(count), "--in-flight", str(in_flight))
        options = ("client", "--url", self.url, "--prefix", f"c{self._loads}", *load)
        argv = python("tests.bench.floor", *options)
        return await _accounted(argv, self.directory, self.pids)


@contextlib.asynccontextmanager
async def floor_processes(directory: Path) -> AsyncIterator[Floor]:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(plain_server(directory))
        pids = {"broker": server.pid}
        for role in ("master", "agent"):
            options = (role, "--url", server.url, "--directory", str(directory))
            child = Child(
                f"floor-{role}", python("tests.bench.floor", *options), directory, ready="ready"
            )
            stack.callback(child.kill)
            await child.start()
            pids[role] = child.pid
        yield Floor(directory, server.url, pids)


@dataclass
class Mesh:
    """One master and one agent, and clients as processes."""

    processes: MeshProcesses
    agent: Child

    @property
    def pids(self) -> dict[str, int]:
        master = self.processes.master.pid
        return {"broker": self.processes.broker_pid, "master": master, "agent": self.agent.pid}

    async def noop(self, count: int, in_flight: int) -> Latencies:
        argv = self.client("noop", count=count, in_flight=in_flight)
        return await _accounted(argv, self.processes.logs, self.pids)

    async def process(self, count: int, in_flight: int) -> Latencies:
        argv = self.client("process", count=count, in_flight=in_flight)
        return await _accounted(argv, self.processes.logs, self.pids)

    async def copy(self, source: Path) -> Copied:
        argv = [*self.client("copy"), "--source", str(source)]
        return await run_to_end(argv, self.processes.logs, Copied)

    def client(self, kind: str, *, count: int = 1, in_flight: int = 1) -> list[str]:
        context = str(self.processes.admin_context)
        load = ("--count", str(count), "--in-flight", str(in_flight))
        options = (kind, "--context", context, "--group", GROUP, *load)
        return python("tests.bench.mesh_client", *options)


@contextlib.asynccontextmanager
async def mesh_processes(
    directory: Path, *, slots: int | None = None, env: dict[str, str] | None = None
) -> AsyncIterator[Mesh]:
    async with MeshProcesses(directory / "mesh", env=env) as processes:
        await processes.add_group(GROUP)
        agent = await processes.add_agent(AGENT, group=GROUP, slots=slots)
        yield Mesh(processes, agent)


def python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def load_child(argv: list[str], logs: Path) -> Child:
    """One process that puts out one line of JSON."""
    number = sum(1 for _ in logs.glob("load-*.out"))
    return Child(f"load-{number}", argv, logs, env=dict(os.environ))


async def run_to_end(argv: list[str], logs: Path, kind: type[R]) -> R:
    child = load_child(argv, logs)
    child.launch()
    try:
        return await result_of(child, kind)
    finally:
        child.kill()


async def _accounted(argv: list[str], logs: Path, pids: dict[str, int]) -> Latencies:
    """With what the other processes spent meanwhile."""
    before = {name: _spent_s(pid) for name, pid in pids.items()}
    result = await run_to_end(argv, logs, Latencies)
    spent = {name: _spent_s(pid) - before[name] for name, pid in pids.items()}
    return msgspec.structs.replace(result, spent_s=spent)


def _spent_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


async def result_of(child: Child, kind: type[R]) -> R:
    """Raises RuntimeError with the last words of a load that failed."""
    code = await child.wait(LOAD_S)
    if code:
        raise RuntimeError(f"{' '.join(child.argv)} exited with {code}:\n{child.last_words(6000)}")
    return msgspec.convert(json.loads(child.stdout), kind)
