"""Hosts as they really are: busy, short of descriptors."""

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator

import pytest

from broker_client.api import MeshClient
from schemas.faults import MeshError
from schemas.messages.api import AgentRecord, GroupRecord, NameQuery
from tests.harness import MeshProcesses
from tests.meshes import shared_mesh, state_reached

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-hosts")]

WAIT_S = 10.0


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcesses]:
    agents = {"web": ("web-1",), "one": ()}
    with shared_mesh(tmp_path_factory.mktemp("mesh"), agents) as running:
        asyncio.run(running.add_agent("one-1", group="one", slots=1))
        yield running


@pytest.fixture
async def admin(mesh: MeshProcesses) -> AsyncIterator[MeshClient]:
    async with mesh.client() as client:
        yield client


async def agent_said(admin: MeshClient, name: str, reason: str) -> AgentRecord:
    """The agent's record once its reason has these words."""
    async with asyncio.timeout(WAIT_S):
        while True:
            record = await admin.ask("agent", "show", NameQuery(name=name), AgentRecord)
            if reason in record.reason:
                return record
            await asyncio.sleep(0.05)


async def test_group_whose_slots_are_all_taken_is_active(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    running = await admin.submit(["sleep", "60"], group="one")
    await state_reached(admin, running.id, "running")
    agent = await agent_said(admin, "one-1", "1 of 1 slots taken")
    await asyncio.sleep(0.4)  # two beats that say that no slot is free
    assert (agent.status, agent.badges) == ("active", [])
    group = await admin.ask("group", "show", NameQuery(name="one"), GroupRecord)
    assert (group.status, "all slots taken" in group.reason) == ("active", True)
    queued = await admin.submit(["true"], group="one", on_inactive="refuse")
    assert (queued.state, queued.target, queued.next) == ("queued", "active", "")
    reason = "waits for a free slot of an agent of one"
    assert (await admin.show(queued.id)).reason == reason
    listed = await mesh.cli("command", "list", "--group", "one", "--output", "json")
    assert reason in [each["reason"] for each in listed.json]
    await admin.cancel(running.id)
    assert (await admin.wait(queued.id)).state == "succeeded"


async def test_agent_short_of_descriptors_is_active_and_says_what_it_lacks(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    pid = mesh.agents["one-1"].pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (20, limits[1]))
    try:
        agent = await agent_said(admin, "one-1", "file descriptors are left")
        assert (agent.status, agent.badges) == ("active", ["few descriptors"])
        assert agent.next.startswith("takes work again")
        group = await admin.ask("group", "show", NameQuery(name="one"), GroupRecord)
        assert group.status == "active"
        assert group.reason == "1 of 1 agents active, none takes new work: 1 few descriptors"
        with pytest.raises(MeshError) as caught:
            await admin.submit(["true"], group="one", on_inactive="refuse")
        assert caught.value.code == "group_inactive"
        assert "no agent of one takes new work: 1 few descriptors" in str(caught.value)
        queued = await admin.submit(["true"], agent="one-1", queue_ttl_s=60)
        assert queued.target == "active"
        assert "waits for one-1 to take work again" in queued.next
        assert "few descriptors" in (await admin.show(queued.id)).reason
        series = 'mesh_agent_lacks{agent="one-1",group="one",lack="descriptors"} 1'
        assert series in await asyncio.to_thread(mesh._metrics)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert (await admin.wait(queued.id)).state == "succeeded"
    await agent_said(admin, "one-1", "beats arrive")
