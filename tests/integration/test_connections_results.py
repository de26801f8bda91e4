"""Calls through a real mesh: large results, stops, and workers and agents that are killed."""

import contextlib
import hashlib
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from typing import Final

import psutil
import pytest

from broker_client.api import MeshClient
from schemas.faults import MeshError
from schemas.messages.actions.sql import SqlExecuteArgs, SqlQueryArgs
from schemas.messages.api import NameQuery
from schemas.messages.api.connections import ConnectionCreate, ConnectionRecord
from schemas.states import State
from tests.children import peak_rss_bytes, reset_peak_rss, rss_bytes
from tests.harness import FAST_TIMERS, MeshProcesses
from tests.meshes import mesh_fixture, state_reached
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-connections-results")]

MIB: Final = 1024 * 1024
LINES: Final = 66_000
COUNT: Final = "with recursive c(x) as (select 1 union all select x + 1 from c limit {})"
LARGE: Final = SqlQueryArgs(
    sql=f"{COUNT.format(LINES)} select x, printf('%.1016c', 'y') as t from c", format="csv"
)
ENDLESS: Final = f"{COUNT.format(10**12)} select count(*) as n from c"


async def _prepare(mesh: MeshProcesses) -> None:
    """A database that may be written, and a connection to it."""
    path = mesh.directory / "shop.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("create table sale (n)")
    folder = mesh.agent_dir("db-1") / "profiles.d"
    folder.mkdir(mode=0o700)
    (folder / "shop.toml").write_text(f'kind = "sqlite"\nfile = "{path}"\naccess = "write"\n')
    async with mesh.client() as client:
        create = ConnectionCreate(name="shop", kind="sqlite", group="db")
        await client.ask("connection", "create", create, ConnectionRecord)
        query = NameQuery(name="shop")
        usable = False
        while not usable:
            record = await client.ask("connection", "show", query, ConnectionRecord)
            usable = bool(record.usable)


mesh = mesh_fixture(
    {"db": ("db-1",)},
    env={**FAST_TIMERS, "MESH_PROFILES_S": "0.2", "MESH_PROFILES_DIR": ""},
    prepare=_prepare,
)


@pytest.fixture
async def client(mesh: MeshProcesses) -> AsyncIterator[MeshClient]:
    async with mesh.client() as made:
        yield made


def workers(mesh: MeshProcesses) -> list[int]:
    agent = psutil.Process(mesh.agents["db-1"].pid)
    found = agent.children()
    return [each.pid for each in found if "broker_agent.connectors.worker" in each.cmdline()]


async def test_connections_f11_large_result_takes_little_memory_on_its_way(
    mesh: MeshProcesses, client: MeshClient
) -> None:
    wanted = hashlib.sha256(b"x,t\n")
    for number in range(1, LINES + 1):
        wanted.update(b"%d,%b\n" % (number, b"y" * 1016))
    shop = client.connection("shop")
    _ = [row async for row in shop.query("select 1 as a")]  # the agent has all it needs loaded
    pid = mesh.agents["db-1"].pid
    reset_peak_rss(pid)
    before, found, size = rss_bytes(pid), hashlib.sha256(), 0
    async with contextlib.aclosing(shop.output(LARGE)) as parts:
        async for part in parts:
            found.update(part)
            size += len(part)
    assert size > 64 * MIB
    assert found.digest() == wanted.digest()
    assert peak_rss_bytes(pid) - before < 16 * MIB
    assert max(map(peak_rss_bytes, workers(mesh))) < 64 * MIB


async def test_connections_f11_result_beyond_the_limit_is_told(client: MeshClient) -> None:
    with pytest.raises(MeshError) as fault:
        async for _ in client.connection("shop").output(LARGE, output_bytes=MIB):
            pass
    assert (fault.value.code, fault.value.effect) == ("result_too_large", "none")


async def test_result_effect_and_code_are_in_the_record(client: MeshClient) -> None:
    write = SqlExecuteArgs(sql="insert into sale values (:n) returning n", params={"n": 7})
    done = await client.run(write, connection="shop")
    assert done.state == State.SUCCEEDED
    assert done.result == {"affected": 1, "returned": [{"n": 7}], "skipped": False}
    assert done.attempts[-1].effect == "done"
    failed = await client.run(SqlQueryArgs(sql="select * from nowhere"), connection="shop")
    assert (failed.state, failed.attempts[-1].code) == (State.FAILED, "target_refused")
    assert "no such table" in failed.reason


async def test_cancelled_call_ends_and_the_next_one_works(client: MeshClient) -> None:
    answer = await client.submit(SqlQueryArgs(sql=ENDLESS), connection="shop")
    await state_reached(client, answer.id, State.RUNNING)
    await client.cancel(answer.id)
    ended = await client.wait(answer.id)
    assert (ended.state, ended.attempts[-1].effect) == (State.CANCELLED, "none")
    shop = client.connection("shop")
    assert [row async for row in shop.query("select 1 as a")] == [{"a": 1}]


async def test_killed_worker_is_told_with_its_effect(
    mesh: MeshProcesses, client: MeshClient
) -> None:
    write = SqlExecuteArgs(sql=f"insert into sale {ENDLESS}")
    answer = await client.submit(write, connection="shop")
    await state_reached(client, answer.id, State.RUNNING)
    for pid in workers(mesh):
        os.kill(pid, signal.SIGKILL)
    ended = await client.wait(answer.id)
    last = ended.attempts[-1]
    assert (ended.state, last.code, last.effect) == (State.FAILED, "worker_lost", "unknown")


async def test_workers_end_with_a_killed_agent(mesh: MeshProcesses, client: MeshClient) -> None:
    write = SqlExecuteArgs(sql=f"insert into sale {ENDLESS}")
    answer = await client.submit(write, connection="shop")
    await state_reached(client, answer.id, State.RUNNING)
    left = workers(mesh)
    assert left
    mesh.agents["db-1"].kill()
    await eventually(lambda: not any(psutil.pid_exists(pid) for pid in left))
    await mesh.agents["db-1"].start()
    ended = await client.wait(answer.id)
    assert ended.state == State.LOST
