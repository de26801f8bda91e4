"""Row S11 of the threat table, in short: one talker does not stop the others."""

import asyncio
from collections.abc import Iterator

import pytest

from broker_client.api import MeshClient
from schemas.messages.api import GroupCreate, GroupRecord
from tests.harness import MeshProcesses
from tests.meshes import shared_mesh
from tests.storms import LOUD, LOUD_GROUP, STORMS, entries, fare, harmed, raging, series

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-storms")]

STORM_S = 2.5


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcesses]:
    directory = tmp_path_factory.mktemp("mesh")
    with shared_mesh(directory, {"web": ("web-1", "web-2")}) as running:
        asyncio.run(add_loud(running))
        yield running


async def add_loud(mesh: MeshProcesses) -> None:
    await mesh.add_group(LOUD_GROUP)
    await mesh.add_agent(LOUD, group=LOUD_GROUP, start=False)


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
    assert storm.sent > STORM_S * STORMS[name].per_s / 3
    metrics = mesh._metrics()
    assert await harmed(mesh, admin, metrics) == []
    # Most of it was not looked at, which is told; what others did is in the trail.
    shed = dict(series(metrics, "mesh_messages_shed_total"))
    assert shed['{reason="rate"}'] > 0
    assert set(made) <= set(await entries(admin, "group.create"))
    assert len(fared.latencies) >= 10
