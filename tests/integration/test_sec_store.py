"""Row S11: commands never take the room that the ends of commands need."""

import asyncio
from pathlib import Path

import pytest

from broker_client.api import MeshClient
from broker_master.core.room import _RESERVE_PART
from schemas.faults import MeshError
from schemas.messages.actions import ProcessArgs
from schemas.messages.facts import CommandRecord
from tests.harness import MeshProcesses
from tests.meshes import LONG_LEASE, behind, mesh_fixture, state_reached
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-store")]

LIMIT = 1_000_000
RUNNING = 6
# Not so large that it would have a share of its own.
LARGE = ProcessArgs(argv=["cat"], stdin=b"x" * 3_900)
# No lease may end while the store is filled and the master is started twice, however long it takes:
# what waits for a slot would run then.
NO_LOSS = {
    **LONG_LEASE,
    "MESH_TIMERS__SUSPECT_S": "60",
    "MESH_TIMERS__LOST_S": "300",
    "MESH_TIMERS__ADOPT_S": "300",
}
SETTINGS = {
    "MESH_LIMITS__EVENT_BYTES": str(LIMIT),
    # So that the room of what has ended comes back within the test.
    "MESH_RETENTION__FACTS_S": "5",
    "MESH_RETENTION__CHECKPOINT_S": "0.5",
}


mesh = mesh_fixture(
    {"web": ("web-1",), "idle": ("idle-1",)},
    slots=RUNNING,
    env=NO_LOSS,
    master_env=SETTINGS,
    scope="function",
)


async def fill(admin: MeshClient) -> list[str]:
    """Submit until there is no more room; the commands that were taken."""
    taken = []
    while True:
        try:
            taken.append((await admin.submit(LARGE, agent="idle-1")).id)
        except MeshError as error:
            if error.code != "store_full":
                raise
            return taken


async def test_sec_s11_full_event_store_refuses_commands_and_stores_every_end(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    # What they print rides in the facts of their ends, so that these are not small.
    script = f"head -c 8000 /dev/zero | tr '\\0' x; until [ -e {gate} ]; do sleep 0.1; done"
    running = [await admin.submit(["sh", "-c", script], agent="web-1") for _ in range(RUNNING)]
    for each in running:
        await state_reached(admin, each.id, "running")
    waiting = await admin.submit(["true"], agent="web-1")
    assert (await mesh.cli("agent", "disable", "idle-1")).code == 0
    taken = await fill(admin)
    assert len(taken) > 100
    # Also of a master that was just started, which has to look first how much there is.
    mesh.master.kill()
    await mesh.master.start()
    await admin.link.wait_connected(PATIENCE_S)
    taken += await fill(admin)
    async with behind(mesh) as stream:
        held = (await stream.info("MESH_EVENTS"))["state"]["bytes"]
    assert LIMIT / 2 < held <= LIMIT * (1 - _RESERVE_PART)
    # Cancels of what runs and of what waits, and all ends, are stored in the reserve. What waits
    # comes first: it would run in the slot of the cancelled command.
    for known in (waiting.id, running[0].id, *taken[:10]):
        await admin.cancel(known)
    gate.touch()
    ends = [await admin.wait(each.id, timeout_s=PATIENCE_S) for each in running]
    assert [end.state for end in ends] == ["cancelled"] + ["succeeded"] * (RUNNING - 1)
    assert all(end.stdout_bytes == 8000 for end in ends[1:])
    for known in (waiting.id, *taken[:10]):
        await state_reached(admin, known, "cancelled")
    mesh.master.kill()
    await mesh.master.start()
    await admin.link.wait_connected(PATIENCE_S)
    for end in ends:
        assert_same(end, await admin.show(end.id))
    # What has ended makes room again.
    for known in taken[10:60]:
        await admin.cancel(known)
    async with asyncio.timeout(PATIENCE_S):
        while await refused_with(admin):
            await asyncio.sleep(0.2)


async def refused_with(admin: MeshClient) -> str:
    """The fault's code; empty if a command is taken, which is cancelled then."""
    try:
        command = await admin.submit(LARGE, agent="idle-1")
    except MeshError as error:
        return error.code
    await admin.cancel(command.id)
    return ""


def assert_same(before: CommandRecord, after: CommandRecord) -> None:
    assert (after.state, after.stdout_bytes) == (before.state, before.stdout_bytes)
