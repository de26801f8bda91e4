"""The account of agents that are back, or were never away, follows from facts."""

import asyncio
import os
import signal

import pytest

from broker_client.api import MeshClient
from schemas.messages.actions import NoopArgs
from schemas.messages.api import AgentRecord, EventRecord, NameQuery
from schemas.verbs import AGENT_SHOW
from tests.harness import MeshProcesses
from tests.meshes import mesh_fixture, refused, state_reached
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

TIMERS = {
    "MESH_TIMERS__BEAT_S": "0.3",
    "MESH_TIMERS__SUSPECT_S": "3",
    "MESH_TIMERS__RESENDS": "20",
    "MESH_TIMERS__LOST_S": "25",
    "MESH_TIMERS__ADOPT_S": "5",
}
# The agents' own deadline comes first; the master stands still for less than that.
PAUSE_S = 4.5


mesh = mesh_fixture({"web": ("web-1", "web-2"), "db": ("db-1",)}, env=TIMERS)


async def shown(client: MeshClient, agent: str) -> AgentRecord:
    return await client.ask(AGENT_SHOW, NameQuery(name=agent))


async def told(client: MeshClient, filter: str) -> list[EventRecord]:
    return [event async for event in client.events(filter, since=1.0) if event.kind != "gap"]


async def restarted(mesh: MeshProcesses, agent: str) -> None:
    mesh.agents[agent].kill()
    await mesh.agents[agent].start()


@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("output", ["", "head -c 300000 /dev/zero;"], ids=["bare", "output"])
async def test_task_that_a_restart_of_its_agent_has_ended_never_went_on(
    mesh: MeshProcesses, number: int, output: str
) -> None:
    """With much output its end is reported later than the agent is back."""
    async with mesh.client() as client:
        command = f"ended-{number}-{len(output)}"
        work = ["sh", "-c", f"{output} exec sleep 600"]
        await client.submit(work, id=command, agent="web-1", on_lost="error", loss="continue")
        await state_reached(client, command, "running")
        await mesh.wait_status("web-1", "active")
        await restarted(mesh, "web-1")
        record = await client.wait(command)
        assert (record.state, record.reason) == ("lost", "agent restarted")
        whats = [event.what for event in await told(client, f"kind:command {command}")]
        assert "running" not in whats[whats.index("unknown") :] if "unknown" in whats else True
        async with asyncio.timeout(PATIENCE_S):
            while (returned := (await shown(client, "web-1")).returned) == "":
                await asyncio.sleep(0.05)
        assert ": 0 tasks went on, 1 ended (1 lost)" in returned


async def test_pause_of_the_master_is_told_of_no_agent(mesh: MeshProcesses) -> None:
    async with mesh.client() as client:
        for agent in ("web-2", "db-1"):
            await mesh.wait_status(agent, "active")
        await client.submit(["sleep", "600"], id="long", agent="web-2", loss="continue")
        await state_reached(client, "long", "running")
        before = [await shown(client, agent) for agent in ("web-2", "db-1")]
        events = await told(client, "kind:agent,group web-2,db-1,web,db")
    for _ in range(2):
        os.kill(mesh.master.pid, signal.SIGSTOP)
        await asyncio.sleep(PAUSE_S)  # the length of the pause is what is tried
        os.kill(mesh.master.pid, signal.SIGCONT)
        async with mesh.client() as client:
            assert (await client.run(NoopArgs(), agent="db-1")).state == "succeeded"
            await asyncio.sleep(1.0)  # several beats and looks, in which anything would be told
            after = [await shown(client, agent) for agent in ("web-2", "db-1")]
            for old, new in zip(before, after, strict=True):
                assert (new.status, new.since, new.returned) == (
                    old.status,
                    old.since,
                    old.returned,
                )
            assert await told(client, "kind:agent,group web-2,db-1,web,db") == events
            assert (await client.show("long")).state == "running"
    async with mesh.client() as client:
        await client.cancel("long")


async def test_restart_of_the_master_is_no_return_of_its_agents(mesh: MeshProcesses) -> None:
    async with mesh.client() as client:
        await mesh.wait_status("db-1", "active")
        before = await shown(client, "db-1")
    await mesh.restart_master()
    after = await mesh.wait_status("db-1", "active")
    assert (after.since, after.returned) == (before.since, "")


async def test_lost_connection_of_the_only_agent_is_no_reason_to_refuse(
    mesh: MeshProcesses,
) -> None:
    async with mesh.client() as client:
        await mesh.wait_status("db-1", "active")
        mesh.agents["db-1"].kill()
        async with asyncio.timeout(PATIENCE_S):
            while (await shown(client, "db-1")).cause == "ready":
                await asyncio.sleep(0.01)
        soon = await shown(client, "db-1")
        taken = await client.submit(NoopArgs(), agent="db-1", on_inactive="refuse")
        late = await shown(client, "db-1")
        if late.status == "active":
            assert (soon.cause, taken.state) == ("disconnected", "queued")
        await mesh.wait_status("db-1", "no_response")
        with refused("group_inactive"):
            await client.submit(NoopArgs(), agent="db-1", on_inactive="refuse")
        await mesh.agents["db-1"].start()
        assert (await client.wait(taken.id)).state == "succeeded"
