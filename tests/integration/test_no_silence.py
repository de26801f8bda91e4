"""Dead members of a group are passed over at once, and waits are told on a terminal."""

import asyncio
import os
import pty
import signal
import subprocess

import psutil
import pytest

from schemas.messages.actions import NoopArgs
from tests.harness import MeshProcesses, program
from tests.meshes import mesh_fixture
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

# Long enough that the end of a connection is known well before the silence.
TIMERS = {
    "MESH_TIMERS__BEAT_S": "1",
    "MESH_TIMERS__SUSPECT_S": "10",
    "MESH_TIMERS__LOST_S": "40",
    "MESH_TIMERS__ACK_S": "1",
    "MESH_TIMERS__RESENDS": "9",
}
BUSY = ("sh", "-c", "echo begun; exec sleep 600")


mesh = mesh_fixture({"web": ("web-1", "web-2"), "db": ("db-1",)}, env=TIMERS)


class Screen:
    """Output of a program on a terminal."""

    def __init__(self, mesh: MeshProcesses, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            program("mesh", "--context", str(mesh.admin_context), *arguments),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=mesh.env,
        )
        os.close(theirs)
        self.shown = ""

    async def shows(self, text: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while text not in " ".join(self.shown.split()):
                    self.shown += (await asyncio.to_thread(os.read, self._ours, 4096)).decode()
        except TimeoutError:
            raise AssertionError(f"no {text!r} in {self.shown!r}") from None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


async def caused(mesh: MeshProcesses, agent: str, cause: str) -> None:
    async with mesh.client() as client, asyncio.timeout(PATIENCE_S):
        while [each.cause for each in await client.agents(filter=agent)] != [cause]:
            await asyncio.sleep(0.05)


async def test_dead_member_is_passed_over_before_its_silence_is_noticed(
    mesh: MeshProcesses,
) -> None:
    mesh.agents["web-1"].kill()
    await caused(mesh, "web-1", "disconnected")
    async with mesh.client() as client:
        ran = [await client.run(NoopArgs(), group="web") for _ in range(4)]
    assert [each.attempts[0].agent for each in ran] == ["web-2"] * 4
    assert [each.attempts[0].sent for each in ran] == [1] * 4
    screen = Screen(mesh, "run", "--agent", "web-1", "--", "echo", "all is well")
    try:
        await screen.shows("waits for web-1 to take work again")
        await mesh.agents["web-1"].start()
        await screen.shows("all is well")
    finally:
        screen.close()
    await caused(mesh, "web-1", "ready")


async def test_terminal_shows_each_wait_and_its_end(mesh: MeshProcesses) -> None:
    """An agent that was stopped keeps its connection: only its silence tells."""
    agent = psutil.Process(mesh.agents["db-1"].pid)
    running = Screen(mesh, "run", "--id", "long", "--agent", "db-1", "--", *BUSY)
    waiting = None
    try:
        await running.shows("begun")
        agent.suspend()
        waiting = Screen(mesh, "run", "--agent", "db-1", "--", "echo", "all is well")
        await waiting.shows("is not acknowledged: db-1 has acknowledged none of")
        await running.shows("long is unknown since")
        await running.shows("db-1 does not respond; it was running before; given up at")
        agent.resume()
        await running.shows("long is running")
        await waiting.shows("all is well")
        running.process.send_signal(signal.SIGINT)
        await running.shows("ending long")
        assert await asyncio.to_thread(running.process.wait, PATIENCE_S) != 0
    finally:
        agent.resume()
        running.close()
        if waiting is not None:
            waiting.close()
