"""Calls through connections, beside what they cost without the mesh: psql, urllib3, `noop`."""

import asyncio
import contextlib
import hashlib
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import urllib3

from broker_client.api import MeshClient
from schemas.messages.actions import NoopArgs
from schemas.messages.actions.http import HttpRequestArgs
from schemas.messages.actions.sql import SqlQueryArgs
from schemas.messages.api import NameQuery
from schemas.messages.api.connections import ConnectionCreate, ConnectionRecord
from tests.bench.load import Latencies, run_load
from tests.bench.stage import GROUP, Mesh, mesh_processes
from tests.bench.table import Row, compared
from tests.calls import CallBench
from tests.children import peak_rss_bytes, reset_peak_rss, rss_bytes
from tests.postgres import PostgresServer, postgres_server

MIB: Final = 1024 * 1024
ROWS: Final = 1_000_000
# A row of 101 bytes as csv.
TABLE: Final = "select g as id, repeat('x', 92) as t from generate_series(1, {}) g"
ONE: Final = SqlQueryArgs(sql="select 1 as a")
GET: Final = HttpRequestArgs(path="/small")
ALONE: Final = 300
AT_ONCE: Final = 64
SLOTS: Final = 8
LARGE_BYTES: Final = 1024 * MIB
CALL_S: Final = 280.0

_SERVER: Final = """
import asyncio

ANSWER = b"HTTP/1.1 200 OK\\r\\nContent-Length: 1024\\r\\n\\r\\n" + b"x" * 1024

async def answer(reader, writer):
    try:
        while await reader.readuntil(b"\\r\\n\\r\\n"):
            writer.write(ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""

Once = Callable[[], Awaitable[object]]


async def measure(directory: Path, rounds: int) -> list[Row]:
    with postgres_server() as server:
        rows = await _worker(directory / "tasks", server, rounds)
        env = {"MESH_PROFILES_DIR": "", "MESH_PROFILES_S": "0.2"}
        async with mesh_processes(directory, slots=SLOTS, env=env) as mesh:
            with _web() as url:
                await _connect(mesh, server, url)
                async with mesh.processes.client() as client:
                    rows += await _one_at_a_time(client, url, rounds)
                    rows += await _many(client, mesh, rounds)
                    rows += await _read(client, server, directory / "read.csv", rounds)
                    rows += await _memory(client, mesh)
    return rows


# A worker alone.


async def _worker(root: Path, server: PostgresServer, rounds: int) -> list[Row]:
    bench = CallBench(root)
    try:
        bench.put("p", "postgresql", **server.profile())
        first: list[float] = []
        for number in range(3):
            bench.put(f"first-{number}", "postgresql", **server.profile())
            first.append(1000 * await _seconds(lambda n=number: bench.call(f"first-{n}", ONE)))  # type: ignore[misc]
        rows = [
            Row("first call, with its process", statistics.median(first), "ms", target="<= 300")
        ]
        await bench.call("p", ONE)
        for form, target in (("csv", "<= 1.5"), ("jsonl", "<= 3.5")):
            rows.append(await _into_file(bench, server, root, form, target, rounds))
        return rows
    finally:
        bench.close()


async def _into_file(
    bench: CallBench, server: PostgresServer, root: Path, form: str, target: str, rounds: int
) -> Row:
    args = SqlQueryArgs(sql=TABLE.format(ROWS), format=form)  # type: ignore[arg-type]
    pairs = []
    for _ in range(rounds):
        ours = await _seconds(lambda: bench.start("p", args).end_only())
        pairs.append((ours, await _psql(server, root / "psql.csv")))
        print(f"  {form}: {pairs[-1][0]:.2f} s, psql {pairs[-1][1]:.2f} s", flush=True)
    return compared(f"1 M rows as {form} into the file", pairs, "s", target=target)


async def _psql(server: PostgresServer, path: Path) -> float:
    copy = f"\\copy ({TABLE.format(ROWS)}) to '{path}' csv header"
    return await _seconds(lambda: asyncio.to_thread(server.psql, copy))


# Through the mesh.


async def _connect(mesh: Mesh, server: PostgresServer, url: str) -> None:
    folder = mesh.processes.agent_dir("bench-1") / "profiles.d"
    folder.mkdir(mode=0o700, exist_ok=True)
    settings = {**server.profile(), "password": None}
    lines = [f"{name} = {_toml(value)}" for name, value in settings.items() if value is not None]
    lines.append(f"password = {{ plain = {_toml(server.profile()['password']['plain'])} }}")
    _put(folder / "erp.toml", ['kind = "postgresql"', *lines])
    _put(
        folder / "web.toml", ['kind = "http"', f'base_url = "{url}"', 'networks = ["127.0.0.0/8"]']
    )
    async with mesh.processes.client() as client:
        for name, kind in (("erp", "postgresql"), ("web", "http")):
            request = ConnectionCreate(
                name=name, kind=kind, group=GROUP, timeout_s=CALL_S, output_bytes=2 * LARGE_BYTES
            )
            await client.ask("connection", "create", request, ConnectionRecord)
            await _usable(client, name)


def _put(path: Path, lines: list[str]) -> None:
    path.touch(mode=0o600)
    path.write_text("\n".join([*lines, ""]))


def _toml(value: Any) -> str:  # noqa: ANN401  (a number or a text)
    return str(value) if isinstance(value, int) else f'"{value}"'


async def _usable(client: MeshClient, name: str) -> None:
    async with asyncio.timeout(60):
        while True:
            query = NameQuery(name=name)
            if (await client.ask("connection", "show", query, ConnectionRecord)).usable:
                return
            await asyncio.sleep(0.1)


@contextlib.contextmanager
def _web() -> Iterator[str]:
    """An HTTP server that answers with 1 KiB in one piece, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        port = int(process.stdout.readline()) if process.stdout else 0
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.kill()
        process.wait()


async def _one_at_a_time(client: MeshClient, url: str, rounds: int) -> list[Row]:
    pool = urllib3.PoolManager()
    ways: dict[str, Once] = {
        "noop": lambda: client.run(NoopArgs(), group=GROUP),
        "process": lambda: client.run(["/bin/true"], group=GROUP),
        "sql": lambda: _ran(client, ONE, "erp"),
        "http": lambda: _ran(client, GET, "web"),
        "direct": lambda: asyncio.to_thread(pool.request, "GET", f"{url}small"),
    }
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, once in ways.items():
            for _ in range(20):
                await once()
            measured[name].append(await _p50_ms(once, ALONE))
    medians = {name: statistics.median(values) for name, values in measured.items()}
    print("  one at a time, p50:", ", ".join(f"{n} {v:.2f} ms" for n, v in medians.items()))
    pairs = [
        (http - direct, noop)
        for http, direct, noop in zip(
            measured["http"], measured["direct"], measured["noop"], strict=True
        )
    ]
    over = medians["sql"] - medians["noop"]
    programs = [*zip(measured["sql"], measured["process"], strict=True)]
    return [
        compared("warm call of PostgreSQL, by process", programs, "ms"),
        Row("warm call of PostgreSQL, over no-op", over, "ms", target="<= 0.3"),
        compared("GET of 1 KiB less the direct one, by no-op", pairs, "ms", target="<= 1.3"),
    ]


async def _many(client: MeshClient, mesh: Mesh, rounds: int) -> list[Row]:
    pairs = []
    for _ in range(rounds):
        calls = await run_load(lambda: _ran(client, GET, "web"), count=1000, in_flight=AT_ONCE)
        programs: Latencies = await mesh.process(600, AT_ONCE)
        pairs.append((calls.per_s, programs.per_s))
    return [
        compared(f"{AT_ONCE} in flight, {SLOTS} workers, by process", pairs, "/s", target=">= 1.5")
    ]


async def _read(client: MeshClient, server: PostgresServer, path: Path, rounds: int) -> list[Row]:
    args = SqlQueryArgs(sql=TABLE.format(ROWS), format="csv")
    pairs = []
    for _ in range(rounds):
        seconds = await _seconds(lambda: _digest(client, args))
        pairs.append((seconds, await _psql(server, path)))
    return [compared("1 M rows as csv, read by a client", pairs, "s", target="<= 3")]


async def _memory(client: MeshClient, mesh: Mesh) -> list[Row]:
    """One result of a GiB: its hash, and the peaks of memory on its way."""
    count = LARGE_BYTES // 1012
    sql = f"select g as id, repeat('y', 1000) as t from generate_series(1, {count}) g"
    args = SqlQueryArgs(sql=sql, format="csv")
    pids = {"agent": mesh.agent.pid, "master": mesh.processes.master.pid}
    for pid in pids.values():
        reset_peak_rss(pid)
    before = {name: rss_bytes(pid) for name, pid in pids.items()}
    began = time.perf_counter()
    size, digest = await _digest(client, args)
    seconds = time.perf_counter() - began
    wanted = _expected(count)
    if (size, digest) != wanted:
        raise RuntimeError(f"read {size} bytes that are not those of the table")
    print(f"  {size / MIB:.0f} MiB in {seconds:.1f} s, SHA-256 as wanted", flush=True)
    peaks = [peak_rss_bytes(pid) / MIB for pid in _workers(mesh.agent.pid)]
    grown = {name: (peak_rss_bytes(pid) - before[name]) / MIB for name, pid in pids.items()}
    return [
        Row("result of 1 GiB: agent RSS, growth", grown["agent"], "MiB", target="<= 8"),
        Row("  worker RSS, peak", max(peaks), "MiB", target="<= 64"),
        Row("  master RSS, growth", grown["master"], "MiB", target="<= 32"),
        Row("  speed to the client", size / MIB / seconds, "MiB/s"),
    ]


def _workers(agent: int) -> list[int]:
    return [
        each.pid
        for each in psutil.Process(agent).children()
        if "broker_agent.connectors.worker" in " ".join(each.cmdline())
    ]


def _expected(count: int) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    tail = b"," + b"y" * 1000 + b"\n"
    digest.update(b"id,t\n")
    size += 5
    for start in range(1, count + 1, 1000):
        part = b"".join(b"%d%b" % (n, tail) for n in range(start, min(start + 1000, count + 1)))
        digest.update(part)
        size += len(part)
    return size, digest.hexdigest()


async def _digest(client: MeshClient, args: SqlQueryArgs) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    async with contextlib.aclosing(client.connection("erp").output(args)) as parts:
        async for part in parts:
            digest.update(part)
            size += len(part)
    return size, digest.hexdigest()


async def _ran(client: MeshClient, args: Any, connection: str) -> None:  # noqa: ANN401
    record = await client.run(args, connection=connection)
    if record.state != "succeeded":
        raise RuntimeError(f"command {record.id} ended as {record.state}: {record.reason}")


async def _p50_ms(once: Once, count: int) -> float:
    return statistics.median([1000 * await _seconds(once) for _ in range(count)])


async def _seconds(once: Once) -> float:
    began = time.perf_counter()
    await once()
    return time.perf_counter() - began
