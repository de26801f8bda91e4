"""Profiles of real hosts: edited under load, broken, pinned, and told on the host itself."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from broker_client.api import MeshClient
from schemas.faults import MeshError
from schemas.messages.actions.sql import SqlQueryArgs
from schemas.messages.api import NameQuery
from schemas.messages.api.connections import (
    ConnectionCreate,
    ConnectionMember,
    ConnectionPin,
    ConnectionRecord,
)
from schemas.states import State
from tests.harness import MeshProcesses, Ran
from tests.meshes import mesh_fixture
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-profiles")]

AGENTS: Final = ("db-1", "db-2")
ASK: Final = SqlQueryArgs(sql="select name from place")
# A call each 20 ms, which is 50 in a second.
PACE_S: Final = 0.02


# Hosts that look for changes of their profiles five times a second.
mesh = mesh_fixture({"db": AGENTS}, env={"MESH_PROFILES_S": "0.2", "MESH_PROFILES_DIR": ""})


def database(mesh: MeshProcesses, name: str) -> Path:
    """Make a database that knows its own name."""
    path = mesh.directory / f"{name}.sqlite"
    if not path.exists():
        with closing(sqlite3.connect(path)) as made:
            made.executescript(f"create table place (name); insert into place values ('{name}')")
    return path


def put(mesh: MeshProcesses, agent: str, profile: str, text: str) -> Path:
    """Put a file in place whole, as an editor does."""
    folder = mesh.agent_dir(agent) / "profiles.d"
    folder.mkdir(mode=0o700, exist_ok=True)
    fresh = folder / f".{profile}.new"
    fresh.write_text(text)
    path = folder / f"{profile}.toml"
    fresh.rename(path)
    return path


def settings(mesh: MeshProcesses, name: str) -> str:
    return f'kind = "sqlite"\nfile = "{database(mesh, name)}"\n'


async def create(client: MeshClient, name: str) -> None:
    request = ConnectionCreate(name=name, kind="sqlite", group="db")
    await client.ask("connection", "create", request, ConnectionRecord)


async def shown(
    client: MeshClient, name: str, until: Callable[[ConnectionRecord], bool]
) -> ConnectionRecord:
    """The connection, once `until` is true of it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            query = NameQuery(name=name)
            record = await client.ask("connection", "show", query, ConnectionRecord)
            if until(record):
                return record
            await asyncio.sleep(0.05)


def member(record: ConnectionRecord, agent: str) -> ConnectionMember:
    return next(each for each in record.members if each.agent == agent)


async def place(client: MeshClient, connection: str) -> str:
    way: Any = {"connection": connection}
    record = await client.run(ASK, **way)
    assert record.state == State.SUCCEEDED, record
    assert record.output is not None
    name: str = json.loads(record.output.stdout)["name"]
    return name


async def profile(mesh: MeshProcesses, agent: str, *words: str) -> Ran:
    """`broker-agent profile …` on a host."""
    where = ("--state-dir", str(mesh.agent_dir(agent)))
    return await mesh._run("broker-agent", "profile", *words, *where)


async def test_connections_f16_profile_is_edited_under_load(mesh: MeshProcesses) -> None:
    for agent in AGENTS:
        put(mesh, agent, "erp", settings(mesh, "first"))
    async with mesh.client() as client:
        await create(client, "erp")
        before = await shown(client, "erp", lambda record: record.usable == 2)
        first = member(before, "db-1").hash
        assert first == member(before, "db-2").hash
        assert not [badge for badge in before.badges if "profile" in badge]
        seen: list[str] = []
        failed: list[object] = []
        stop = asyncio.Event()

        async def call() -> None:
            try:
                seen.append(await place(client, "erp"))
            except (MeshError, AssertionError) as error:
                failed.append(error)

        async def load() -> None:
            async with asyncio.TaskGroup() as calls:
                while not stop.is_set():
                    _ = calls.create_task(call())
                    await asyncio.sleep(PACE_S)

        async with asyncio.TaskGroup() as group:
            _ = group.create_task(load())
            await shown(client, "erp", lambda _: len(seen) >= 20)
            put(mesh, "db-1", "erp", settings(mesh, "second"))
            drifted = await shown(client, "erp", lambda now: member(now, "db-1").hash != first)
            assert drifted.usable == 2
            assert any("profile" in badge for badge in drifted.badges), drifted.badges
            mark = len(seen)
            await shown(client, "erp", lambda _: "second" in seen[mark:] and "first" in seen[mark:])
            # A broken file: the one before stays in use, and its line is named.
            second = member(drifted, "db-1").hash
            path = put(mesh, "db-1", "erp", settings(mesh, "second") + "fiel = 3\n")
            broken = await shown(client, "erp", lambda now: member(now, "db-1").problem != "")
            assert member(broken, "db-1").hash == second
            assert member(broken, "db-1").problem.startswith(f"{path}:3: ")
            mark = len(seen)
            await shown(client, "erp", lambda _: seen[mark:].count("second") >= 3)
            stop.set()
        assert not failed, failed[:3]
        assert {*seen} == {"first", "second"}
        # A pin excludes hosts with another hash.
        pin = ConnectionPin(name="erp", hash=first)
        await client.ask("connection", "pin", pin, ConnectionRecord)
        pinned = await shown(client, "erp", lambda now: member(now, "db-1").state == "not_pinned")
        assert (pinned.usable, member(pinned, "db-2").state) == (1, "ok")
        assert {await place(client, "erp") for _ in range(8)} == {"first"}


async def test_profile_commands_tell_files_and_what_is_in_use(mesh: MeshProcesses) -> None:
    path = put(mesh, "db-2", "stock", settings(mesh, "stock"))
    async with mesh.client() as client:
        await create(client, "stock")
        usable = await shown(client, "stock", lambda now: now.usable == 1)
    hash_ = member(usable, "db-2").hash
    listed = await profile(mesh, "db-2", "list", "stock", "--output", "json")
    (row,) = listed.json
    assert (row["hash"], row["in_use"], row["file"]) == (hash_, hash_, str(path))
    tested = await profile(mesh, "db-2", "test", "stock")
    assert tested.code == 0, tested
    assert tested.out.split()[tested.out.split().index("REASON") + 1] == "ok"
    wrong = put(mesh, "db-2", "wrong", 'kind = "sqlite"\nfile = 3\n')
    checked = await profile(mesh, "db-2", "check")
    assert checked.code == 1
    assert f"{wrong}:2: file is not text" in checked.out
    assert f"{path}: ok: sqlite" in checked.out
    assert (await profile(mesh, "db-2", "check", "stock")).code == 0
    status = await mesh._run("broker-agent", "status", "--state-dir", str(mesh.agent_dir("db-2")))
    assert "stock" in status.out
    wrong.unlink()
    unknown = await profile(mesh, "db-2", "test", "stok")
    assert unknown.code == 6
    assert "did you mean stock" in unknown.err


async def test_reload_reads_all_files_at_once(mesh: MeshProcesses) -> None:
    """With an interval that no test waits for, only the signal can be the cause."""
    await mesh.add_group("slow")
    agent = await mesh.add_agent("slow-1", group="slow", env={"MESH_PROFILES_S": "86400"})
    put(mesh, "slow-1", "erp", settings(mesh, "first"))
    before = await profile(mesh, "slow-1", "list", "--output", "json")
    assert [row["in_use"] for row in before.json] == [""]
    ran = await profile(mesh, "slow-1", "reload", "--output", "json")
    assert ran.code == 0, ran
    (row,) = ran.json
    assert row["in_use"] == row["hash"] != ""
    assert agent.is_running
    agent.kill()
    none = await profile(mesh, "slow-1", "reload")
    assert none.code == 7
    assert "no agent runs" in none.err


async def test_profile_test_ends_with_the_code_of_its_fault(mesh: MeshProcesses) -> None:
    path = put(mesh, "db-2", "gone", 'kind = "sqlite"\nfile = "/nowhere/at-all.sqlite"\n')
    ran = await profile(mesh, "db-2", "test", "gone", "--output", "json")
    assert ran.code == 7, ran
    assert ran.json["result"] == "failed"
    assert "target_unreachable" in ran.err
    path.unlink()
