"""The product as its users start it: `broker-master`, `broker-agent` and `mesh` as processes.

    async with MeshProcesses(tmp_path) as mesh:
        await mesh.add_group("web")
        agent = await mesh.add_agent("web-1", group="web", slots=8)
        async with mesh.client() as client:
            record = await client.run(["uname"], group="web")
        agent.kill()
        await agent.start()
        assert (await mesh.cli("agent", "show", "web-1")).code == 0

Needs no pytest. Ports are whatever is free; everything is below one directory; and when the block
ends, however it does, agents, master and broker are ended in this order, and whatever else works
in the directory after them.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.request import urlopen

from broker_client.api import MeshClient
from schemas.messages.api import (
    AgentCreate,
    AgentRecord,
    GroupCreate,
    GroupRecord,
    NameQuery,
    TokenAnswer,
)
from tests.canaries import Canaries
from tests.children import Child, end_now, processes_below
from tests.servers import server_binary

CLI_S: Final = 60.0
CONNECT_S: Final = 60.0
STOP_S: Final = 60.0
STATUS_S: Final = 60.0
STEP_S: Final = 0.02
METRICS_S: Final = 20.0
SAID_MAX: Final = 500
# Everything that takes seconds in production takes tenths, in the proportions that must hold.
FAST_TIMERS: Final[Mapping[str, str]] = {
    "MESH_TIMERS__BEAT_S": "0.2",
    "MESH_TIMERS__SUSPECT_S": "0.8",
    "MESH_TIMERS__ACK_S": "0.5",
    "MESH_TIMERS__RESENDS": "3",
    "MESH_TIMERS__GRACE_S": "0.5",
    "MESH_TIMERS__LOST_S": "3.5",
    "MESH_TIMERS__ADOPT_S": "3.5",
    "MESH_TIMERS__HANDSHAKE_S": "2",
}


@dataclass(frozen=True)
class Ran:
    """Result of one command line."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401  whatever the command printed
        return json.loads(self.out)


class MeshProcesses:
    """One mesh below `directory`: a master with its embedded broker, and any number of agents.

    env: settings as environment variables, for the master and all agents (`FAST_TIMERS`).
    Variables of the caller's own environment that begin with MESH_ are not passed on.
    """

    def __init__(
        self,
        directory: Path,
        *,
        env: Mapping[str, str] | None = None,
        master_env: Mapping[str, str] | None = None,
        nats_url: str = "",
    ) -> None:
        self.directory = directory.absolute()
        self.state_dir = self.directory / "master"
        self.logs = self.directory / "logs"
        # Secrets that must not come to light anywhere; looked for when the mesh is closed.
        self.canaries = Canaries(self.directory)
        self.env = {**clean_environment(), **self.canaries.environment, **(env or {})}
        self._said: list[str] = []
        self.nats_url = nats_url
        self.http_url = ""
        self.agents: dict[str, Child] = {}
        where = ["--nats", nats_url] if nats_url else ["--nats-port", "0"]
        self.master = Child(
            "broker-master",
            [
                *program("broker-master", "serve", "--state-dir", str(self.state_dir)),
                *where,
                *("--http", "127.0.0.1:0"),
            ],
            self.logs,
            env={**self.env, **(master_env or {})},
            ready="ready ",
        )

    @property
    def admin_context(self) -> Path:
        return self.state_dir / "contexts" / "admin.toml"

    @property
    def broker_pid(self) -> int:
        """The embedded nats-server as it runs now."""
        return int((self.state_dir / "broker" / "nats.pid").read_text())

    async def __aenter__(self) -> Self:
        server_binary()
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            await self.init()
            await self.start_master()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End everything, in order where it obeys; nothing of it runs when this returns.

        AssertionError if a secret of the mesh is found in what its processes have said.
        """
        metrics = await asyncio.to_thread(self._metrics)
        try:
            for agent in reversed(self.agents.values()):
                agent.kill()
            await self.master.stop(STOP_S)
        finally:
            for child in (*self.agents.values(), self.master):
                child.kill()
                child.end_orphans()
            end_now(processes_below(self.directory))
        leaks = await asyncio.to_thread(self._leaks, metrics)
        if leaks:
            raise AssertionError(f"secrets came to light: {leaks}")

    def _leaks(self, metrics: str) -> list[str]:
        """Once: a mesh may be closed again after it was searched."""
        texts = {"metrics": metrics, "words of command lines": "\n".join(self._said)}
        return self.canaries.leaks(texts) if self.directory.exists() else []

    def _metrics(self) -> str:
        """Page that Prometheus would read now; empty if the master does not run."""
        if not (self.http_url and self.master.is_running):
            return ""
        with suppress(OSError), urlopen(f"{self.http_url}/metrics", timeout=METRICS_S) as page:
            body: bytes = page.read()
            return body.decode(errors="replace")
        return ""

    # parts

    async def init(self, *hosts: str) -> None:
        options = [part for host in hosts for part in ("--host", host)]
        state = str(self.state_dir)
        ran = await self._run("broker-master", "init", "--state-dir", state, *options)
        _check(ran, "broker-master init")

    async def start_master(self) -> None:
        """Start the master, for the first time or again, and note its addresses."""
        line = await self.master.start()
        said = dict(part.split("=", 1) for part in line.split()[1:])
        self.nats_url, self.http_url = said["nats"], said["http"]

    async def restart_master(self, *, kill: bool = False) -> None:
        if kill:
            self.master.kill()
        else:
            await self.master.stop(STOP_S)
        await self.start_master()

    async def add_group(self, name: str) -> None:
        async with self.client() as client:
            await client.ask("group", "create", GroupCreate(name=name), GroupRecord)

    async def add_agent(
        self,
        name: str,
        *,
        group: str,
        slots: int | None = None,
        env: Mapping[str, str] | None = None,
        start: bool = True,
    ) -> Child:
        """Create an agent, set it up as a host would be, and start it unless told not to.

        When this returns the agent has said that it is ready: the master counts on it.
        """
        async with self.client() as client:
            request = AgentCreate(name=name, group=group)
            answer = await client.ask("agent", "create", request, TokenAnswer)
        self.canaries.note(f"token of {name}", answer.token)
        state_dir = self.agent_dir(name)
        where = ("--state-dir", str(state_dir))
        ran = await self._run("broker-agent", "setup", *where, "--token=-", stdin=answer.token)
        _check(ran, f"broker-agent setup of {name}")
        own = {**(env or {}), **({} if slots is None else {"MESH_SLOTS": str(slots)})}
        agent = Child(
            f"agent-{name}",
            program("broker-agent", "run", *where),
            self.logs,
            env={**self.env, **own},
            ready="ready ",
        )
        self.agents[name] = agent
        if start:
            await agent.start()
        return agent

    def agent_dir(self, name: str) -> Path:
        return self.directory / name

    # users

    def client(
        self, context: Path | None = None, *, timeout_s: float = CONNECT_S
    ) -> AbstractAsyncContextManager[MeshClient]:
        """The SDK on a connection of its own, as the admin unless `context` says who."""
        return MeshClient.connect(context or self.admin_context, timeout_s=timeout_s)

    async def cli(
        self, *arguments: str, stdin: str = "", within_s: float = CLI_S, context: Path | None = None
    ) -> Ran:
        """`mesh …` to its end."""
        return await self._run(
            "mesh",
            *("--context", str(context or self.admin_context)),
            *arguments,
            stdin=stdin,
            within_s=within_s,
        )

    async def wait_status(
        self, agent: str, status: str, *, within_s: float = STATUS_S
    ) -> AgentRecord:
        """Until the master calls `agent` by this status; TimeoutError after `within_s`."""
        async with self.client() as client, asyncio.timeout(within_s):
            while True:
                query = NameQuery(name=agent)
                record = await client.ask("agent", "show", query, AgentRecord)
                if record.status == status:
                    return record
                await asyncio.sleep(STEP_S)

    async def _run(
        self, name: str, *arguments: str, stdin: str = "", within_s: float = CLI_S
    ) -> Ran:
        """One program to its end, in a thread: `subprocess` ends it itself when it is too slow."""

        def run() -> Ran:
            done = subprocess.run(
                program(name, *arguments),
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                env=self.env,
                timeout=within_s,
                check=False,
            )
            self._said = [*self._said[-SAID_MAX:], done.stderr]
            return Ran(done.returncode, done.stdout, done.stderr)

        return await asyncio.to_thread(run)


def program(name: str, *arguments: str) -> list[str]:
    """The command line of one of our console scripts, of the environment that runs the tests."""
    return [str(Path(sys.executable).with_name(name)), *arguments]


def clean_environment() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MESH_")}
    # Whoever runs the tests may be root, whose tasks would be another user's.
    return {**clean, "MESH_TASKS__USER": str(os.geteuid())}


def _check(ran: Ran, what: str) -> None:
    if ran.code:
        raise RuntimeError(f"{what} exited with {ran.code}:\n{ran.out}{ran.err}")
