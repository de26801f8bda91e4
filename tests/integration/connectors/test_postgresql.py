"""The kind `postgresql`, against a real server, by worker processes."""

import asyncio
import csv
import hashlib
import io
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from schemas.messages.actions.sql import Scalar, SqlExecuteArgs, SqlQueryArgs
from schemas.states import State
from tests.calls import STOPS, CallBench, stop_by
from tests.connectors import proxied
from tests.postgres import PASSWORD, PostgresServer, postgres_server
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("postgres")]
SLEEP: Final = "select pg_sleep(600)"
# Types of the server: an expression, and its value in JSON.
TYPES: Final[list[tuple[str, Any]]] = [
    ("true", True),
    ("1::int2", 1),
    ("-2147483648", -(2**31)),
    ("9223372036854775807::int8", 2**63 - 1),
    ("1.50::numeric", "1.50"),
    ("0.0000001::numeric", "0.0000001"),
    ("'NaN'::numeric", "NaN"),
    ("12345678901234567890.123456789::numeric(40,9)", "12345678901234567890.123456789"),
    ("1.5::float4", 1.5),
    ("1e300::float8", 1e300),
    ("'-Infinity'::float8", "-Infinity"),
    ("'NaN'::float8", "NaN"),
    ("12.34::money", "$12.34"),
    ("'ünï \U0001f600'::text", "ünï \U0001f600"),
    ("''::text", ""),
    ("E'a\\n\"b\",c'::varchar", 'a\n"b",c'),
    ("'ab'::char(4)", "ab  "),
    ("'x'::\"char\"", "x"),
    ("'name'::name", "name"),
    ("'\\x00ff'::bytea", "AP8="),
    ("'2024-02-29'::date", "2024-02-29"),
    ("'infinity'::date", "infinity"),
    ("'0044-03-15 BC'::date", "0044-03-15 BC"),
    ("'01:02:03.5'::time", "01:02:03.5"),
    ("'01:02:03+02'::timetz", "01:02:03+02:00"),
    ("'2024-02-29 01:02:03.000004'::timestamp", "2024-02-29T01:02:03.000004"),
    ("'2024-02-29 01:02:03+00'::timestamptz", "2024-02-29T01:02:03Z"),
    ("'-infinity'::timestamptz", "-infinity"),
    ("'1 year 2 mons 3 days 04:05:06'::interval", "1 year 2 mons 3 days 04:05:06"),
    ("'7f2a6f4e-0000-4000-8000-000000000001'::uuid", "7f2a6f4e-0000-4000-8000-000000000001"),
    ("'{\"a\": [1, 2.50, null]}'::jsonb", {"a": [1, 2.5, None]}),
    ("E'{\\n \"b\": 1}'::json", {"b": 1}),
    ("'<a>1</a>'::xml", "<a>1</a>"),
    ("'10.0.0.1/8'::inet", "10.0.0.1/8"),
    ("'10.0.0.0/8'::cidr", "10.0.0.0/8"),
    ("'08:00:2b:01:02:03'::macaddr", "08:00:2b:01:02:03"),
    ("B'1010'::bit(4)", "1010"),
    ("point(1, 2)", "(1,2)"),
    ("box(point(0,0), point(1,1))", "(1,1),(0,0)"),
    ("int4range(1, 5)", "[1,5)"),
    ("tstzrange('2024-01-01+00', null)", '["2024-01-01 00:00:00+00",)'),
    ("to_tsvector('simple', 'a b')", "'a':1 'b':2"),
    ("array[1, 2, null]", [1, 2, None]),
    ("array[array['a', 'b,c'], array['', 'd']]", [["a", "b,c"], ["", "d"]]),
    ("array[1.10::numeric]", ["1.10"]),
    ("row(1, 'a')", "(1,a)"),
    ("'pg_class'::regclass", "pg_class"),
    ("null::int", None),
    ("null::text", None),
]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


@pytest.fixture
async def bench(tmp_path: Path, server: PostgresServer) -> AsyncIterator[CallBench]:
    made = CallBench(tmp_path / "tasks", grace_s=2.0)
    made.put("shop", "postgresql", **server.profile())
    made.put("desk", "postgresql", **server.profile(access="write"))
    yield made
    made.close()


def is_asleep(server: PostgresServer) -> bool:
    """Whether a statement of `SLEEP` still runs at the server."""
    sql = "select count(*) from pg_stat_activity where state = 'active' and usename = 'mesh'"
    return server.text(f"{sql} and query like '%pg_sleep(600)%'") != "0"


async def test_connections_f01_types_are_those_of_psql(
    bench: CallBench, server: PostgresServer
) -> None:
    columns = ", ".join(f"{text} as c{number}" for number, (text, _) in enumerate(TYPES))
    sql = f"select {columns}"
    table = await bench.call("shop", SqlQueryArgs(sql=sql, format="csv"))
    assert table.out == server.psql(f"copy ({sql}) to stdout with (format csv, header)")
    lines = await bench.query("shop", sql)
    assert lines.rows == [{f"c{number}": value for number, (_, value) in enumerate(TYPES)}]
    assert lines.result["first"] == lines.rows[0]
    assert table.result["columns"] == lines.result["columns"] == list(lines.rows[0])
    (fields,) = list(csv.DictReader(io.StringIO(table.out.decode(), newline="")))
    assert {name: text or "" for name, text in table.result["first"].items()} == fields


async def test_connections_f01_million_rows_are_those_of_psql(
    bench: CallBench, server: PostgresServer
) -> None:
    sql = (
        "select g as id, case when g % 7 = 0 then null else 'a \"b\", ' || g end as t"
        " from generate_series(1, 1000000) g"
    )
    table = await bench.call("shop", SqlQueryArgs(sql=sql, format="csv"))
    assert table.ending.state is State.SUCCEEDED
    wanted = server.psql(f"copy ({sql}) to stdout with (format csv, header)")
    assert hashlib.sha256(table.out).digest() == hashlib.sha256(wanted).digest()
    assert (table.result["rows"], table.result["bytes"]) == (1_000_000, len(table.out))
    lines = await bench.query("shop", sql)
    assert lines.out.count(b"\n") == lines.result["rows"] == 1_000_000
    assert lines.out.endswith(b'{"id":1000000,"t":"a \\"b\\", 1000000"}\n')


async def test_connections_f02_hostile_values_come_back_unchanged(
    bench: CallBench, server: PostgresServer
) -> None:
    server.psql(
        "drop table if exists canary; create table canary (x int); insert into canary values (1)"
    )
    server.psql("grant all on canary to mesh")
    pieces = [
        "'",
        "''",
        '"',
        "\\",
        "\\'",
        ";",
        "--",
        "/*",
        "*/",
        "$$",
        "$a$",
        "%s",
        "%(x)s",
        ":x",
        "$1",
    ]
    pieces += [
        "\n",
        "\r",
        "\t",
        "\x1a",
        "\x08",
        "\u2019",
        "\xbf'",
        "drop table canary",
        " or 1=1 ",
        "{}",
    ]
    chance = random.Random(7)
    values = ["".join(chance.choices(pieces, k=chance.randint(1, 6))) for _ in range(500)]
    for start in range(0, 500, 50):
        part: dict[str, Scalar] = {
            f"v{number}": value for number, value in enumerate(values[start : start + 50])
        }
        sql = "select " + ", ".join(f":{name} as {name}" for name in part)
        lines = await bench.call("desk", SqlQueryArgs(sql=sql, params=part))
        assert lines.rows == [part]
        table = await bench.call("desk", SqlQueryArgs(sql=sql, params=part, format="csv"))
        assert list(csv.DictReader(io.StringIO(table.out.decode(), newline=""))) == [part]
    written: list[dict[str, Scalar]] = [{"v": value} for value in values]
    server.psql("drop table if exists kept; create table kept (v text); grant all on kept to mesh")
    await bench.call("desk", SqlExecuteArgs(sql="insert into kept values (:v)", many=written))
    assert (await bench.query("desk", "select v from kept")).rows == written
    assert server.text("select sum(x) from canary") == "1"


@pytest.mark.parametrize("name", ["a b", "a'", "a;b", "", "ä", "a" * 64, "1a", "a\n"])
async def test_connections_f02_hostile_names_are_refused(bench: CallBench, name: str) -> None:
    called = await bench.call("shop", SqlQueryArgs(sql=f"select :{name}", params={name: 1}))
    assert called.ending.effect == "none"
    assert called.ending.code in {"field_invalid", "statement_refused", "parameter_invalid"}


@pytest.mark.parametrize(
    ("action", "sql", "code"),
    [
        ("query", "select 1) to stdout; drop table x; copy (select 1", "statement_refused"),
        ("query", "select 1) to program 'id' --", "target_refused"),
        ("query", "with x as (insert into t values (1) returning *) select * from x", ""),
        ("query", "delete from t", "statement_refused"),
        ("query", "select pg_sleep(0); select 1", "statement_refused"),
        ("query", "select 1 as a, 2 as a", "statement_refused"),
        ("query", "select * from nowhere", "target_refused"),
        ("execute", "commit", "statement_refused"),
        ("execute", "copy t from program 'id'", "statement_refused"),
        ("execute", "set role postgres", "statement_refused"),
        ("execute", "do $$ begin commit; end $$", "target_refused"),
    ],
)
async def test_connections_f02_refused_statements(
    bench: CallBench, server: PostgresServer, action: str, sql: str, code: str
) -> None:
    server.psql("create table if not exists t (a int); grant all on t to mesh")
    for form in ("jsonl", "csv") if action == "query" and " as a" not in sql else ("jsonl",):
        args = SqlQueryArgs(sql=sql, format=form) if action == "query" else SqlExecuteArgs(sql=sql)
        called = await bench.call("desk", args)
        assert called.ending.state is State.FAILED
        assert called.ending.effect == "none"
        assert called.ending.code == (code or "statement_refused")
    assert server.text("select count(*) from t") == "0"


async def test_statement_leaves_nothing_to_the_next_call(bench: CallBench) -> None:
    await bench.query("desk", "select set_config('search_path', 'nowhere', false)")
    await bench.execute("desk", "create temp table sale (a int)")
    await bench.query("desk", "select pg_advisory_lock(7)")
    assert len(bench.pids) == 1
    path = await bench.query("desk", "select current_setting('search_path') as p")
    assert path.rows == [{"p": '"$user", public'}]
    found = "select to_regclass('pg_temp.sale') as t, count(l.*) as locks from pg_locks l"
    left = await bench.query("desk", f"{found} where locktype = 'advisory'")
    assert left.rows == [{"t": None, "locks": 0}]


async def test_connections_f07_row_is_written_once_though_the_worker_dies_in_the_commit(
    bench: CallBench, server: PostgresServer
) -> None:
    server.psql("drop table if exists due; create table due (a int); grant all on due to mesh")
    server.psql(
        "create or replace function slow() returns trigger language plpgsql as"
        " $$ begin perform pg_sleep(1); return null; end $$"
    )
    server.psql(
        "create constraint trigger slow after insert on due deferrable initially deferred"
        " for each row execute function slow()"
    )
    await bench.execute("desk", "create table if not exists mesh_once (key text primary key)")
    args = SqlExecuteArgs(sql="insert into due values (1)", once=True)
    under = bench.start("desk", args, key="job_s1")
    sql = "select count(*) from pg_stat_activity where query = 'commit' and state = 'active'"
    await eventually(lambda: server.text(sql) == "1")
    os.kill(under.task.pid, signal.SIGKILL)
    lost = await under.end()
    assert (lost.ending.code, lost.ending.effect) == ("worker_lost", "unknown")
    await eventually(lambda: server.text(sql) == "0")
    was_written = server.text("select count(*) from due") == "1"
    again = await bench.call("desk", args, key="job_s1")
    assert again.result["skipped"] is was_written
    assert server.text("select count(*) from due") == "1"


@pytest.mark.parametrize("end", STOPS)
async def test_connections_f09_statement_ends_here_and_at_the_server(
    bench: CallBench, server: PostgresServer, end: str
) -> None:
    timeout_s = 3.0 if end == "time-out" else 600.0
    under = bench.start("shop", SqlQueryArgs(sql=SLEEP), timeout_s=timeout_s)
    if end != "time-out":
        await eventually(lambda: is_asleep(server))
    state = stop_by(under.task, end)
    pid = under.task.pid
    called = await under.end()
    assert (called.ending.state, called.ending.effect) == (state, "none")
    await eventually(lambda: not is_asleep(server))
    await eventually(lambda: pid not in bench.pids)


@pytest.mark.parametrize("action", ["query", "execute"])
async def test_connections_f10_dropped_link_is_a_timeout(
    bench: CallBench, server: PostgresServer, action: str
) -> None:
    with proxied(server.port) as (port, freeze):
        bench.put("far", "postgresql", **server.profile(port=port, access="write"))
        assert (await bench.query("far", "select 1")).ending.state is State.SUCCEEDED
        args = SqlQueryArgs(sql=SLEEP) if action == "query" else SqlExecuteArgs(sql=SLEEP)
        under = bench.start("far", args, timeout_s=3.0)
        await eventually(lambda: is_asleep(server))
        await asyncio.to_thread(freeze)
        called = await under.end()
        assert (called.ending.state, called.ending.code) == (State.TIMED_OUT, "target_timeout")
        assert called.ending.effect == ("none" if action == "query" else "unknown")
    await eventually(lambda: not is_asleep(server))


async def test_session_that_the_server_closed_is_replaced(
    bench: CallBench, server: PostgresServer
) -> None:
    await bench.query("shop", "select 1")
    server.psql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'mesh'")
    called = await bench.query("shop", "select 1 as a")
    assert called.rows == [{"a": 1}]
    assert len(bench.pids) == 1


async def test_connections_f11_memory_of_a_large_result_is_bounded(bench: CallBench) -> None:
    sql = "select g as id, repeat('x', 1000) as t from generate_series(1, 70000) g"
    args = SqlQueryArgs(sql=sql)
    for each in (args, SqlQueryArgs(sql=sql, format="csv")):
        called = await bench.call("shop", each)
        assert called.result["bytes"] == len(called.out) > 64 * 1024 * 1024
    (pid,) = bench.pids
    status = Path(f"/proc/{pid}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 64 * 1024
    over = await bench.call("shop", args, output_bytes=1024 * 1024)
    assert (over.ending.code, len(over.out) <= 1024 * 1024) == ("result_too_large", True)


async def test_login_faults_have_their_codes_and_no_secret(
    bench: CallBench, server: PostgresServer
) -> None:
    wrong: dict[str, tuple[str, dict[str, Any]]] = {
        "password": ("login_refused", {"password": {"plain": f"{PASSWORD}-wrong"}}),
        "database": ("login_refused", {"database": "nowhere"}),
        "tls": ("tls_failed", {"tls": "verify-full"}),
        "port": ("target_unreachable", {"port": 1}),
        "host": ("target_unreachable", {"host": "nowhere.invalid"}),
        "secret": ("secret_unreadable", {"password": {"file": "/nowhere/password"}}),
    }
    for name, (code, settings) in wrong.items():
        bench.put(name, "postgresql", **server.profile(**settings))
        called = await bench.query(name, "select 1")
        assert (called.ending.code, called.ending.effect) == (code, "none"), called.ending.reason
        assert PASSWORD not in called.ending.reason
    bench.put("safe", "postgresql", **server.profile(tls="verify-full", ca=server.ca))
    assert (await bench.query("safe", "select 1")).ending.state is State.SUCCEEDED
