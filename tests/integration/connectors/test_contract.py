"""The contract of connectors holds for those of databases."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker_agent.connectors.contract import Action, ConnectorContract
from broker_agent.connectors.sql import postgresql, sqlite
from schemas.messages.actions.sql import SqlQueryArgs
from tests.postgres import PASSWORD, PostgresServer, postgres_server

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("postgres")]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


class OfSql(ConnectorContract):
    """Actions that all databases have."""

    def reading(self) -> Action:
        return "sql.query", SqlQueryArgs(sql="select 1 as a")


class TestSqlite(OfSql):
    connector = sqlite.CONNECTOR

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "contract.sqlite"
        with closing(sqlite3.connect(self.path)) as database:
            database.execute("create table t (a)")

    def settings(self) -> Mapping[str, Any]:
        return {"file": str(self.path)}

    def unreachable(self) -> Mapping[str, Any]:
        return {"file": str(self.path.with_name("nowhere"))}

    def endless(self) -> Action:
        counted = "with recursive c(x) as (select 1 union all select x + 1 from c)"
        return "sql.query", SqlQueryArgs(sql=f"{counted} select count(*) as n from c")

    def large(self) -> Action:
        counted = "with recursive c(x) as (select 1 union all select x + 1 from c limit 110000)"
        sql = f"{counted} select x, hex(zeroblob(500)) as t from c"
        return "sql.query", SqlQueryArgs(sql=sql)


class TestPostgresql(OfSql):
    connector = postgresql.CONNECTOR

    @pytest.fixture(autouse=True)
    def _running(self, server: PostgresServer) -> None:
        self.running = server

    def settings(self) -> Mapping[str, Any]:
        return self.running.profile(tls="verify-full", ca=self.running.ca)

    def secrets(self) -> Mapping[str, str]:
        return {"password": PASSWORD}

    def wrong_secrets(self) -> Mapping[str, str]:
        return {"password": "canary-of-the-contract"}

    def unreachable(self) -> Mapping[str, Any]:
        return self.running.profile(port=1)

    def endless(self) -> Action:
        return "sql.query", SqlQueryArgs(sql="select pg_sleep(1000)")

    def large(self) -> Action:
        sql = "select g as x, repeat('x', 1000) as t from generate_series(1, 110000) g"
        return "sql.query", SqlQueryArgs(sql=sql)
