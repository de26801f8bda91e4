"""Each command that works or waits tells on stderr of a broker or master that does not answer."""

import asyncio
import contextlib
import os
import pty
import signal
import socket
import subprocess
import termios
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.harness import MeshProcesses, program
from tests.meshes import mesh_fixture
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

# Long enough that no outage of a test costs a task.
TIMERS = {
    "MESH_TIMERS__BEAT_S": "0.5",
    "MESH_TIMERS__SUSPECT_S": "40",
    "MESH_TIMERS__LOST_S": "120",
    "MESH_TIMERS__ADOPT_S": "5",
    "MESH_TIMERS__RESENDS": "9",
}
SILENT = "the master does not answer since"
GONE = ("no master is listening", "the master has lost its connection")
LOST = "no connection to the broker since"
BUSY = ("--", "sh", "-c", "echo begun; exec sleep 600")


mesh = mesh_fixture({"web": ("web-1", "web-2")}, env=TIMERS)


class Shown:
    """A command and all that it shows, on a terminal or, of stderr alone, in a pipe."""

    def __init__(self, mesh: MeshProcesses, *arguments: str, is_terminal: bool = True) -> None:
        self._ours, theirs = pty.openpty() if is_terminal else os.pipe()
        if is_terminal:
            termios.tcsetwinsize(theirs, (60, 250))
        self.process = subprocess.Popen(
            program("mesh", "--context", str(mesh.admin_context), *arguments),
            stdin=theirs if is_terminal else subprocess.DEVNULL,
            stdout=theirs if is_terminal else subprocess.DEVNULL,
            stderr=theirs,
            env={**mesh.env, "COLUMNS": "250"},
        )
        os.close(theirs)
        self.name = " ".join(arguments)
        self.text = ""

    async def shows(self, text: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while text not in self.text:
                    if not await self._read():
                        raise TimeoutError
        except TimeoutError:
            pytest.fail(f"{self.name} does not show {text!r}: {self.text}")

    async def ends(self) -> int:
        """The exit code, once all is read."""
        async with asyncio.timeout(PATIENCE_S):
            while await self._read():
                pass
        return await asyncio.to_thread(self.process.wait, PATIENCE_S)

    async def _read(self) -> int:
        try:
            data = await asyncio.to_thread(os.read, self._ours, 65536)
        except OSError:  # a terminal without a program
            data = b""
        self.text += data.decode(errors="replace")
        return len(data)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@contextlib.asynccontextmanager
async def frozen(pid: int) -> AsyncIterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def shown(mesh: MeshProcesses, *words: str, is_terminal: bool = True) -> Iterator[Shown]:
    made = Shown(mesh, *words, is_terminal=is_terminal)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(name="busy", scope="module")
def one_busy_command(mesh: MeshProcesses) -> str:
    """A command that runs for the rest of the module, on web-1."""
    run = ("run", "--detach", "--id", "long", "--agent", "web-1", "--loss=continue", *BUSY)
    assert asyncio.run(mesh.cli(*run)).code == 0
    return "long"


async def test_frozen_master_is_told_to_a_new_run_in_a_pipe_and_on_a_terminal(
    mesh: MeshProcesses,
) -> None:
    run = ("run", "--agent", "web-1", "--", "echo", "all is well")
    with contextlib.ExitStack() as stack:
        async with frozen(mesh.master.pid):
            on_terminal = stack.enter_context(shown(mesh, *run))
            in_pipe = stack.enter_context(shown(mesh, *run, is_terminal=False))
            for each in (on_terminal, in_pipe):
                await each.shows(SILENT)
                await each.shows("tried until")
        for each in (on_terminal, in_pipe):
            await each.shows("the master answers again, after")
            assert await each.ends() == 0
            assert each.text.count(SILENT) == 1
        assert "all is well" in on_terminal.text


async def test_request_that_a_frozen_master_left_unanswered_has_the_advice_of_its_verb(
    mesh: MeshProcesses,
) -> None:
    """Some seconds later the broker knows of no master: then there is nobody to answer."""
    async with frozen(mesh.master.pid):
        asked, changed = await asyncio.gather(
            mesh.cli("status", "--timeout", "5"), mesh.cli("group", "create", "db", "--timeout=5")
        )
    assert (asked.code, changed.code) == (4, 4)
    for ran in (asked, changed):
        assert "mesh.v1" not in ran.err
        assert "same id" not in ran.err
        for word in ("`mesh doctor`", "log", "/readyz"):
            assert word in ran.err, ran.err
        assert any(said in ran.err for said in (SILENT, *GONE)), ran.err


WAITS = {
    "run": ("run", "--agent", "web-2", "--loss=continue", *BUSY),
    "wait": ("command", "wait", "long"),
    "logs": ("command", "logs", "long", "--follow"),
    "run --all": ("run", "--all", "--group", "web", "--loss=continue", *BUSY),
    "events": ("events", "--follow"),
    "watch": ("agent", "list", "--watch"),
    "top": ("top",),
    "drain": ("agent", "disable", "web-1", "--wait"),
}
# What each shows once it waits.
BEGUN = {
    "run": "begun",
    "logs": "begun",
    "run --all": "agents have ended",
    "watch": "web-2",
    "top": "web-2",
    "drain": "left",
}


async def test_every_wait_tells_of_a_broker_that_is_gone_and_is_back(
    mesh: MeshProcesses, busy: str
) -> None:
    with contextlib.ExitStack() as stack:
        waits = {name: stack.enter_context(shown(mesh, *words)) for name, words in WAITS.items()}
        for name, text in BEGUN.items():
            await waits[name].shows(text)
        async with frozen(mesh.broker_pid):
            await asyncio.gather(*(each.shows(LOST) for each in waits.values()))
        await asyncio.gather(*(each.shows("answers again, after") for each in waits.values()))
        for name in ("run", "wait", "logs", "run --all"):
            assert "goes on" in waits[name].text, waits[name].text
            assert waits[name].text.count(LOST) == 1, waits[name].text
        assert all(each.process.poll() is None for each in waits.values()), "each still waits"
    assert (await mesh.cli("agent", "enable", "web-1")).code == 0
    assert busy


async def test_frozen_master_is_told_to_those_who_wait_already(
    mesh: MeshProcesses, busy: str
) -> None:
    with contextlib.ExitStack() as stack:
        wait = stack.enter_context(shown(mesh, "command", "wait", busy, is_terminal=False))
        logs = stack.enter_context(
            shown(mesh, "command", "logs", busy, "--follow", is_terminal=False)
        )
        async with frozen(mesh.master.pid):
            for each in (wait, logs):
                await each.shows(SILENT)
        for each in (wait, logs):
            assert f"{busy} goes on on its agent" in each.text
            await each.shows("the master answers again, after")


async def test_broker_that_is_not_there_is_told_while_it_is_tried(mesh: MeshProcesses) -> None:
    """Last: the mesh is not needed after it."""
    await mesh.master.stop(PATIENCE_S)
    with socket.socket() as kept:
        # Refused connections, whichever broker of another test looks for a port.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", int(mesh.nats_url.rpartition(":")[2])))
        ran, looked = await asyncio.gather(
            mesh.cli("agent", "list", "--timeout", "5"), mesh.cli("doctor", "--timeout", "5")
        )
    assert ran.code == 7
    told, fault = ran.err.splitlines()[:2]
    assert f"the broker at {mesh.nats_url} does not answer (connection refused)" in told
    assert "tried until" in told
    assert fault.endswith("(broker_unreachable)")
    assert looked.code == 1
    assert "broker-master serve" in " ".join(looked.out.split())
