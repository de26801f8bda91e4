"""Windows of seconds instead of hours: facts are purged, and nothing that counts goes with them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from broker_client.api import MeshClient
from schemas import codec, subjects
from schemas.messages.actions import NoopArgs
from schemas.messages.facts import HistoryRecord
from tests.harness import MeshProcesses
from tests.meshes import (
    LONG_LEASE,
    Behind,
    behind,
    mesh_fixture,
    refused,
    state_reached,
)
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-history")]

FACTS_S = 2.0
PURGED_S = 60.0


mesh = mesh_fixture(
    {"web": ("web-1",)},
    slots=16,
    env=LONG_LEASE,
    master_env={
        "MESH_RETENTION__FACTS_S": f"{FACTS_S:g}",
        "MESH_RETENTION__CHECKPOINT_S": "0.25",
    },
)


@pytest.fixture
async def inside(mesh: MeshProcesses) -> AsyncIterator[Behind]:
    async with behind(mesh) as looking:
        yield looking


async def facts_of(inside: Behind, command_id: str) -> list[str]:
    """Kinds of the facts that the event stream holds of a command, each as often as it is there."""
    found = []
    for subject, _ in await inside.stored("MESH_EVENTS"):
        fact = subjects.parse_fact(subject)
        if fact is not None and fact.command == command_id:
            found.append(fact.kind)
    return found


async def purged(inside: Behind, command_id: str) -> None:
    """Wait until no fact of an ended command is left."""
    async with asyncio.timeout(PURGED_S):
        while await facts_of(inside, command_id):
            await asyncio.sleep(0.1)


async def carried(inside: Behind, command_id: str) -> None:
    """Wait until the facts of an open command stand at other places than they were written to."""
    first = (await inside.info("MESH_EVENTS"))["state"]["last_seq"]
    async with asyncio.timeout(PURGED_S):
        while (await inside.info("MESH_EVENTS"))["state"]["first_seq"] <= first:
            await asyncio.sleep(0.1)
    assert await facts_of(inside, command_id)


async def history_of(inside: Behind, *ids: str) -> list[HistoryRecord]:
    records = [
        codec.decode_trusted(HistoryRecord, data) for _, data in await inside.stored("MESH_HISTORY")
    ]
    return [record for record in records if not ids or record.record.id in ids]


async def test_events_shrink_and_history_has_one_record_per_command(
    admin: MeshClient, inside: Behind
) -> None:
    ids = [f"many-{n}" for n in range(200)]
    records = await asyncio.gather(
        *(admin.run(NoopArgs(), group="web", id=command_id) for command_id in ids)
    )
    assert {record.state for record in records} == {"succeeded"}
    assert (await inside.info("MESH_EVENTS"))["state"]["last_seq"] >= 2 * len(ids)
    async with asyncio.timeout(PURGED_S):
        while await inside.messages("MESH_EVENTS"):
            await asyncio.sleep(0.1)
    kept = await history_of(inside)
    assert sorted(each.record.id for each in kept if each.record.id in ids) == sorted(ids)
    shown = await admin.show(ids[0], with_output=True)
    assert shown == records[0]


async def test_record_of_history_is_complete(admin: MeshClient, inside: Behind) -> None:
    work = ["sh", "-c", "echo out; echo err >&2; exit 3"]
    told = await admin.run(work, group="web", id="complete-1", labels={"ticket": "42"})
    async with asyncio.timeout(PURGED_S):
        while not (found := await history_of(inside, "complete-1")):
            await asyncio.sleep(0.05)
    (kept,) = found
    assert msgspec.to_builtins(kept.record) == msgspec.to_builtins(told)
    assert kept.record.arguments is not None
    assert kept.record.arguments.argv == work
    assert kept.accepted is not None, "it can be submitted again"
    assert kept.digest
    assert kept.submitted < kept.ended
    assert not kept.amended


async def test_id_is_a_duplicate_long_after_its_facts_are_purged(
    admin: MeshClient, inside: Behind, mesh: MeshProcesses, tmp_path: Path
) -> None:
    work = ["sh", "-c", f"echo ran >> {tmp_path}/witness"]
    await admin.run(work, group="web", id="old-1")
    await purged(inside, "old-1")
    again = await admin.submit(work, group="web", id="old-1")
    assert (again.duplicate, again.state) == (True, "succeeded")
    with refused("id_conflict"):
        await admin.submit(["false"], group="web", id="old-1")
    assert await facts_of(inside, "old-1") == []
    assert (tmp_path / "witness").read_text() == "ran\n"


async def test_long_command_outlives_the_purge_and_crashes_of_the_master(
    mesh: MeshProcesses, admin: MeshClient, inside: Behind, tmp_path: Path
) -> None:
    """Its facts are carried forward, so every later start of a master knows it."""
    text = (
        f"echo ran >> {tmp_path}/witness; echo begun;"
        f" while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo done"
    )
    answer = await admin.submit(["sh", "-c", text], group="web", id="long-1", with_output=True)
    queued = await admin.submit(["true"], agent="web-1", id="long-2", labels={"kept": "yes"})
    await admin.wait(queued.id)
    await state_reached(admin, answer.id, "running")
    for _ in range(2):
        await carried(inside, "long-1")
        assert await facts_of(inside, "long-1") == ["accepted"]
    mesh.master.kill()
    await mesh.start_master()
    async with mesh.client() as anew, behind(mesh) as looking:
        record = await state_reached(anew, "long-1", "running")
        assert [each.agent for each in record.attempts] == ["web-1"]
        await carried(looking, "long-1")
        again = await anew.submit(["sh", "-c", text], group="web", id="long-1", with_output=True)
        assert again.duplicate
        (tmp_path / "go").touch()
        ended = await anew.wait("long-1", with_output=True, timeout_s=PATIENCE_S)
        assert ended.state == "succeeded"
        assert ended.output is not None
        assert ended.output.stdout == b"begun\ndone\n"
        assert (tmp_path / "witness").read_text() == "ran\n"
        await purged(looking, "long-1")
        assert len(await history_of(looking, "long-1")) == 1


async def test_waiting_command_outlives_the_purge_and_a_crash(
    mesh: MeshProcesses, tmp_path: Path
) -> None:
    async with mesh.client() as admin, behind(mesh) as inside:
        await mesh.wait_status("web-1", "active")
        full = [await admin.submit(["sleep", "120"], agent="web-1") for _ in range(16)]
        text = f"echo ran >> {tmp_path}/witness"
        await admin.submit(["sh", "-c", text], agent="web-1", id="patient-1")
        await carried(inside, "patient-1")
    mesh.master.kill()
    await mesh.start_master()
    async with mesh.client() as admin, behind(mesh) as inside:
        await mesh.wait_status("web-1", "active")
        assert (await admin.show("patient-1")).state == "queued"
        for each in full:
            await state_reached(admin, each.id, "running")
            await admin.cancel(each.id)
        assert (await admin.wait("patient-1", timeout_s=PATIENCE_S)).state == "succeeded"
        assert (tmp_path / "witness").read_text() == "ran\n"
        for each in full:
            assert (await admin.wait(each.id, timeout_s=PATIENCE_S)).state == "cancelled"
        await purged(inside, "patient-1")
        ids = ["patient-1", *(each.id for each in full)]
        kept = [record.record.id for record in await history_of(inside, *ids)]
        assert sorted(kept) == sorted(ids)


async def test_stream_of_facts_is_empty_in_the_end(mesh: MeshProcesses) -> None:
    async with behind(mesh) as inside, asyncio.timeout(PURGED_S):
        while await inside.messages("MESH_EVENTS"):
            await asyncio.sleep(0.1)
        ids = [record.record.id for record in await history_of(inside)]
        assert len(ids) == len(set(ids))
