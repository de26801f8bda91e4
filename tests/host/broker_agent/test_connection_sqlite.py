"""Calls to SQLite by real worker processes."""

import asyncio
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker_agent.executors.workers import pool
from schemas.faults import Refused
from schemas.messages.actions.sql import SqlExecuteArgs, SqlQueryArgs
from schemas.states import State
from tests.calls import CallBench
from tests.waiting import eventually

ENDLESS = "with recursive c(x) as (select 1 union all select x + 1 from c) select count(*) from c"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "shop.db"
    with sqlite3.connect(made) as database:
        database.execute("create table sale (id integer primary key, item text)")
        database.executemany("insert into sale values (?, ?)", enumerate("abcde"))
    database.close()
    return made


@pytest.fixture
async def bench(tmp_path: Path, file: Path) -> AsyncIterator[CallBench]:
    made = CallBench(tmp_path)
    made.put("shop", "sqlite", file=str(file))
    made.put("desk", "sqlite", file=str(file), access="write")
    yield made
    made.close()


async def test_rows_go_into_the_file_of_the_task(bench: CallBench) -> None:
    called = await bench.query("shop", "select * from sale where id > :least", least=2)
    assert called.rows == [{"id": 3, "item": "d"}, {"id": 4, "item": "e"}]
    first = {"id": 3, "item": "d"}
    size = len(called.out)
    assert called.result == {"columns": ["id", "item"], "rows": 2, "bytes": size, "first": first}
    assert (called.ending.state, called.ending.effect) == (State.SUCCEEDED, "none")
    named = await bench.call("shop", SqlQueryArgs(sql="select 1 as a, '' as b", format="csv"))
    assert named.out == b'a,b\n1,""\n'


async def test_worker_serves_calls_one_after_the_other(bench: CallBench) -> None:
    for _ in range(3):
        await bench.query("shop", "select 1 as a")
    assert len(bench.pids) == 1
    ended = await asyncio.gather(*(bench.query("shop", "select 1 as a") for _ in range(3)))
    assert {called.ending.state for called in ended} == {State.SUCCEEDED}
    assert len(bench.pids) == 3


async def test_writes_are_one_transaction(bench: CallBench) -> None:
    done = await bench.call(
        "desk",
        SqlExecuteArgs(
            sql="insert into sale values (:id, :item) returning id",
            many=[{"id": 10, "item": "x"}, {"id": 11, "item": None}],
        ),
    )
    assert done.result == {"affected": 2, "returned": [{"id": 10}, {"id": 11}], "skipped": False}
    assert done.ending.effect == "done"
    twice = SqlExecuteArgs(sql="insert into sale values (:id, '')", many=[{"id": 12}, {"id": 10}])
    failed = await bench.call("desk", twice)
    assert (failed.ending.code, failed.ending.effect) == ("target_refused", "none")
    assert "UNIQUE" in failed.ending.reason
    assert len((await bench.query("desk", "select * from sale")).rows) == 7
    counted = await bench.execute("desk", "with x as (select 1) update sale set item = ''")
    assert counted.result["affected"] == 7


async def test_connections_f07_once_changes_rows_once(bench: CallBench) -> None:
    args = SqlExecuteArgs(sql="insert into sale (item) values ('once')", once=True)
    results = [(await bench.call("desk", args, key="job_s1")).result for _ in range(2)]
    assert [each["skipped"] for each in results] == [False, True]
    assert (await bench.call("desk", args, key="job_s2")).result["skipped"] is False
    found = await bench.query("desk", "select count(*) as n from sale where item = 'once'")
    assert found.rows == [{"n": 2}]


@pytest.mark.parametrize(
    ("name", "action", "sql", "code"),
    [
        ("shop", "query", "select * from nowhere", "target_refused"),
        ("shop", "query", "select 1; select 2", "statement_refused"),
        ("shop", "query", "select :a", "parameter_invalid"),
        ("shop", "query", "pragma table_info(sale)", "statement_refused"),
        ("shop", "query", "insert into sale values (1, 2)", "statement_refused"),
        ("shop", "query", "select load_extension('x')", "statement_refused"),
        (
            "desk",
            "query",
            "with x as (select 1) insert into sale select 99, ''",
            "statement_refused",
        ),
        ("shop", "execute", "insert into sale values (99, '')", "statement_refused"),
        ("desk", "execute", "attach '/etc/passwd' as x", "statement_refused"),
        ("desk", "execute", "vacuum into '/nowhere/x'", "statement_refused"),
        ("desk", "execute", "create temp table x (a)", "statement_refused"),
        ("desk", "execute", "commit", "statement_refused"),
    ],
)
async def test_refused_statements_change_nothing(
    bench: CallBench, name: str, action: str, sql: str, code: str
) -> None:
    act = bench.query if action == "query" else bench.execute
    for _ in range(2):  # what was prepared for one call gives no leave to the next
        called = await act(name, sql)
        assert (called.ending.code, called.ending.effect) == (code, "none")
        assert called.ending.state is State.FAILED
    assert len((await bench.query("shop", "select * from sale")).rows) == 5


async def test_write_prepared_before_is_refused_as_a_query(bench: CallBench) -> None:
    sql = "with x as (select 98) insert into sale select *, '' from x"
    assert (await bench.execute("desk", sql)).ending.state is State.SUCCEEDED
    assert (await bench.query("desk", sql)).ending.code == "statement_refused"


async def test_statements_of_the_profile(bench: CallBench, file: Path) -> None:
    named = {"one": {"sql": "select item from sale where id = :id"}}
    bench.put("kiosk", "sqlite", file=str(file), only_statements=True, statements=named)
    called = await bench.call("kiosk", SqlQueryArgs(statement="one", params={"id": 1}))
    assert called.rows == [{"item": "b"}]
    assert (await bench.query("kiosk", "select 1")).ending.code == "statement_refused"
    unknown = await bench.call("kiosk", SqlQueryArgs(statement="two"))
    assert unknown.ending.code == "statement_unknown"


async def test_limits_of_rows_and_bytes(bench: CallBench) -> None:
    rows = await bench.call("shop", SqlQueryArgs(sql="select * from sale", max_rows=4))
    assert (rows.ending.code, rows.ending.effect) == ("result_too_large", "none")
    large = await bench.call("shop", SqlQueryArgs(sql="select * from sale"), output_bytes=50)
    assert large.ending.code == "result_too_large"
    assert len(large.out) <= 50


async def test_time_limit_and_cancel_end_a_statement(bench: CallBench) -> None:
    late = await bench.call("shop", SqlQueryArgs(sql=ENDLESS), timeout_s=1.0)
    assert (late.ending.state, late.ending.code) == (State.TIMED_OUT, "target_timeout")
    under = bench.start("shop", SqlQueryArgs(sql=ENDLESS))
    await eventually(lambda: under.task.pid != 0)
    under.task.stop(State.CANCELLED, "asked")
    stopped = await under.end()
    assert (stopped.ending.state, stopped.ending.reason) == (State.CANCELLED, "asked")
    # Not used again, as the interruption may come late.
    pid = under.task.pid
    assert (await bench.query("shop", "select 1 as a")).rows == [{"a": 1}]
    await eventually(lambda: pid not in bench.pids)


async def test_lost_worker_ends_its_call_and_no_other(bench: CallBench) -> None:
    under = bench.start("desk", SqlExecuteArgs(sql=f"insert into sale {ENDLESS}"))
    await eventually(lambda: under.task.pid != 0)
    os.kill(under.task.pid, signal.SIGKILL)
    lost = await under.end()
    assert (lost.ending.code, lost.ending.effect) == ("worker_lost", "unknown")
    assert (await bench.query("shop", "select 1 as a")).rows == [{"a": 1}]


async def test_idle_worker_that_dies_is_replaced(bench: CallBench) -> None:
    await bench.query("shop", "select 1")
    (pid,) = bench.pids
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: bench.pids == [])
    assert (await bench.query("shop", "select 1")).ending.state is State.SUCCEEDED


async def test_stopped_worker_is_killed_at_the_deadline(tmp_path: Path, file: Path) -> None:
    bench = CallBench(tmp_path / "short", grace_s=0.5)
    bench.put("shop", "sqlite", file=str(file))
    try:
        await bench.query("shop", "select 1")
        os.kill(bench.pids[0], signal.SIGSTOP)
        called = await bench.call("shop", SqlQueryArgs(sql="select 1"), timeout_s=0.5)
        assert called.ending.state is State.TIMED_OUT
    finally:
        bench.close()


async def test_changed_profile_gets_another_worker(
    bench: CallBench, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.query("shop", "select 1")
    (old,) = bench.pids
    bench.put("shop", "sqlite", file=str(file), busy_s=1)
    await bench.query("shop", "select 1")
    bench.executor.reap()
    await eventually(lambda: old not in bench.pids)
    assert len(bench.pids) == 1
    monkeypatch.setattr(pool, "IDLE_S", 0.0)
    bench.executor.reap()
    await eventually(lambda: bench.pids == [])


async def test_output_waits_while_the_spool_is_high(bench: CallBench) -> None:
    await bench.query("shop", "select 1")
    bench.is_spool_high = True
    sql = "with recursive c(x) as (select 1 union all select x + 1 from c) select x from c"
    under = bench.start("shop", SqlQueryArgs(sql=sql))
    held: list[int] = []

    def stands() -> bool:
        held.append(under.folder.sizes()[0])
        return len(held) > 20 and len(set(held[-20:])) == 1

    await eventually(lambda: any(each.is_on_hold for each in bench.executor.pool.workers))
    await eventually(stands)
    bench.is_spool_high = False
    await eventually(lambda: under.folder.sizes()[0] > held[-1])
    under.task.kill()
    assert (await under.end()).ending.state is State.CANCELLED


async def test_file_that_is_no_database(bench: CallBench, tmp_path: Path) -> None:
    bench.put("none", "sqlite", file=str(tmp_path / "nowhere.db"))
    (tmp_path / "text.db").write_text("no database" * 1000)
    bench.put("text", "sqlite", file=str(tmp_path / "text.db"))
    for name in ("none", "text"):
        called = await bench.query(name, "select 1")
        assert (called.ending.code, called.ending.effect) == ("target_unreachable", "none")


async def test_commands_without_a_usable_connection_are_not_admitted(bench: CallBench) -> None:
    with pytest.raises(Refused) as unknown:
        bench.start("nowhere", SqlQueryArgs(sql="select 1"))
    assert unknown.value.code == "profile_unknown"
    with pytest.raises(Refused) as missing:
        bench.start("", SqlQueryArgs(sql="select 1"))
    assert missing.value.code == "connection_needed"
