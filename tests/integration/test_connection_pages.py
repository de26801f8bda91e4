"""Each console block of docs/connections/, on a mesh with one agent and real servers."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.harness import MeshProcesses
from tests.hosts import steps_of
from tests.integration.test_readme import blocks_of, check_shown
from tests.meshes import PATIENCE_S, mesh_fixture
from tests.postgres import postgres_server

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-connection-pages")]

PAGES: Final = Path(__file__).parents[2] / "docs" / "connections"
AGENT: Final = "db-1"
# Those differ from run to run, and from host to host.
VARYING: Final = (
    (re.compile(r"\d+(\.\d+)? ms"), "N ms"),
    (re.compile(r"\b[0-9a-f]{8}\b"), "HASH"),
    (re.compile(r"(SQLite|PostgreSQL) [0-9.]+"), r"\1"),
    (re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z"), "TIME"),
    # Of the widest column, whose width follows from them.
    (re.compile(r" {2,}"), " "),
)
# Profiles on the pages, by the path in the first line of their blocks.
PROFILE: Final = re.compile(r"# (/etc/mesh/profiles\.d/[a-z-]+\.toml)")


mesh = mesh_fixture({"db": (AGENT,)})


class Player:
    """Types the commands of a page. places: of what the page names, on this machine."""

    def __init__(self, mesh: MeshProcesses, places: Mapping[str, str]) -> None:
        root = mesh.directory / "host"
        for folder in (root / "srv", root / "etc", mesh.agent_dir(AGENT) / "profiles.d"):
            folder.mkdir(parents=True, exist_ok=True)
        self._mesh = mesh
        self._places = {
            **places,
            "/etc/mesh/profiles.d": str(mesh.agent_dir(AGENT) / "profiles.d"),
            "/etc/mesh": str(root / "etc"),
            "/srv": str(root / "srv"),
            "/var/lib/mesh-agent": str(mesh.agent_dir(AGENT)),
        }
        self._env = {
            **mesh.env,
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "MESH_CONTEXT": str(mesh.admin_context),
            "COLUMNS": "300",
            "NO_COLOR": "1",
            "TZ": "UTC",
        }

    async def play(self, name: str) -> int:
        """Returns the number of commands. A block with the path of a profile is put there."""
        played = 0
        for block in blocks_of((PAGES / f"{name}.md").read_text()):
            if block.language == "toml" and (found := PROFILE.match(block.lines[0])):
                await self._put(found[1], "\n".join(block.lines))
            for host, command, shown in (
                steps_of(block.lines) if block.language == "console" else ()
            ):
                assert host in ("host", "ops"), f"{name}.md:{block.at}: {host}"
                await self._step(f"{name}.md:{block.at}: {command}", command, shown)
                played += 1
        return played

    async def _put(self, path: str, text: str) -> None:
        file = Path(self._placed(path))
        file.write_text(self._placed(text))
        file.chmod(0o600)
        ran = await asyncio.to_thread(
            self._run, "broker-agent profile reload --state-dir /var/lib/mesh-agent"
        )
        assert ran.returncode == 0, ran.stdout

    def _placed(self, text: str) -> str:
        for said, place in self._places.items():
            text = text.replace(said, place)
        return text

    def _said(self, text: str) -> str:
        for said, place in self._places.items():
            text = text.replace(place, said)
        return text

    async def _step(self, place: str, command: str, shown: list[str]) -> None:
        """Done once; a list is looked at until it shows what the page has, as a person does."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + (PATIENCE_S if command.startswith("mesh connection list") else 0)
        while True:
            ran = await asyncio.to_thread(self._run, command)
            said = self._said(ran.stdout)
            try:
                assert ran.returncode == 0, f"{place}\n{said}"
                check_shown([_plain(line) for line in shown], _plain(said), f"{place}\n{said}")
            except AssertionError:
                if loop.time() > give_up_at:
                    raise
                await asyncio.sleep(0.2)
            else:
                return

    def _run(self, command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-c", self._placed(command)],
            cwd=self._mesh.directory,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )


def _plain(text: str) -> str:
    for pattern, word in VARYING:
        text = pattern.sub(word, text)
    return text


@pytest.mark.parametrize("name", ["sqlite", "directory", "script"])
async def test_page_of_a_kind_without_a_server_is_played(mesh: MeshProcesses, name: str) -> None:
    assert await Player(mesh, {}).play(name) >= 4
    await _forgotten(mesh)


async def test_page_of_http_is_played_on_the_master(mesh: MeshProcesses) -> None:
    player = Player(mesh, {"http://127.0.0.1:8080": mesh.http_url})
    assert await player.play("http") >= 8
    await _forgotten(mesh)


async def test_page_of_postgresql_is_played_with_its_roles(mesh: MeshProcesses) -> None:
    with postgres_server() as server:
        server.psql(
            "create table sale (id int primary key, day date, total numeric(10, 2),"
            " paid bool default false);"
            "insert into sale values (1, '2026-01-31', 12.5), (2, '2026-01-31', 8)"
        )
        page = (PAGES / "postgresql.md").read_text()
        granted = [block for block in blocks_of(page) if block.language == "sql"]
        assert len(granted) == 2
        for block in granted:
            server.psql("\n".join(block.lines))
        secret = mesh.directory / "erp-db.password"
        secret.write_text("a long random one\n")
        secret.chmod(0o600)
        places = {"/etc/mesh/db-ca.pem": server.ca, "/etc/mesh/erp-db.password": str(secret)}
        player = Player(mesh, {**places, "5432": str(server.port)})
        assert await player.play("postgresql") >= 8
    await _forgotten(mesh)


async def _forgotten(mesh: MeshProcesses) -> None:
    """Leave nothing to the next page."""
    listed = await mesh.cli("connection", "list", "--output", "json")
    for each in listed.json["connections"] if isinstance(listed.json, dict) else listed.json:
        ran = await mesh.cli("connection", "delete", each["connection"])
        assert ran.code == 0, ran.err
    for path in (mesh.agent_dir(AGENT) / "profiles.d").iterdir():
        path.unlink()


def test_every_page_with_commands_is_played() -> None:
    pages = {path.stem for path in PAGES.glob("*.md") if "```console" in path.read_text()}
    assert pages == {"sqlite", "directory", "script", "http", "postgresql"}
