"""F34 with kill -9: a master that dies within a step of a rotation completes it afterwards."""

import asyncio
from pathlib import Path

import pytest

from broker_client.api import MeshClient
from broker_master.core.rotation import STEPS
from schemas.messages.api import CaAnswer, CaRotate
from tests.harness import FAST_TIMERS, MeshProcesses
from tests.integration.test_ca_rotation import STEP_S, shown, take
from tests.meshes import LONG_LEASE

pytestmark = [pytest.mark.chaos]


@pytest.mark.parametrize("key", ["authority", "agent", "system", "nats-operator"])
async def test_f34_master_killed_within_a_step_completes_it_by_the_same_step(
    tmp_path: Path, key: str
) -> None:
    """Each step of the four dies once, after it was decided; what runs meanwhile stays good."""
    place = "master.ca_stepped" if key == "authority" else "master.key_stepped"
    armed = {"MESH_FAILPOINTS": f"{place}=kill", "MESH_ALLOW_FAILPOINTS": "tests"}
    mesh = MeshProcesses(tmp_path, env={**FAST_TIMERS, **LONG_LEASE})
    async with mesh:
        await mesh.add_group("web")
        await mesh.add_agent("web-1", group="web")
        for step in STEPS:
            mesh.master.env.update(armed)
            await mesh.restart_master()
            await mesh.wait_status("web-1", "active")
            async with mesh.client() as admin:
                await admin.renew()
                await nobody_waits_any_more(admin, key)
                order = CaRotate(step=step, key=key)
                lost = asyncio.ensure_future(admin.ask("ca", "rotate", order, CaAnswer))
                await mesh.master.wait(STEP_S)
                lost.cancel()
            for name in armed:
                mesh.master.env.pop(name)
            await mesh.start_master()
            async with mesh.client() as admin:
                await mesh.wait_status("web-1", "active")
                await take(admin, step, key=key)
                record = await admin.run(["true"], agent="web-1", timeout_s=STEP_S)
                assert record.state == "succeeded"
        async with mesh.client() as admin:
            rotation = await shown(admin, key)
            assert (rotation.stage, rotation.active, rotation.other) == ("settled", 2, 0)


async def nobody_waits_any_more(client: MeshClient, key: str) -> None:
    async with asyncio.timeout(STEP_S):
        while (await shown(client, key)).waiting:
            await asyncio.sleep(0.1)
