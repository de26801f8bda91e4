"""Row S11 of the threat table, in short: one talker does not stop the others."""

import asyncio
from pathlib import Path

import pytest

from broker_client.api import MeshClient
from schemas.faults import MeshError
from schemas.messages.actions import NoopArgs
from schemas.messages.api import GroupCreate, GroupRecord, NoQuery, StatusAnswer
from tests.harness import MeshProcesses
from tests.meshes import client_of, mesh_fixture
from tests.storms import LOUD, LOUD_GROUP, STORMS, entries, fare, harmed, raging, series
from tests.torrents import CLIENT, CONNECTIONS, pouring
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-storms")]

STORM_S = 2.5


async def add_loud(mesh: MeshProcesses) -> None:
    await mesh.add_group(LOUD_GROUP)
    await mesh.add_agent(LOUD, group=LOUD_GROUP, start=False)


mesh = mesh_fixture({"web": ("web-1", "web-2")}, prepare=add_loud)


@pytest.mark.parametrize("name", ["reports", "beats", "incarnations"])
async def test_sec_s11_storm_of_one_agent_stops_nobody_else(
    mesh: MeshProcesses, admin: MeshClient, name: str
) -> None:
    made = [f"{name}-{number}" for number in range(3)]
    async with raging(mesh, LOUD, name) as storm:
        running = asyncio.create_task(fare(admin, STORM_S, agent="web-1"))
        for group in made:
            await admin.ask("group", "create", GroupCreate(name=group), GroupRecord)
            await asyncio.sleep(STORM_S / 5)
        fared = await running
    # Many times what it may say, on a slow machine too; how much of it was shed is counted below.
    assert storm.sent > STORM_S * STORMS[name].per_s / 20
    metrics = mesh._metrics()
    assert await harmed(mesh, admin, metrics) == []
    # Most of it was not looked at, which is told; what others did is in the trail.
    shed = dict(series(metrics, "mesh_messages_shed_total"))
    assert shed['{reason="rate"}'] > 0
    assert set(made) <= set(await entries(admin, "group.create"))
    assert fared.latencies


async def test_sec_s11_client_that_sends_as_fast_as_it_can_is_shut_out(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    """The broker's counters show it, and a reconnect does not let it in again."""
    loud = await client_of(mesh, CLIENT, "operator", directory=tmp_path)
    async with pouring(mesh.nats_url, loud, "requests") as torrent:
        async with asyncio.timeout(60):
            while not dict(series(mesh._metrics(), "mesh_shut_out_total")).get('{role="client"}'):
                await asyncio.sleep(0.05)
        # What was asked before may be lost with the master's link, and is asked again.
        await admin.run(NoopArgs(), agent="web-1", timeout_s=60)
        fared = await fare(admin, STORM_S, agent="web-1")
        # On a slow machine the first time is over by now, and the next has yet to begin.
        async with asyncio.timeout(PATIENCE_S):
            while await _refusal(mesh, loud) != "credentials_rejected":
                await asyncio.sleep(0.05)
            while not await _is_noted(admin):
                await asyncio.sleep(0.05)
    assert torrent.cuts >= CONNECTIONS
    assert fared.latencies
    assert set(await entries(admin, "client.shut_out")) == {CLIENT}
    async with asyncio.timeout(2 * PATIENCE_S):
        while await _refusal(mesh, loud):
            await asyncio.sleep(0.2)


async def _refusal(mesh: MeshProcesses, context: Path) -> str:
    """The code of the fault of a new connection, or empty."""
    try:
        async with mesh.client(context):
            return ""
    except MeshError as fault:
        return fault.code


async def _is_noted(admin: MeshClient) -> bool:
    status = await admin.ask("mesh", "status", NoQuery(), StatusAnswer)
    return any(note.startswith(f"{CLIENT} is shut out until") for note in status.notes)
