"""Tasks whose agent hangs, is killed, or is two: nothing of them outlives its time."""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from broker_client.api import MeshClient
from tests.children import Child, cpu_s, rss_bytes
from tests.harness import MeshProcesses
from tests.host.broker_agent.test_warden import ignores_term
from tests.meshes import mesh_fixture, state_reached
from tests.waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-warden")]

# With the quick timers the lease ends 2.3 s after the last beat: a hang of this length is shorter.
HANG_S = 0.5
MIB = 1024 * 1024


mesh = mesh_fixture({"g": ("a1", "a2")})


@pytest.fixture
async def agent(mesh: MeshProcesses) -> AsyncIterator[Child]:
    agent = mesh.agents["a1"]
    if not agent.is_running:
        await agent.start()
    await mesh.wait_status("a1", "active")
    yield agent
    agent.signal(signal.SIGCONT)


def tasks_of(command: str) -> list[psutil.Process]:
    """All processes on this host that were started for a command."""
    found = []
    for process in psutil.process_iter():
        try:
            environ = process.environ()
            if environ.get("MESH_COMMAND") == command and process.status() != "zombie":
                found.append(process)
        except psutil.Error:
            continue
    return found


def companions_of(agent: Child, name: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(agent.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # also what has died and is not buried yet
            if f"broker_agent.{name}" in " ".join(child.cmdline()):
                found.append(child)
    return found


def wardens_of(agent: Child) -> list[psutil.Process]:
    return companions_of(agent, "warden")


def warden_of(agent: Child) -> psutil.Process:
    (warden,) = wardens_of(agent)
    return warden


async def sleeping(admin: MeshClient, *, script: str = "sleep 60; true") -> str:
    command = await admin.submit(["sh", "-c", script], agent="a1")
    await state_reached(admin, command.id, "running")
    await eventually(lambda: tasks_of(command.id))
    return command.id


async def test_agent_that_is_killed_and_never_comes_back_leaves_nothing(
    mesh: MeshProcesses, admin: MeshClient, agent: Child
) -> None:
    usual = await sleeping(admin)
    stubborn = await sleeping(admin, script="trap '' TERM; sleep 60; sleep 60")
    warden = warden_of(agent)
    began = time.monotonic()
    agent.kill()
    await eventually(lambda: not tasks_of(usual))
    assert time.monotonic() - began > 1.0, "a task is not ended before its time"
    await eventually(lambda: not tasks_of(stubborn))
    await eventually(lambda: not warden.is_running())
    assert (await admin.wait(usual, timeout_s=PATIENCE_S)).state == "lost"
    log = (mesh.agent_dir("a1") / "warden.log").read_text()
    assert f"{stubborn}.1: sent signal 9" in log


async def test_agent_that_is_killed_and_restarted_at_once_ends_what_ran_and_says_so(
    admin: MeshClient, agent: Child
) -> None:
    command = await sleeping(admin)
    old = warden_of(agent)
    agent.kill()
    await agent.start()
    await eventually(lambda: not tasks_of(command))
    # Its late word, if the start has taken longer than its lease lasts.
    async with asyncio.timeout(PATIENCE_S):
        while "agent restarted" not in (record := await admin.show(command)).reason:
            await asyncio.sleep(0.05)
    assert record.state == "lost"
    await eventually(lambda: not old.is_running())
    assert warden_of(agent).is_running()


async def test_tasks_of_an_agent_that_hangs_end_while_it_hangs(
    mesh: MeshProcesses, admin: MeshClient, agent: Child
) -> None:
    command = await sleeping(admin)
    began = time.monotonic()
    agent.signal(signal.SIGSTOP)
    await eventually(lambda: not tasks_of(command))
    assert time.monotonic() - began > 1.0
    agent.signal(signal.SIGCONT)
    record = await admin.wait(command, timeout_s=PATIENCE_S)
    assert record.state in {"killed_fenced", "lost"}
    await mesh.wait_status("a1", "active")
    assert (await admin.run(["true"], agent="a1", timeout_s=PATIENCE_S)).state == "succeeded"


async def test_agent_that_hangs_for_less_than_its_lease_loses_nothing(
    admin: MeshClient, agent: Child
) -> None:
    command = await sleeping(admin, script="sleep 2; echo done")
    agent.signal(signal.SIGSTOP)
    await asyncio.sleep(HANG_S)
    agent.signal(signal.SIGCONT)
    assert (await admin.wait(command, timeout_s=PATIENCE_S)).state == "succeeded"


async def test_warden_is_replaced_and_costs_next_to_nothing(agent: Child) -> None:
    first = warden_of(agent)
    first.send_signal(signal.SIGKILL)
    await eventually(lambda: [each for each in wardens_of(agent) if each != first])
    warden = warden_of(agent)
    await eventually(lambda: ignores_term(warden.pid))
    before = cpu_s(warden.pid), cpu_s(agent.pid)
    await asyncio.sleep(2.0)
    # Both at rest, on the same machine: the agent has little else to do than to beat.
    assert cpu_s(warden.pid) - before[0] < (cpu_s(agent.pid) - before[1]) / 4
    assert rss_bytes(warden.pid) < 12 * MIB
    assert rss_bytes(agent.pid) < 60 * MIB


ESCAPES = {
    "the program stays": "setsid sh -c 'setsid sleep 60 <&- >&- 2>&- &' & sleep 60; true",
    "without its marks": "setsid env -i sh -c 'setsid sleep 61 <&- >&- 2>&- &' & sleep 60; true",
}


@pytest.mark.parametrize("script", ESCAPES.values(), ids=ESCAPES)
async def test_cancel_ends_what_has_escaped(admin: MeshClient, agent: Child, script: str) -> None:
    command = await sleeping(admin, script=script)
    mine = psutil.Process(agent.pid)

    def escaped() -> list[psutil.Process]:
        return [each for each in mine.children() if each.name() == "sleep"]

    await eventually(escaped)
    hidden = escaped()
    await admin.cancel(command)
    assert (await admin.wait(command, timeout_s=PATIENCE_S)).state == "cancelled"
    assert not [each for each in hidden if each.is_running() and each.status() != "zombie"]
    assert not tasks_of(command)


async def test_descendants_of_a_program_end_before_its_end_is_reported(
    admin: MeshClient, agent: Child
) -> None:
    script = "setsid sh -c 'setsid sleep 62 <&- >&- 2>&- &'; exit 3"
    record = await admin.run(["sh", "-c", script], agent="a1", timeout_s=PATIENCE_S)
    assert [each.exit_code for each in record.attempts] == [3]
    assert not tasks_of(record.id)


async def test_agent_buries_the_dead_that_are_left_to_it(admin: MeshClient, agent: Child) -> None:
    script = "for n in 1 2 3; do setsid sh -c '(exit 0) & exec sleep 0.1' & done; sleep 0.5"
    assert (
        await admin.run(["sh", "-c", script], agent="a1", timeout_s=PATIENCE_S)
    ).state == "succeeded"
    mine = psutil.Process(agent.pid)
    await eventually(lambda: not [c for c in mine.children() if c.status() == "zombie"])


async def test_no_control_group_outlives_its_task(mesh: MeshProcesses, admin: MeshClient) -> None:
    from broker_agent.executors.cells import find_parent

    parent = find_parent()
    if parent is None:
        pytest.skip("no cgroup v2 can be made here")
    incarnation = json.loads((mesh.agent_dir("a2") / "status.json").read_text())["incarnation"]

    def cells() -> list[Path]:
        return [path for path in Path(parent).iterdir() if incarnation in path.name]

    command = await admin.submit(["sleep", "60"], agent="a2")
    await eventually(cells)
    assert cells()[0].name == f"mesh-a2-{incarnation}-{command.id}.1"
    await admin.cancel(command.id)
    await admin.wait(command.id, timeout_s=PATIENCE_S)
    await eventually(lambda: not cells())


async def printed(admin: MeshClient, command: str) -> bytes:
    return b"".join([part.data async for part in admin.logs(command)])


async def test_program_that_opens_its_own_output_loses_nothing(
    admin: MeshClient, agent: Child
) -> None:
    script = "ls -A; grep -r x .; echo a; echo b > /dev/stdout; echo c; rm -rf -- *; exit 0"
    record = await admin.run(["sh", "-c", script], agent="a1", timeout_s=PATIENCE_S)
    assert record.state == "succeeded"
    assert await printed(admin, record.id) == b"a\nb\nc\n"
    assert (record.stdout_bytes, record.stderr_bytes, record.truncated) == (6, 0, False)


async def test_carrier_that_is_killed_while_a_task_prints_costs_no_byte(
    admin: MeshClient, agent: Child, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    again = "n=$((n+1)); seq 100; sleep 0.01"
    script = f"n=0; while [ ! -e {gate} ]; do {again}; done; echo $n"
    command = (await admin.submit(["sh", "-c", script], agent="a1")).id
    await eventually(lambda: tasks_of(command))
    killed: set[int] = set()

    def another() -> list[psutil.Process]:
        return [each for each in companions_of(agent, "carrier") if each.pid not in killed]

    for _ in range(3):
        await eventually(another)
        carrier = another()[0]
        killed.add(carrier.pid)
        carrier.kill()
    gate.touch()
    record = await admin.wait(command, timeout_s=PATIENCE_S)
    block = b"".join(b"%d\n" % number for number in range(1, 101))
    assert (record.state, record.truncated) == ("succeeded", False)
    output = await printed(admin, command)
    times = int(output.splitlines()[-1])
    assert output == block * times + b"%d\n" % times
