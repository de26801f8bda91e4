"""A mesh that passes through everything, watched by Prometheus and Alertmanager.

    async with watched_world(tmp_path) as world:
        await world.live_through_it()

Four groups; six agents, which end up in all four statuses; commands that end in every way that
there is without waiting for hours. Needs no pytest.
"""

import asyncio
import contextlib
import signal
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from schemas.messages.actions import ProcessArgs
from schemas.messages.actions.sql import SqlQueryArgs
from schemas.messages.api import AgentDisable, ConnectionCreate, Done
from schemas.verbs import CONNECTION_CREATE
from tests import dashboards
from tests.harness import FAST_TIMERS, MeshProcesses
from tests.prometheus import Watchers, wait_for

GROUPS: Final = ("web", "db", "off", "certs")
STATUSES: Final = {
    "web-1": "active",
    "web-2": "no_response",
    "web-3": "awaiting_setup",
    "db-1": "active",
    "off-1": "disabled",
    "cert-1": "active",
}
_ENV: Final = {
    **FAST_TIMERS,
    "MESH_TIMERS__ADOPT_S": "0.5",
    "MESH_PROFILES_DIR": "",
    "MESH_PROFILES_S": "0.2",
}
_QUERY: Final = SqlQueryArgs(sql="select name from sqlite_master")
_AGENT_DAYS: Final = "MESH_CERTIFICATES__AGENT_DAYS"
DATA_S: Final = 60.0

Results = dict[dashboards.Expression, list[dict[str, Any]]]


@dataclass
class World:
    mesh: MeshProcesses
    watchers: Watchers

    async def live_through_it(self) -> Results:
        """Work, faults and losses; returns what every expression gives once all have data.

        An expression that stays empty is among the results, and empty.
        """

        async def measured() -> object:
            return await self.watchers.query(
                "mesh_store_rows and on () mesh_command_queue_seconds_count"
                " and on () mesh_connection_call_duration_seconds_count"
            )

        # A histogram is there from its first value on, and a rate wants to have seen it before.
        async with self.mesh.client() as client:
            await client.run(["true"], group="web")
        await _connect(self.mesh)
        await wait_for(measured, 15, "a scrape with a command in it")
        await _work(self.mesh)
        await _renew(self.mesh)
        await _lose_a_task(self.mesh)

        async def complete() -> bool:
            return all((await dashboards.results(self.watchers)).values())

        with contextlib.suppress(AssertionError):
            await wait_for(complete, DATA_S, "data everywhere")
        return await dashboards.results(self.watchers)


@contextlib.asynccontextmanager
async def watched_world(directory: Path) -> AsyncIterator[World]:
    # The first certificate ends before the warning begins; all later ones last ninety days.
    short = {_AGENT_DAYS: "10"}
    async with MeshProcesses(directory / "mesh", env=_ENV, master_env=short) as mesh:
        for group in GROUPS:
            await mesh.add_group(group)
        await mesh.add_agent("cert-1", group="certs")
        del mesh.master.env[_AGENT_DAYS]
        await mesh.restart_master()
        target = mesh.http_url.removeprefix("http://")
        async with Watchers(directory / "watchers", targets=[target]) as watchers:
            await _fill_fleet(mesh)
            yield World(mesh, watchers)


async def _fill_fleet(mesh: MeshProcesses) -> None:
    await asyncio.gather(
        mesh.add_agent("web-1", group="web", slots=4),
        mesh.add_agent("web-2", group="web", slots=4),
        mesh.add_agent("web-3", group="web", start=False),
        mesh.add_agent("db-1", group="db"),
        mesh.add_agent("off-1", group="off"),
    )
    async with mesh.client() as client:
        await client.ask("agent", "disable", AgentDisable(name="off-1"), Done)
    await mesh.wait_status("off-1", "disabled")


async def _work(mesh: MeshProcesses) -> None:
    """Commands that succeed, fail, take too long, are cancelled, come twice, and wait."""
    async with mesh.client() as client:
        for index in range(8):
            await client.run(["true"], group="web", id=f"fine-{index}")
        await client.run(["true"], group="web", id="fine-0")
        await client.run(["false"], group="web")
        await client.run(["true"], group="db")
        await client.run(["sh", "-c", "kill -9 $$"], group="web")
        await client.run(ProcessArgs(argv=["sleep", "60"], timeout_s=0.2), group="web")
        cancelled = await client.submit(["sleep", "60"], group="web", id="cancelled")
        await client.cancel(cancelled.id)
        await client.wait(cancelled.id, timeout_s=60)
        await client.submit(["true"], group="off", id="waits")
        await client.run(_QUERY, connection="books")
        await client.run(_QUERY, connection="gone")


async def _connect(mesh: MeshProcesses) -> None:
    """Two ways to databases in files of one host: `books` is there, the file of `gone` is not."""
    folder = mesh.agent_dir("db-1") / "profiles.d"
    folder.mkdir(mode=0o755)
    with contextlib.closing(sqlite3.connect(mesh.directory / "books.db")) as database, database:
        database.execute("create table book (title text)")
    async with mesh.client() as client:
        for name in ("books", "gone"):
            path = folder / f"{name}.toml"
            path.write_text(f'kind = "sqlite"\nfile = "{mesh.directory / name}.db"\n')
            path.chmod(0o644)
            request = ConnectionCreate(name=name, kind="sqlite", group="db")
            await client.ask(CONNECTION_CREATE, request)
        await client.run(_QUERY, connection="books", on_inactive="queue")


async def _renew(mesh: MeshProcesses) -> None:
    """An agent gets new keys and a new certificate while it goes on."""
    ran = await mesh.cli("agent", "rotate", "db-1", "--wait")
    if ran.code:
        raise RuntimeError(ran.err)


async def _lose_a_task(mesh: MeshProcesses) -> None:
    """An agent dies permanently while it runs a command; another is away for a moment."""
    async with mesh.client() as client:
        lost = await client.submit(["sleep", "60"], agent="web-2")
        await asyncio.sleep(0.5)
        mesh.agents["web-2"].kill()
        mesh.agents["web-2"].end_orphans()
        mesh.agents["web-1"].signal(signal.SIGSTOP)
        await mesh.wait_status("web-1", "no_response")
        mesh.agents["web-1"].signal(signal.SIGCONT)
        await mesh.wait_status("web-1", "active")
        record = await client.wait(lost.id, timeout_s=60)
        if record.state != "lost":
            raise RuntimeError(f"expected to be lost, not {record.state}")
