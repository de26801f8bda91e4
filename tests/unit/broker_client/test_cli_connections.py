"""Connections on a terminal: arguments of actions, tables at 80 and 120 columns, ends of calls."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker_client.cli.connection.arguments import act_of
from broker_client.cli.connection.columns import (
    CONNECTIONS,
    described,
    members_table,
    trials_table,
)
from broker_client.cli.connection.do import call_code, conclude
from broker_client.cli.options import Common
from broker_client.cli.screen.tables import Table, cells_of
from broker_client.connections import fault_of_call
from schemas.faults import MeshError, Refused
from schemas.messages.api import (
    ConnectionMember,
    ConnectionRecord,
    ConnectionTestAnswer,
    ConnectionTested,
)
from schemas.messages.facts import AttemptRecord, CommandRecord

LONG = "profile erp-db has a problem on db-2: /etc/mesh/profiles.d/erp-db.toml:7: no such field"
SINCE = "2025-11-21T20:00:00.000Z"


def connection(**fields: Any) -> ConnectionRecord:  # noqa: ANN401  of ConnectionRecord
    made = {
        "connection": "erp-db",
        "kind": "postgresql",
        "group": "database-hosts",
        "status": "inactive",
        "reason": LONG,
        "since": SINCE,
        "next": "correct it on db-2: broker-agent profile check erp-db",
        "agents": 12,
        "usable": 2,
        "badges": ["profile drift: 2 hashes"],
    }
    return ConnectionRecord(**{**made, **fields})


def ended(state: str = "succeeded", **fields: Any) -> CommandRecord:  # noqa: ANN401  of AttemptRecord and CommandRecord
    attempt = {name: fields.pop(name) for name in ("code", "effect") if name in fields}
    made = {
        "id": "c1",
        "group": "db",
        "agent": None,
        "action": "sql.execute",
        "state": state,
        "attempts": [AttemptRecord(attempt=1, agent="db-1", state=state, **attempt)],
        "submitted_at": SINCE,
        "client": "ops",
        "connection": "erp-db",
    }
    return CommandRecord(**{**made, **fields})


def check(table: Table, width: int) -> str:
    assert max(map(cells_of, table.lines)) <= width, table.lines
    return "\n".join(table.lines)


# arguments


def test_texts_become_what_the_arguments_of_the_action_take() -> None:
    texts = ["sql=select :n", "max_rows=10", "params.n=5", "params.m:=5", "format=csv"]
    act = act_of("sql.query", texts, None, None)
    assert act.args == {
        "sql": "select :n",
        "max_rows": 10,
        "params": {"n": "5", "m": 5},
        "format": "csv",
    }
    act = act_of("http.request", ["path=/v1", "expect=[200,404]", 'json:={"a": [1]}'], None, None)
    assert act.args == {"path": "/v1", "expect": [200, 404], "json": {"a": [1]}}
    act = act_of("file.write", ["path=a", "body=hi"], None, None)
    assert act.args == {"path": "a", "body": b"hi"}
    assert act_of("plug.act", ["n=5", "m:=5"], None, None).args == {"n": "5", "m": 5}


def test_arguments_and_bodies_come_from_files(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"\x00\xff")
    file = tmp_path / "args.toml"
    file.write_text('path = "a"\nexists = "replace"\n')
    act = act_of("file.write", ["path=b"], str(file), str(body))
    assert act.args == {"path": "b", "exists": "replace", "body": b"\x00\xff"}
    other = tmp_path / "args.json"
    other.write_text(json.dumps({"script": "copy", "params": {"day": "x"}}))
    act = act_of("script.run", None, str(other), str(body))
    assert act.args == {"script": "copy", "params": {"day": "x"}, "stdin": b"\x00\xff"}


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        (["sql"], "field_invalid"),
        (["=x"], "field_invalid"),
        (["params..n=x"], "field_invalid"),
        (["sql=select 1", "sql.x=1"], "field_invalid"),
        (["sql=select 1", "params.n:={"], "field_invalid"),
        (["sql=select 1", "max_rows=many"], "field_invalid"),
        (["sq=select 1"], "argument_unknown"),
        ([], "field_invalid"),
        (["sql=select 1", "params.n:=[1]"], "field_invalid"),
    ],
)
def test_bad_argument_is_refused_before_anything_is_sent(texts: list[str], code: str) -> None:
    with pytest.raises(Refused) as refused:
        act_of("sql.query", texts, None, None)
    assert refused.value.code == code


def test_missing_and_large_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="No such file"):
        act_of("file.write", ["path=a"], None, str(tmp_path / "none"))
    large = tmp_path / "large"
    large.write_bytes(bytes(1024 * 1024))
    with pytest.raises(Refused) as refused:
        act_of("file.write", ["path=a"], None, str(large))
    assert refused.value.code == "too_large"
    with pytest.raises(Refused, match="both read stdin"):
        act_of("file.write", None, "-", "-")


# tables


@pytest.mark.parametrize("width", [80, 120])
def test_list_fits_and_keeps_name_status_and_reason(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    records = [connection(), connection(connection="crm", status="active", reason="2 of 2 active")]
    shown = check(CONNECTIONS.table(records, now=0.0), width)
    for word in ("CONNECTION", "STATUS", "REASON", "erp-db", "inactive"):
        assert word in shown
    assert "profile drift" in " ".join(shown.split())


@pytest.mark.parametrize("width", [80, 120])
def test_hosts_fit_and_keep_what_is_wrong(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    members = [
        ConnectionMember(agent="db-1", status="active", state="ok", hash="9f3c21ab00112233"),
        ConnectionMember(agent="db-2", status="active", state="problem", problem=LONG),
    ]
    shown = check(members_table(connection(members=members)), width)
    assert "9f3c21ab" in shown
    assert "00112233" not in shown
    assert "erp-db.toml:7" in "".join(shown.split())


@pytest.mark.parametrize("width", [80, 120])
def test_test_shows_a_line_for_each_host_and_why_one_failed(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    steps = {"resolve": 0.4, "connect": 0.9, "tls": 3.0, "login": 5.0, "query": 12.0}
    answer = ConnectionTestAnswer(
        connection="erp-db",
        members=[
            ConnectionTested(agent="db-1", result="ok", steps=steps, server="PostgreSQL 15"),
            ConnectionTested(
                agent="db-2",
                result="failed",
                steps={"resolve": 0.4, "connect": 1.0},
                code="login_refused",
                reason="password refused for user mesh",
            ),
        ],
    )
    shown = check(trials_table(answer), width)
    assert "login_refused" in shown
    assert ("PostgreSQL" in shown) or width == 80
    if width == 120:
        assert "12 ms" in shown
        assert "0.4 ms" in shown
    plain = trials_table(msgspec.structs.replace(answer, members=answer.members[1:]))
    assert "TLS" not in plain.lines[0], "a step that no host has is left out"


def test_connection_is_described_with_reason_and_next_step() -> None:
    lines = "\n".join(described(connection(timeout_s=60.0, created_at=SINCE, created_by="ops")))
    assert LONG in lines
    assert "correct it on db-2" in lines
    assert "no limit" in lines


# ends of calls


def test_result_is_printed_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    record = ended(result={"affected": 3, "skipped": False, "columns": ["a", "b"]})
    assert conclude(record, Common()) == 0
    assert capsys.readouterr().out.splitlines() == [
        "affected  3",
        "skipped   no",
        "columns   a b",
    ]


def test_result_beside_output_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    record = ended(action="sql.query", result={"rows": 3})
    assert conclude(record, Common()) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "mesh: rows 3\n")


def test_fault_of_a_call_has_code_effect_and_advice(capsys: pytest.CaptureFixture[str]) -> None:
    record = ended("failed", code="login_refused", effect="none", reason="password refused")
    assert conclude(record, Common()) == 77
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("password refused; effect: none (login_refused)")
    assert "mesh connection test erp-db" in second


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (ended(), 0),
        (ended("failed", code="target_unreachable"), 7),
        (ended("failed", code="of_tomorrow"), 1),
        (ended("timed_out", code="target_timeout"), 124),
        (ended("rejected", reason="profile_unknown: no profile erp-db"), 6),
        (ended("lost"), 120),
    ],
)
def test_exit_code_is_that_of_the_fault_or_of_the_verdict(record: CommandRecord, code: int) -> None:
    assert call_code(record) == code


@pytest.mark.parametrize(
    ("record", "code", "effect"),
    [
        (ended("failed", code="target_lost", effect="unknown"), "target_lost", "unknown"),
        (ended("failed", code="statement_refused", effect="none"), "statement_refused", "none"),
        (ended("timed_out", effect="unknown"), "target_timeout", "unknown"),
        (ended("rejected", reason="profile_problem: line 3"), "profile_problem", "none"),
        (ended("expired", reason="no agent took it"), "group_inactive", "none"),
        (ended("lost"), "internal", "unknown"),
    ],
)
def test_fault_in_a_program_has_code_and_effect(
    record: CommandRecord, code: str, effect: str
) -> None:
    fault = fault_of_call(record)
    assert isinstance(fault, MeshError)
    assert (fault.code, fault.effect) == (code, effect)
