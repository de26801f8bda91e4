"""The contract of connectors holds for services, files and MariaDB."""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from broker_agent.connectors import directory, http, script, sftp
from broker_agent.connectors.contract import Action, ConnectorContract
from broker_agent.connectors.frames import SCRIPT_SECRETS
from broker_agent.connectors.sql import mysql
from schemas.messages.actions import file
from schemas.messages.actions.http import HttpRequestArgs
from schemas.messages.actions.script import ScriptRunArgs
from schemas.messages.actions.sql import SqlQueryArgs
from tests.connectors import Handler, HttpService, serving
from tests.mariadb import PASSWORD, MariaDb, mariadb
from tests.sshd import SshServer, ssh_server
from tests.waiting import PATIENCE_S

# One server of each kind for all modules that need it.
pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mariadb")]

LARGE = 110 * 1000 * 1000


class Service(Handler):
    """Answers at once, never, at length, or with what it wants to know."""

    over = threading.Event()

    def answer(self, body: bytes) -> None:
        if self.headers.get("Authorization") != "Bearer t0ken-of-the-contract":
            self.reply(401)
        elif self.path == "/never":
            self.over.wait(PATIENCE_S)
            self.close_connection = True
        elif self.path == "/large":
            self.send_response(200)
            self.send_header("Content-Length", str(LARGE))
            self.end_headers()
            for _ in range(LARGE // 1_000_000):
                self.wfile.write(bytes(1_000_000))
        else:
            self.reply(200, b"{}", {"Content-Type": "application/json"})


class TestHttp(ConnectorContract):
    """A service is connected to by its first call: an absent one fails no open."""

    connector = http.CONNECTOR
    running: HttpService

    @pytest.fixture(autouse=True)
    def _service(self) -> Iterator[None]:
        Service.over.clear()
        with serving(Service) as self.running:
            yield
            Service.over.set()

    def settings(self) -> Mapping[str, Any]:
        return {
            "base_url": self.running.url,
            "networks": ["127.0.0.0/8"],
            "token": {"plain": "a reference"},
        }

    def secrets(self) -> Mapping[str, str]:
        return {"token": "t0ken-of-the-contract"}

    def reading(self) -> Action:
        return "http.request", HttpRequestArgs(path="/")

    def endless(self) -> Action:
        return "http.request", HttpRequestArgs(path="/never")

    def large(self) -> Action:
        return "http.request", HttpRequestArgs(path="/large")


class OfFiles(ConnectorContract):
    """Actions that all kinds of files have."""

    @pytest.fixture(autouse=True)
    def _base(self, tmp_path: Path) -> None:
        self.base = tmp_path / "base"
        self.base.mkdir()
        (self.base / "small").write_bytes(b"small")
        with (self.base / "large").open("wb") as large:
            large.truncate(LARGE)

    def reading(self) -> Action:
        return "file.read", file.FileReadArgs(path="small")

    def large(self) -> Action:
        return "file.read", file.FileReadArgs(path="large")


class TestDirectory(OfFiles):
    connector = directory.CONNECTOR

    def settings(self) -> Mapping[str, Any]:
        return {"base": str(self.base)}


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("sshd")) as running:
        yield running


class TestSftp(OfFiles):
    connector = sftp.CONNECTOR

    @pytest.fixture(autouse=True)
    def _server(self, sshd: SshServer) -> None:
        self.sshd = sshd

    def settings(self) -> Mapping[str, Any]:
        return {
            "host": "127.0.0.1",
            "port": self.sshd.port,
            "user": self.sshd.user,
            "password": {"plain": "a reference"},
            "key": {"plain": "a reference"},
            "host_key": self.sshd.host_key,
            "base": str(self.base),
        }

    def secrets(self) -> Mapping[str, str]:
        return {"key": self.sshd.key}

    def wrong_secrets(self) -> Mapping[str, str]:
        return {"password": "canary-of-the-contract"}

    def unreachable(self) -> Mapping[str, Any]:
        return {**self.settings(), "port": 1}


class TestScript(ConnectorContract):
    connector = script.CONNECTOR

    def settings(self) -> Mapping[str, Any]:
        return {"scripts": {"it": {"argv": ["/bin/true"]}}}

    def reading(self) -> Action:
        return SCRIPT_SECRETS, ScriptRunArgs(script="it")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    with mariadb(tmp_path_factory.mktemp("mariadb")) as running:
        yield running


class TestMysql(ConnectorContract):
    connector = mysql.CONNECTOR

    @pytest.fixture(autouse=True)
    def _server(self, database: MariaDb) -> None:
        self.database = database

    def settings(self) -> Mapping[str, Any]:
        return self.database.settings(password={"plain": "a reference"})

    def secrets(self) -> Mapping[str, str]:
        return {"password": PASSWORD}

    def wrong_secrets(self) -> Mapping[str, str]:
        return {"password": "canary-of-the-contract"}

    def unreachable(self) -> Mapping[str, Any]:
        return {**self.settings(), "port": 1}

    def reading(self) -> Action:
        return "sql.query", SqlQueryArgs(sql="select 1 as a")

    def endless(self) -> Action:
        sql = "select count(*) from seq_1_to_100000 a, seq_1_to_100000 b, seq_1_to_100000 c"
        return "sql.query", SqlQueryArgs(sql=sql)

    def large(self) -> Action:
        sql = "select seq as x, repeat('x', 1000) as t from seq_1_to_110000"
        return "sql.query", SqlQueryArgs(sql=sql)
