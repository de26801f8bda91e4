"""The processes as a host starts, watches and stops them: service managers, checks, units."""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from broker_client.api import MeshClient
from broker_master.broker_child import choose_port
from schemas.messages.api import AgentCreate, TokenAnswer
from tests.children import Child
from tests.harness import MeshProcesses, program
from tests.meshes import mesh_fixture, state_reached
from tests.requirements_policy import require
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-host")]

ROOT: Final = Path(__file__).parent.parent.parent
UNITS: Final = sorted((ROOT / "docs" / "deploy" / "systemd").glob("*.service"))
SCRIPTS: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
SAID_S: Final = 60.0
RUN_S: Final = 60.0
SYSTEMD: Final = "apt install systemd"
# Of ten, less is better. The rest is what they are there for: programs, and the network.
EXPOSURE_MAX: Final = {"mesh-master.service": 1.7, "mesh-agent.service": 2.2}


mesh = mesh_fixture({"web": ()})


class Manager:
    """The socket of a service manager, and what it was told."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify.sock"
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(self.path))

    @property
    def env(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": "400000"}

    def heard(self, line: str) -> int:
        """How often it was told `line`."""
        try:
            while True:
                self.said += self._socket.recv(4096).decode().splitlines()
        except BlockingIOError:
            return self.said.count(line)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.close()


async def test_agent_notifies_its_service_manager_of_its_status(
    mesh: MeshProcesses, admin: MeshClient, manager: Manager, tmp_path: Path
) -> None:
    agent = await mesh.add_agent("notifier", group="web", env=manager.env)
    await eventually(lambda: manager.heard("READY=1"), SAID_S)
    await eventually(lambda: manager.heard("WATCHDOG=1") > 3, SAID_S)
    await eventually(lambda: manager.heard("STATUS=linked, 0 tasks running"), SAID_S)
    # What was meant for the agent alone is not handed on to what it runs.
    gate = tmp_path / "gate"
    wait = f"while [ ! -e {gate} ]; do sleep 0.05; done"
    script = f'test -z "$NOTIFY_SOCKET$WATCHDOG_USEC" || exit 1; {wait}'
    running = await admin.submit(["sh", "-c", script], agent="notifier")
    await state_reached(admin, running.id, "running")
    agent.signal(signal.SIGTERM)
    await eventually(lambda: manager.heard("STOPPING=1"), SAID_S)
    assert manager.heard("STATUS=stopping, 1 tasks running")
    gate.touch()
    assert await agent.wait(SAID_S) == 0
    assert (await admin.wait(running.id, timeout_s=SAID_S)).state == "succeeded"
    assert manager.heard("READY=1") == 1


async def test_agent_without_a_broker_is_ready_for_its_service_manager(
    mesh: MeshProcesses, manager: Manager
) -> None:
    """The agent waits for ever: a manager that waited with it would give it up."""
    env = {**manager.env, "MESH_URLS": f"tls://127.0.0.1:{choose_port('127.0.0.1')}"}
    agent = await mesh.add_agent("lonely", group="web", env=env, start=False)
    agent.launch()
    await eventually(lambda: manager.heard("READY=1"), SAID_S)
    agent.signal(signal.SIGTERM)
    assert await agent.wait(SAID_S) == 0


def master(folder: Path, url: str, env: dict[str, str]) -> Child:
    """A mesh of its own, whose master is to use the broker at `url`."""
    subprocess.run(
        program("broker-master", "init", "--state-dir", str(folder)),
        check=True,
        capture_output=True,
        timeout=RUN_S,
    )
    where = ("--state-dir", str(folder), "--nats", url, "--http", "127.0.0.1:0")
    return Child("master", program("broker-master", "serve", *where), folder.parent, env=env)


async def test_master_notifies_its_service_manager_when_it_is_ready(
    tmp_path: Path, manager: Manager
) -> None:
    async with MeshProcesses(tmp_path / "mesh", master_env=manager.env) as own:
        await eventually(lambda: manager.heard("WATCHDOG=1") > 3, SAID_S)
        assert manager.heard("READY=1") == 1
        await own.master.stop()
        assert manager.heard("STOPPING=1") == 1


async def test_master_that_waits_for_its_broker_can_be_stopped(
    tmp_path: Path, mesh: MeshProcesses
) -> None:
    url = f"tls://127.0.0.1:{choose_port('127.0.0.1')}"
    waiting = master(tmp_path / "master", url, mesh.env)
    waiting.launch()
    await eventually(lambda: "connect_failed" in waiting.stderr, SAID_S)
    waiting.signal(signal.SIGTERM)
    assert await waiting.wait(SAID_S) == 0


async def test_master_of_another_mesh_says_so_and_what_to_do_and_ends(
    tmp_path: Path, mesh: MeshProcesses
) -> None:
    """The broker's certificate is not one of its own CA, and never will be."""
    stranger = master(tmp_path / "master", mesh.nats_url, {**mesh.env, "MESH_LOG__LEVEL": "error"})
    stranger.launch()
    assert await stranger.wait(SAID_S) == 7
    fault, advice = stranger.stderr.splitlines()
    assert "its certificate is not trusted" in fault
    assert advice == "  use an address that the mesh was made for, and the ca.pem of this mesh"


# -- what can be asked


async def ask(mesh: MeshProcesses, name: str, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *program(name, *arguments),
        env=mesh.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), RUN_S)
    return process.returncode or 0, said.decode()


async def test_agent_sets_itself_up_once_and_says_whether_it_is_linked(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    request = AgentCreate(name="unattended", group="web")
    answer = await admin.ask("agent", "create", request, TokenAnswer)
    token = tmp_path / "token"
    token.write_text(f"{answer.token}\n")
    state = mesh.directory / "unattended"
    where = ("--state-dir", str(state))
    run = program("broker-agent", "run", *where, "--token-file", str(token))
    agent = Child("unattended", run, mesh.logs, env=mesh.env, ready="ready ")
    mesh.agents["unattended"] = agent
    await agent.start()
    code, said = await ask(mesh, "broker-agent", "status", *where, "--check")
    assert (code, "reconciled" in said) == (0, True)
    await agent.stop()
    code, said = await ask(mesh, "broker-agent", "status", *where, "--check")
    assert (code, said.splitlines()[-2]) == (
        7,
        "broker-agent: agent unattended does not run (not_ready)",
    )
    # The token is spent; who has keys needs none.
    token.unlink()
    await agent.start()
    assert (await mesh.wait_status("unattended", "active")).agent == "unattended"


async def test_master_can_be_asked_whether_it_is_ready(mesh: MeshProcesses) -> None:
    address = mesh.http_url.removeprefix("http://")
    assert await ask(mesh, "broker-master", "check", "--http", address) == (0, "ready\n")
    code, said = await ask(mesh, "broker-master", "check", "--http", "127.0.0.1:1")
    assert (code, "no master answers at 127.0.0.1:1: connection refused" in said) == (7, True)
    code, said = await ask(mesh, "broker-master", "check", "--http", "nowhere")
    assert (code, len(said.splitlines())) == (78, 2)
    assert said.startswith("broker-master: --http 'nowhere' is not HOST:PORT")


# -- units


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_unit_names_what_there_is(unit: Path) -> None:
    """Programs are console scripts; ends that another start does not mend are not tried again."""
    lines = dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE))
    path, verb, option, folder = lines["ExecStart"].split()
    assert Path(path).name in SCRIPTS
    known = subprocess.run(
        program(Path(path).name, verb, "--help"), capture_output=True, timeout=RUN_S, check=False
    )
    assert known.returncode == 0
    assert option.encode() in known.stdout
    assert folder == f"/var/lib/{lines['StateDirectory']}"
    assert lines["RestartPreventExitStatus"].split() == ["2", "77", "78"]
    assert (lines["Type"], lines["KillMode"]) == ("notify", "mixed")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with programs that are there, as `verify` looks for them."""
    for unit in UNITS:
        text = unit.read_text().replace("/opt/mesh/bin/", f"{Path(program('mesh')[0]).parent}/")
        (tmp_path / unit.name).write_text(text)
    drop_ins = tmp_path / "mesh-agent.service.d"
    drop_ins.mkdir()
    shutil.copy(UNITS[0].with_name("programs.conf"), drop_ins)
    return tmp_path


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [require("systemd-analyze", SYSTEMD), "--no-pager", *arguments],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )


def test_units_are_what_systemd_understands(units: Path) -> None:
    names = [
        str(units / unit.name.replace("@.", "@web-1."))
        if "@" in unit.name
        else str(units / unit.name)
        for unit in UNITS
    ]
    shutil.copy(units / "mesh-agent@.service", units / "mesh-agent@web-1.service")
    done = analyze("verify", "--man=no", "--recursive-errors=no", *names)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", EXPOSURE_MAX)
def test_units_leave_little_open(units: Path, name: str) -> None:
    shutil.rmtree(units / "mesh-agent.service.d")
    done = analyze("security", "--offline=true", str(units / name))
    found = re.search(r"Overall exposure level.*: (\d+\.\d+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= EXPOSURE_MAX[name], done.stdout
