"""The kind `mysql`, against MariaDB."""

import csv
import io
import json
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker_agent.connectors.api import Call, CallFailed
from broker_agent.connectors.sql.mysql import CONNECTOR, MysqlProfile
from broker_agent.connectors.sql.mysql_session import MysqlSession
from schemas.messages.actions.sql import Parameters, SqlExecuteArgs, SqlQueryArgs
from tests.calls import STOPS, CallBench, stop_by
from tests.connectors import Buffer, a_call, failing, proxied, run
from tests.mariadb import PASSWORD, MariaDb, mariadb
from tests.requirements_policy import require
from tests.waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mariadb")]

SECRETS = {"password": PASSWORD}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    with mariadb(tmp_path_factory.mktemp("mariadb")) as running:
        running.root(
            "create table shop.canary (id int primary key, note text) engine=innodb",
            "insert into shop.canary values (1, 'sings')",
        )
        yield running


def profile(server: MariaDb, **others: Any) -> MysqlProfile:  # noqa: ANN401
    return msgspec.convert(server.settings(access="write", **others), MysqlProfile)


def opened(server: MariaDb, **others: Any) -> MysqlSession:  # noqa: ANN401
    return CONNECTOR.open(profile(server, **others), SECRETS)


@pytest.fixture
def its(server: MariaDb) -> Iterator[MysqlSession]:
    session = opened(server)
    yield session
    session.close()


def rows(its: MysqlSession, sql: str, params: Parameters | None = None) -> list[dict[str, Any]]:
    _, data = run(its, "sql.query", SqlQueryArgs(sql=sql, params=params or {}))
    its.tidy()
    return [json.loads(line) for line in data.splitlines()]


def change(its: MysqlSession, sql: str, **fields: Any) -> Any:  # noqa: ANN401
    result, _ = run(its, "sql.execute", SqlExecuteArgs(sql=sql, **fields))
    its.tidy()
    return result


TYPES = (
    ("tinyint", "-128"), ("tinyint unsigned", "255"), ("smallint", "-32768"), ("mediumint", "1"),
    ("int", "2147483647"), ("int unsigned", "4294967295"), ("bigint", "-9223372036854775808"),
    ("bigint unsigned", "18446744073709551615"),
    ("decimal(30,10)", "12345678901234567890.0123456789"),
    ("float", "1.5"), ("double", "1e300"), ("bool", "1"), ("date", "'2026-11-28'"),
    ("datetime", "'2026-11-28 12:13:14'"), ("datetime(6)", "'2026-11-28 12:13:14.123456'"),
    ("timestamp", "'2026-11-28 12:13:14'"), ("timestamp(3)", "'2026-11-28 12:13:14.123'"),
    ("time", "'-838:59:59'"), ("time(6)", "'12:13:14.000001'"), ("year", "2026"),
    ("char(10)", "'abc'"), ("varchar(200)", "'ümläut, 漢字, 😀'"), ("tinytext", "'t'"),
    ("text", "'two\\nlines'"), ("mediumtext", "'quote \"x\"'"), ("longtext", "'comma, comma'"),
    ("enum('a','b')", "'b'"), ("set('a','b','c')", "'a,c'"), ("json", "'{\"a\": 1}'"),
    ("uuid", "'123e4567-e89b-12d3-a456-426655440000'"), ("inet6", "'::1'"), ("inet4", "'10.0.0.1'"),
    ("varchar(10)", "''"), ("varchar(10)", "null"), ("int", "null"), ("datetime", "null"),
    ("varchar(20)", "' spaces '"), ("varchar(20)", "'\\\\backslash'"), ("varchar(20)", "'NULL'"),
    ("varchar(20) charset latin1", "'ÄÖ'"),
)  # fmt: skip


def test_connections_f01_types_are_those_of_the_servers_own_client(
    server: MariaDb, its: MysqlSession
) -> None:
    columns = ", ".join(f"c{n} {kind}" for n, (kind, _) in enumerate(TYPES))
    values = ", ".join(value for _, value in TYPES)
    server.root(
        "drop table if exists shop.types", f"create table shop.types ({columns})",
        "set time_zone = '+00:00'",
    )  # fmt: skip
    own = [
        require("mariadb", "apt install mariadb-client"), "--no-defaults", "--user=root",
        f"--socket={server.socket}", "--default-character-set=utf8mb4", "--batch", "--raw", "shop",
    ]  # fmt: skip
    insert = f"set time_zone='+00:00'; insert into types values ({values})"
    subprocess.run([*own, "--execute", insert], check=True)
    _, data = run(its, "sql.query", SqlQueryArgs(sql="select * from types", format="csv"))
    names, mine = list(csv.reader(io.StringIO(data.decode(), newline="")))
    assert names == [f"c{n}" for n in range(len(TYPES))]
    for n, (kind, value) in enumerate(TYPES):
        asked = f"set time_zone='+00:00'; select ifnull(c{n}, '<null>') from types"
        said = subprocess.run(
            [*own, "--skip-column-names", "--execute", asked], check=True, capture_output=True
        ).stdout.decode()
        expected = said.removesuffix("\n")
        assert mine[n] == ("" if value == "null" else expected), (kind, value)
    # NULL and the empty text differ in the bytes.
    empty = next(n for n, each in enumerate(TYPES) if each[1] == "''")
    assert data.split(b"\n", 1)[1].count(b',"",') >= 1
    assert mine[empty] == ""


def test_connections_f01_json_lines_have_the_types_of_json(its: MysqlSession) -> None:
    sql = (
        "select 1 as i, 1.50 as d, cast(1.5 as double) as f, null as n, 'x' as t,"
        " timestamp '2026-11-28 12:13:14' as at, cast('2026-11-28' as date) as day, x'00ff' as b,"
        " time '25:00:01' as span"
    )
    (row,) = rows(its, sql)
    assert row == {
        "i": 1, "d": "1.50", "f": 1.5, "n": None, "t": "x", "at": "2026-11-28T12:13:14",
        "day": "2026-11-28", "b": "AP8=", "span": "25:00:01",
    }  # fmt: skip


def test_connections_f01_many_rows_come_in_bounded_memory(its: MysqlSession) -> None:
    sql = "select seq, repeat('x', 80) as pad from seq_1_to_200000"
    result, data = run(its, "sql.query", SqlQueryArgs(sql=sql, format="csv"))
    lines = data.splitlines()
    assert result["rows"] == 200_000
    assert len(lines) == 200_001
    assert lines[-1].startswith(b"200000,")


HOSTILE = [
    "'", '"', "\\", "\\'", "'' or 1=1 --", "'; drop table canary; --", "%s", "%(x)s", "%", "%%",
    ":a",
    "`", "/*", "*/", "#", "-- ", "\n", "\r\n", "\x1a", "\x00x", "ü", "😀", "\\\\'", "\ufeff", "漢",
    "' union select 1 --", "\xbf'", "\u2019", "0x27", "null", "true", "'='", "\t", "\b", "\\0",
    "\\Z",
]  # fmt: skip


@pytest.mark.parametrize("mode", ["", "ANSI_QUOTES", "NO_BACKSLASH_ESCAPES"])
def test_connections_f02_hostile_values_come_back_identical(server: MariaDb, mode: str) -> None:
    before = server.root("select @@global.sql_mode")[0][0]
    server.root(f"set global sql_mode = '{mode}'")
    try:
        its = opened(server)
        for one in HOSTILE:
            for value in (one, one * 3, f"a{one}b", f"{one}'", f"\\{one}"):
                assert rows(its, "select :v as v, '%' as p", {"v": value}) == [
                    {"v": value, "p": "%"}
                ]
        its.close()
    finally:
        server.root(f"set global sql_mode = '{before}'")
    assert server.root("select * from shop.canary") == [(1, "sings")]


@pytest.mark.parametrize(
    "sql",
    [
        "select 1; drop table canary", "select 1;", "select 1 /*! ; drop table canary */",
        "drop table canary", "insert into canary values (2, 'x')", "set @a = 1",
        "load data infile 'x'",
        "call p()", "select '", "select 1 -- \n; select 2",
    ],
)  # fmt: skip
def test_connections_f02_query_that_is_none_is_refused(
    server: MariaDb, its: MysqlSession, sql: str
) -> None:
    with failing("statement_refused", "none"):
        run(its, "sql.query", SqlQueryArgs(sql=sql))
    assert server.root("select * from shop.canary") == [(1, "sings")]


def test_reading_transaction_stops_a_function_that_writes(
    server: MariaDb, its: MysqlSession
) -> None:
    server.root(
        "drop function if exists shop.sly",
        "create function shop.sly() returns int modifies sql data"
        " begin insert into shop.canary values (9, 'x'); return 1; end",
    )
    with failing("target_refused", "none"):
        run(its, "sql.query", SqlQueryArgs(sql="select sly()"))
    assert server.root("select * from shop.canary") == [(1, "sings")]


def test_changes_are_whole_or_none(server: MariaDb, its: MysqlSession) -> None:
    server.root("drop table if exists shop.t", "create table shop.t (id int primary key)")
    insert = "insert into t values (:id)"
    assert change(its, insert, many=[{"id": n} for n in range(5)])["affected"] == 5
    with failing("target_refused", "none"):
        change(its, insert, many=[{"id": 10}, {"id": 11}, {"id": 3}])
    assert server.root("select count(*) from shop.t") == [(5,)]
    returned = change(its, "insert into t values (:id) returning id", params={"id": 20})
    assert returned["returned"] == [{"id": 20}]


def test_connections_f07_once_changes_once(server: MariaDb, its: MysqlSession) -> None:
    server.root("drop table if exists shop.o", "create table shop.o (n int)")
    args = SqlExecuteArgs(sql="insert into o values (1)", once=True)
    first, _ = run(its, "sql.execute", args, call=a_call(id_="job_s1"))
    again, _ = run(its, "sql.execute", args, call=a_call(id_="job_s1"))
    other, _ = run(its, "sql.execute", args, call=a_call(id_="job_s2"))
    assert (first["skipped"], again["skipped"], other["skipped"]) == (False, True, False)
    assert server.root("select count(*) from shop.o") == [(2,)]


def test_user_without_the_right_to_create_uses_the_table_of_keys_that_is_there(
    server: MariaDb,
) -> None:
    server.root(
        "drop table if exists shop.o, shop.mesh_once",
        "create table shop.o (n int)",
        "create table shop.mesh_once (`key` varchar(64) character set ascii primary key,"
        " at timestamp default current_timestamp)",
        f"create or replace user narrow@'%' identified by '{PASSWORD}'",
        f"create or replace user narrow@localhost identified by '{PASSWORD}'",
        *(
            f"grant insert on shop.{table} to narrow@{host}"
            for table in ("o", "mesh_once")
            for host in ("'%'", "localhost")
        ),
    )
    narrow = opened(server, user="narrow")
    args = SqlExecuteArgs(sql="insert into o values (1)", once=True)
    for is_again in (False, True):
        done, _ = run(narrow, "sql.execute", args, call=a_call(id_="narrow"))
        assert done["skipped"] is is_again
    narrow.close()


def test_sec_s43_key_of_another_client_that_differs_in_case_suppresses_nothing(
    server: MariaDb, its: MysqlSession
) -> None:
    """Ids of commands differ by case, so keys do as well."""
    server.root("drop table if exists shop.k, shop.mesh_once", "create table shop.k (n int)")
    args = SqlExecuteArgs(sql="insert into k values (1)", once=True)
    for key in ("nightly-a", "Nightly-A", "NIGHTLY-A"):
        result, _ = run(its, "sql.execute", args, call=a_call(id_=key))
        assert not result["skipped"]
    assert server.root("select count(*) from shop.k") == [(3,)]


def test_session_of_a_call_leaves_nothing_to_the_next(its: MysqlSession) -> None:
    rows(its, "select @secret := 42 as s")
    assert rows(its, "select @secret as s") == [{"s": None}]
    change(its, "create temporary table private (n int)")
    with failing("target_refused"):
        run(its, "sql.query", SqlQueryArgs(sql="select * from private"))


SLOW = "select count(*) from seq_1_to_100000 a, seq_1_to_100000 b, seq_1_to_1000 c"


def running(server: MariaDb) -> int:
    found = server.root(
        "select count(*) from information_schema.processlist where user = 'mesh' and info like"
        " '%seq_1_to_100000%'"
    )
    return int(found[0][0])


def gone(server: MariaDb) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while running(server):
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def test_connections_f09_deadline_ends_the_statement_at_the_server(
    server: MariaDb, its: MysqlSession
) -> None:
    with failing("target_timeout", "none"):
        its.call("sql.query", SqlQueryArgs(sql=SLOW), Buffer(), a_call(0.5))
    gone(server)
    assert its.is_broken or rows(its, "select 1 as n") == [{"n": 1}]


def test_connections_f09_cancel_ends_the_statement_at_the_server(
    server: MariaDb, its: MysqlSession
) -> None:
    caught: list[CallFailed] = []

    def call() -> None:
        try:
            its.call("sql.query", SqlQueryArgs(sql=SLOW), Buffer(), a_call(PATIENCE_S))
        except CallFailed as fault:
            caught.append(fault)

    calling = threading.Thread(target=call)
    calling.start()
    while not running(server):
        time.sleep(0.01)
    its.cancel()
    calling.join(PATIENCE_S)
    assert caught
    assert its.is_broken
    gone(server)


def test_connections_f09_another_worker_ends_what_a_lost_one_left(server: MariaDb) -> None:
    """The process of the call is gone without a word: its statement would run to its end."""
    its = opened(server)
    number = its.server_id
    call = threading.Thread(target=lambda: _ignored(its))
    call.start()
    while not running(server):
        time.sleep(0.01)
    CONNECTOR.kill(profile(server), SECRETS, number)
    call.join(PATIENCE_S)
    gone(server)
    # A session that has its number by chance, but another address, is left alone.
    other = opened(server)
    CONNECTOR.kill(profile(server), SECRETS, f"{other.server_id.split()[0]} elsewhere:1")
    assert rows(other, "select 1 as n") == [{"n": 1}]
    other.close()


def _ignored(its: MysqlSession) -> None:
    try:
        its.call("sql.query", SqlQueryArgs(sql=SLOW), Buffer(), a_call(PATIENCE_S))
    except CallFailed:
        return


@pytest.fixture
async def bench(tmp_path: Path, server: MariaDb) -> AsyncIterator[CallBench]:
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    made = CallBench(tmp_path / "tasks", grace_s=2.0)
    settings = server.settings(password={"file": str(secret)}, access="write")
    made.put("shop", "mysql", **settings)
    yield made
    made.close()


@pytest.mark.parametrize("end", STOPS)
async def test_connections_f09_statement_ends_here_and_at_mariadb(
    bench: CallBench, server: MariaDb, end: str
) -> None:
    """The join would run for hours, and MariaDB does not notice a client that is gone."""
    timeout_s = 3.0 if end == "time-out" else 600.0
    under = bench.start("shop", SqlQueryArgs(sql=SLOW), timeout_s=timeout_s)
    if end != "time-out":
        await eventually(lambda: running(server))
    state = stop_by(under.task, end)
    pid = under.task.pid
    called = await under.end()
    assert (called.ending.state, called.ending.effect) == (state, "none")
    await eventually(lambda: not running(server))
    await eventually(lambda: pid not in bench.pids)


def test_connections_f10_line_that_freezes_ends_the_call_at_its_time(server: MariaDb) -> None:
    with proxied(server.port) as (port, freeze):
        its = opened(server, port=port)
        timer = threading.Timer(0.3, freeze)
        timer.start()
        with failing("target_timeout", "unknown"):
            run(its, "sql.query", SqlQueryArgs(sql="select sleep(5)"), call=a_call(1.0))
        assert its.is_broken
        its.close()
        timer.join()


def test_too_large_result_is_cut_off_without_reading_the_rest(its: MysqlSession) -> None:
    sql = "select repeat('x', 1000) as pad from seq_1_to_100000000"
    with failing("result_too_large"):
        its.call("sql.query", SqlQueryArgs(sql=sql), Buffer(100_000), a_call())
    assert its.is_broken


def test_wrong_password_database_certificate_and_port_have_no_effect(server: MariaDb) -> None:
    with failing("login_refused", "none"):
        CONNECTOR.open(profile(server), {"password": "wrong"})
    with failing("login_refused", "none"):
        opened(server, database="mysql")
    with failing("tls_failed", "none"):
        opened(server, ca=None)
    with failing("tls_failed", "none"):
        opened(server, host="127.0.0.1")
    with failing("target_unreachable", "none"):
        opened(server, port=1)
    opened(server, tls="require", ca=None, host="127.0.0.1").close()


def test_percent_signs_and_parameters_stand_side_by_side(its: MysqlSession) -> None:
    sql = "select :a as a, '100%' as p, 'x' like '%' as l, '%s' as s"
    assert rows(its, sql, {"a": "%d"}) == [{"a": "%d", "p": "100%", "l": 1, "s": "%s"}]
    assert rows(its, "select '100%' as p, '%s' as s") == [{"p": "100%", "s": "%s"}]
    with failing("parameter_invalid", "none"):
        run(its, "sql.query", SqlQueryArgs(sql="select :a", params={"b": 1}))


def test_deadline_that_has_passed_sends_nothing(its: MysqlSession) -> None:
    past = Call(id="c", key="c", deadline=time.monotonic() - 1)
    with failing("target_timeout", "none"):
        args = SqlExecuteArgs(sql="insert into canary values (7, 'x')")
        its.call("sql.execute", args, Buffer(), past)


def test_steps_of_a_test_are_told(its: MysqlSession) -> None:
    steps: list[str] = []
    assert its.test(steps.append).startswith("MariaDB 10")
    assert steps == ["login", "query"]
