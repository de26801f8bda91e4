"""Rows of the threat table about identities; each test is named after its row."""

import asyncio
import shutil
from pathlib import Path

import pytest

from broker_client.api import MeshClient
from schemas.messages.api import AgentRecord, AuditPage, AuditQuery, Done, NameQuery
from tests.children import Child
from tests.harness import MeshProcesses, program
from tests.meshes import mesh_fixture, state_reached
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-security-identity")]

ALARM_S = 60.0
BEAT_S = 0.2


mesh = mesh_fixture({"web": ("web-1",)})


async def shown(admin: MeshClient, name: str) -> AgentRecord:
    return await admin.ask("agent", "show", NameQuery(name=name), AgentRecord)


def copy_of(mesh: MeshProcesses, agent: str, number: int) -> Child:
    """A process on a copy of an agent's folder, as a thief or a cloned machine has it."""
    copy = mesh.directory / f"{agent}-copy-{number}"
    own = shutil.ignore_patterns("tasks", "journal.db*", "lock", "*.sock", "status*")
    shutil.copytree(mesh.agent_dir(agent), copy, ignore=own)
    argv = program("broker-agent", "run", "--state-dir", str(copy))
    child = Child(f"{agent}-copy-{number}", argv, mesh.logs, env=mesh.env, ready="ready ")
    mesh.agents[child.name] = child
    return child


async def alarm(admin: MeshClient, agent: str, *, count: int = 1) -> str:
    query = AuditQuery(action="agent.duplicate", target=agent, result="alarm")
    async with asyncio.timeout(ALARM_S):
        while True:
            page = await admin.ask("audit", "list", query, AuditPage)
            if len(page.entries) >= count:
                return page.entries[0].detail
            await asyncio.sleep(0.05)


async def test_sec_s01_copied_identity_is_an_alarm_and_revoking_it_shuts_both_out(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    host = Path("/etc/hostname").read_text().strip() if Path("/etc/hostname").exists() else ""
    first = await mesh.add_agent("twin", group="web", slots=2)
    held = await admin.submit(["sleep", "60"], agent="twin")
    await state_reached(admin, held.id, "running")
    second = copy_of(mesh, "twin", 1)
    await second.start()
    told = await alarm(admin, "twin")
    assert "its identity lives on" in told
    assert host in told
    assert "mesh agent revoke twin, mesh agent token twin" in told
    assert await first.wait() == 77
    assert "superseded" in first.stderr
    ended = await admin.wait(held.id, timeout_s=PATIENCE_S)
    assert ended.state == "killed_fenced", ended.reason
    assert "a newer session" in ended.reason
    assert (await admin.run(["true"], agent="twin", timeout_s=PATIENCE_S)).state == "succeeded"
    await admin.ask("agent", "revoke", NameQuery(name="twin"), Done)
    async with asyncio.timeout(ALARM_S):
        while (await shown(admin, "twin")).liveness == "live":
            await asyncio.sleep(0.05)
    assert (await shown(admin, "twin")).status == "disabled"
    # The thief asks for ever and is refused; the original cannot come back either.
    first.launch()
    await asyncio.sleep(5 * BEAT_S)
    assert (await shown(admin, "twin")).liveness != "live"
    first.kill()
    second.kill()


async def test_sec_s01_copies_that_take_over_from_each_other_in_turn_get_no_work(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    """As two service managers do that restart whatever ends."""
    await mesh.add_agent("feud", group="web", slots=2)
    for number in range(1, 4):
        await copy_of(mesh, "feud", number).start()
        await alarm(admin, "feud", count=number)
    record = await mesh.wait_status("feud", "no_response")
    assert record.reason.startswith("duplicate identity: it lives on ")
    assert " and " in record.reason
    assert "mesh agent revoke feud" in record.next
    queued = await admin.submit(["true"], agent="feud")
    await asyncio.sleep(5 * BEAT_S)
    assert (await admin.show(queued.id)).state == "queued"
    for name in ("feud", "feud-copy-1", "feud-copy-2", "feud-copy-3"):
        mesh.agents[name].kill()
