"""Certificates that are renewed while work goes on, and what is left when a step of it fails."""

from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest

from broker_agent.store.identity import Slots
from broker_client.api import MeshClient
from schemas.messages.api import AgentRecord, NameQuery
from tests.harness import MeshProcesses
from tests.meshes import shared_mesh
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-rotation")]

SOON_S: Final = 20.0


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcesses]:
    agents = {"web": ("web-1", "web-2")}
    with shared_mesh(tmp_path_factory.mktemp("mesh"), agents) as running:
        yield running


@pytest.fixture
async def admin(mesh: MeshProcesses) -> AsyncIterator[MeshClient]:
    async with mesh.client() as client:
        yield client


async def shown(admin: MeshClient, name: str) -> AgentRecord:
    return await admin.ask("agent", "show", NameQuery(name=name), AgentRecord)


def serial(record: AgentRecord) -> str:
    assert record.certificate is not None
    return record.certificate.serial


async def test_agent_that_is_told_to_renews_and_goes_on_as_the_same_process(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    before = await shown(admin, "web-1")
    ran = await mesh.cli("agent", "rotate", "web-1", "--wait", "--output", "json")
    assert ran.code == 0, ran.err
    after = await shown(admin, "web-1")
    assert serial(after) == ran.json[0]["serial"] != serial(before)
    assert (after.status, after.details.pid, after.since) == (
        "active",
        before.details.pid,
        before.since,
    )
    slots = Slots(mesh.agent_dir("web-1"))
    facts = slots.facts()
    assert facts is not None
    assert facts.serial == serial(after)
    await eventually(lambda: not slots.is_unconfirmed, SOON_S, what="the old keys are deleted")
    record = await admin.run(["true"], agent="web-1")
    assert record.state == "succeeded"
