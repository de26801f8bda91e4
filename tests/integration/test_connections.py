"""Connections through real agents with profiles on their hosts: databases of SQLite in files."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from broker_client.api import Act, MeshClient
from schemas.faults import MeshError
from schemas.messages.actions.sql import SqlQueryArgs
from schemas.messages.api import (
    AgentDisable,
    ConnectionCreate,
    ConnectionPin,
    ConnectionRecord,
    ConnectionSet,
    ConnectionTest,
    NameQuery,
)
from schemas.verbs import (
    AGENT_DISABLE,
    AGENT_ENABLE,
    CONNECTION_CREATE,
    CONNECTION_DELETE,
    CONNECTION_DISABLE,
    CONNECTION_ENABLE,
    CONNECTION_PIN,
    CONNECTION_SET,
    CONNECTION_SHOW,
)
from tests.harness import MeshProcesses
from tests.meshes import LONG_LEASE, mesh_fixture

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-connections")]

SOON_S: Final = 60.0
ROWS: Final = 2000
PROFILES: Final = {"MESH_PROFILES_DIR": "", "MESH_PROFILES_S": "0.2"}


async def prepare(mesh: MeshProcesses) -> None:
    """Both hosts have the database and a profile of it, and `erp` leads there."""
    path = mesh.directory / "erp.db"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("create table item (id integer, name text)")
        rows = [(number, f"item {number}") for number in range(ROWS)]
        database.executemany("insert into item values (?, ?)", rows)
    for agent in ("db-1", "db-2"):
        write_profile(mesh, agent, "erp")
    async with mesh.client() as admin:
        request = ConnectionCreate(name="erp", kind="sqlite", group="db")
        _ = await admin.ask(CONNECTION_CREATE, request)
        _ = await reached(admin, "erp", lambda found: found.usable == 2)


mesh = mesh_fixture({"db": ("db-1", "db-2")}, env={**LONG_LEASE, **PROFILES}, prepare=prepare)


@pytest.fixture
async def client(mesh: MeshProcesses) -> AsyncIterator[MeshClient]:
    async with mesh.client() as admin:
        yield admin


def profile_path(mesh: MeshProcesses, agent: str, name: str) -> Path:
    return mesh.agent_dir(agent) / "profiles.d" / f"{name}.toml"


def write_profile(mesh: MeshProcesses, agent: str, name: str, *, more: str = "") -> None:
    """Replace the file in one step, as an editor does."""
    path = profile_path(mesh, agent, name)
    path.parent.mkdir(mode=0o755, exist_ok=True)
    text = f'kind = "sqlite"\nfile = "{mesh.directory / "erp.db"}"\n{more}'
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.chmod(0o644)
    fresh.replace(path)


async def reached(
    admin: MeshClient, name: str, holds: Callable[[ConnectionRecord], bool]
) -> ConnectionRecord:
    """The record of a connection as soon as it is so; AssertionError if it never is."""
    deadline = asyncio.get_running_loop().time() + SOON_S
    while True:
        record = await admin.ask_until_answered(CONNECTION_SHOW, NameQuery(name=name))
        if holds(record):
            return record
        assert asyncio.get_running_loop().time() < deadline, record
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def made(admin: MeshClient, name: str, **fields: Any) -> AsyncIterator[str]:  # noqa: ANN401  of ConnectionCreate
    """A connection for one test, deleted afterwards."""
    request = ConnectionCreate(name=name, **{"kind": "sqlite", "group": "db", **fields})
    _ = await admin.ask(CONNECTION_CREATE, request)
    try:
        yield name
    finally:
        _ = await admin.ask(CONNECTION_DELETE, NameQuery(name=name))


async def test_rows_come_as_dictionaries_and_the_result_is_in_the_record(
    client: MeshClient,
) -> None:
    erp = client.connection("erp")
    query = "select id, name from item where id < :most order by id"
    rows = [row async for row in erp.query(query, {"most": ROWS})]
    assert len(rows) == ROWS
    assert rows[7] == {"id": 7, "name": "item 7"}
    record = await client.run(SqlQueryArgs(sql="select 1 as one"), connection="erp")
    assert record.state == "succeeded"
    assert record.connection == "erp"
    assert record.result is not None
    assert record.result["rows"] == 1
    assert record.attempts[-1].effect in ("none", "done")
    found = await client.find(f"connection:erp id:{record.id}")
    assert [each.id for each in found] == [record.id]


async def test_reading_that_stops_early_ends_the_call(client: MeshClient) -> None:
    erp = client.connection("erp")
    endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select i from n"
    async with contextlib.aclosing(erp.query(endless, labels={"test": "early"})) as rows:
        async for row in rows:
            assert row == {"i": 1}
            break
    found = (await client.find("label:test=early"))[0]
    record = await client.wait(found.id, timeout_s=SOON_S)
    assert record.state == "cancelled"


async def test_fault_of_a_call_has_its_code_and_effect(client: MeshClient) -> None:
    with pytest.raises(MeshError) as refused:
        await client.connection("erp").call(Act("sql.query", {"sql": "select * from nothing"}))
    assert (refused.value.code, refused.value.effect) == ("target_refused", "none")


async def test_connections_f05_status_follows_the_group_and_calls_are_refused_meanwhile(
    client: MeshClient, mesh: MeshProcesses
) -> None:
    for agent in ("db-1", "db-2"):
        _ = await client.ask(AGENT_DISABLE, AgentDisable(name=agent))
    record = await reached(client, "erp", lambda found: found.status == "inactive")
    assert record.reason == "group db is inactive: all agents are disabled"
    assert record.next
    with pytest.raises(MeshError) as refused:
        await client.connection("erp").call(SqlQueryArgs(sql="select 1"))
    assert (refused.value.code, refused.value.effect) == ("group_inactive", "none")
    waiting = await client.submit(
        SqlQueryArgs(sql="select 1"), connection="erp", on_inactive="queue"
    )
    assert waiting.target == "inactive"
    for agent in ("db-1", "db-2"):
        _ = await client.ask(AGENT_ENABLE, NameQuery(name=agent))
    assert (await client.wait(waiting.id, timeout_s=SOON_S)).state == "succeeded"
    record = await reached(client, "erp", lambda found: found.status == "active")
    events = [
        (event.what, event.was)
        async for event in client.events("kind:connection name:erp")
        if event.detail
    ]
    assert events[-2:] == [("inactive", "active"), ("active", "inactive")]


async def test_connections_f05_missing_profile_is_the_reason(
    client: MeshClient, mesh: MeshProcesses
) -> None:
    async with made(client, "crm"):
        record = await reached(client, "crm", lambda _: True)
        assert (record.status, record.reason) == (
            "inactive",
            "no active agent of db has profile crm",
        )
        with pytest.raises(MeshError, match="no active agent of db has profile crm"):
            await client.connection("crm").call(SqlQueryArgs(sql="select 1"))
        write_profile(mesh, "db-2", "crm")
        _ = await reached(client, "crm", lambda found: found.status == "active")
        for _ in range(4):
            ran = await client.run(SqlQueryArgs(sql="select 1"), connection="crm")
            assert ran.attempts[-1].agent == "db-2"
        profile_path(mesh, "db-2", "crm").unlink()
        _ = await reached(client, "crm", lambda found: found.status == "inactive")


async def test_connections_f16_profile_is_edited_under_load_without_a_failed_call(
    client: MeshClient, mesh: MeshProcesses
) -> None:
    async with made(client, "load"):
        for agent in ("db-1", "db-2"):
            write_profile(mesh, agent, "load")
        before = await reached(client, "load", lambda found: found.usable == 2)
        assert before.badges == []
        first = before.members[0].hash
        ends: list[str] = []
        stop = asyncio.Event()

        async def call() -> None:
            while not stop.is_set():
                record = await client.run(SqlQueryArgs(sql="select 1"), connection="load")
                ends.append(record.state)

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(call())
            write_profile(mesh, "db-1", "load", more="busy_s = 3.0\n")
            drift = await reached(client, "load", lambda found: bool(found.badges))
            stop.set()
        assert drift.badges == ["profile drift: 2 hashes"]
        assert drift.status == "active"
        assert set(ends) == {"succeeded"}
        hashes = {each.agent: each.hash for each in drift.members}
        assert hashes["db-2"] == first != hashes["db-1"]

        _ = await client.ask(CONNECTION_PIN, ConnectionPin(name="load", hash=first))
        for _ in range(6):
            ran = await client.run(SqlQueryArgs(sql="select 1"), connection="load")
            assert ran.attempts[-1].agent == "db-2", "a pin excludes others"
        _ = await client.ask(CONNECTION_PIN, ConnectionPin(name="load"))

        write_profile(mesh, "db-1", "load", more="busy_s = no\n")
        broken = await reached(client, "load", lambda found: "1 with a problem" in found.badges)
        found = next(each for each in broken.members if each.agent == "db-1")
        assert "load.toml:3" in found.problem
        assert (found.state, found.hash) == ("ok", hashes["db-1"]), "the last good one is in use"
        write_profile(mesh, "db-1", "load")
        _ = await reached(client, "load", lambda found: not found.badges)
        for agent in ("db-1", "db-2"):
            profile_path(mesh, agent, "load").unlink()


async def test_limit_at_once_holds_in_the_whole_group(client: MeshClient) -> None:
    slow = (
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < 300000)"
        " select count(*) as i from n"
    )
    _ = await client.ask(CONNECTION_SET, ConnectionSet(name="erp", at_once=1))
    try:
        answers = [await client.submit(SqlQueryArgs(sql=slow), connection="erp") for _ in range(4)]
        most = 0
        while True:
            record = await client.ask(CONNECTION_SHOW, NameQuery(name="erp"))
            most = max(most, record.running)
            if not record.running + record.queued:
                break
        assert most == 1
        for answer in answers:
            assert (await client.wait(answer.id)).state == "succeeded"
    finally:
        _ = await client.ask(CONNECTION_SET, ConnectionSet(name="erp", at_once=0))


async def test_connection_test_tells_each_step_of_each_host(
    client: MeshClient, mesh: MeshProcesses
) -> None:
    answer = await client.test_connection(ConnectionTest(name="erp"))
    assert [(each.agent, each.result) for each in answer.members] == [
        ("db-1", "ok"),
        ("db-2", "ok"),
    ]
    for each in answer.members:
        assert each.steps
        assert "SQLite" in each.server
        assert each.profile
    async with made(client, "half"):
        write_profile(mesh, "db-1", "half")
        write_profile(mesh, "db-2", "half", more='file = "twice"\n')
        _ = await reached(
            client,
            "half",
            lambda found: {each.state for each in found.members} == {"ok", "problem"},
        )
        answer = await client.test_connection(ConnectionTest(name="half"))
        results = {each.agent: (each.result, each.code) for each in answer.members}
        assert results == {"db-1": ("ok", ""), "db-2": ("failed", "profile_problem")}
        only = await client.test_connection(ConnectionTest(name="half", agent="db-1"))
        assert [each.agent for each in only.members] == ["db-1"]
        ran = await mesh.cli("connection", "test", "half")
        assert ran.code == 1
        assert "profile_problem" in ran.out
        for agent in ("db-1", "db-2"):
            profile_path(mesh, agent, "half").unlink()


async def test_disabled_connection_refuses_until_it_is_enabled(client: MeshClient) -> None:
    _ = await client.ask(CONNECTION_DISABLE, NameQuery(name="erp"))
    try:
        with pytest.raises(MeshError) as refused:
            await client.connection("erp").call(SqlQueryArgs(sql="select 1"))
        assert refused.value.code == "connection_disabled"
        record = await client.ask(CONNECTION_SHOW, NameQuery(name="erp"))
        assert (record.status, record.next) == ("disabled", "mesh connection enable erp")
    finally:
        _ = await client.ask(CONNECTION_ENABLE, NameQuery(name="erp"))
    assert (await client.connection("erp").call(SqlQueryArgs(sql="select 1"))).result["rows"] == 1


async def test_command_line_shows_rows_result_and_faults(mesh: MeshProcesses) -> None:
    args = ("--arg", "sql=select id, name from item where id = :id", "--arg", "params.id:=7")
    ran = await mesh.cli("do", "erp", "sql.query", *args, "--arg", "format=csv")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "7,item 7")
    assert "rows 1" in ran.err
    ran = await mesh.cli("do", "erp", "sql.query", *args, "--output", "json")
    assert ran.json["result"]["rows"] == 1
    ran = await mesh.cli("do", "erp", "sql.query", "--arg", "sql=select * from nothing")
    assert (ran.code, ran.out) == (6, "")
    assert ran.err.splitlines()[0].endswith("(target_refused)")
    ran = await mesh.cli("do", "erp", "sql.query", "--arg", "sq=select 1")
    assert ran.code == 2
    assert "(argument_unknown)" in ran.err
    ran = await mesh.cli("do", "epr", "sql.query", "--arg", "sql=select 1")
    assert ran.code == 3
    assert "did you mean erp?" in ran.err
    ran = await mesh.cli("connection", "list")
    assert "erp" in ran.out
    ran = await mesh.cli("connection", "show", "erp")
    assert "db-1" in ran.out


async def test_restarted_master_knows_connections_and_profiles_again(
    client: MeshClient, mesh: MeshProcesses
) -> None:
    before = await client.ask(CONNECTION_SHOW, NameQuery(name="erp"))
    await mesh.restart_master(kill=True)
    after = await reached(client, "erp", lambda found: found.usable == 2)
    assert (after.status, after.since) == ("active", before.since)
    assert [row async for row in client.connection("erp").query("select 1 as i")] == [{"i": 1}]
