"""Everything a master needs is in the streams: it may be killed at any moment and started again."""

import asyncio
import json
import os
import random
import signal
from collections import Counter
from functools import partial
from pathlib import Path

import msgspec
import psutil
import pytest

from broker_client.api import MeshClient
from schemas.messages.actions import NoopArgs
from schemas.messages.api import CommandList
from schemas.states import TERMINAL
from tests.harness import MeshProcesses
from tests.meshes import LONG_LEASE, behind, mesh_fixture, state_reached
from tests.waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-restart")]

COMMANDS = 100
SUBMIT_S = 60.0


mesh = mesh_fixture({"web": ("web-1", "web-2"), "db": ("db-1",)}, slots=6, env=LONG_LEASE)


async def submitted(
    client: MeshClient, command_id: str, work: list[str], group: str = "web"
) -> None:
    """Submit until it is accepted, as a client with an id of its own may."""
    await client.submit(work, group=group, id=command_id, timeout_s=SUBMIT_S)


async def ended_states(client: MeshClient, ids: list[str]) -> Counter[str]:
    records = await asyncio.gather(*(client.wait(each, timeout_s=60) for each in ids))
    return Counter(record.state for record in records)


@pytest.mark.parametrize("seed", [1, 2])
async def test_failover_under_load_runs_every_accepted_command_exactly_once(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path, seed: int
) -> None:
    """The embedded broker dies with it; submitters try again with the ids that they chose."""
    chance = random.Random(seed)
    witness = tmp_path / "witness"
    ids = [f"load-{seed}-{n}" for n in range(COMMANDS)]
    accepted = 0

    async def load(part: list[str]) -> None:
        nonlocal accepted
        for each in part:
            await submitted(admin, each, ["sh", "-c", f"echo {each} >> {witness}; sleep 0.02"])
            accepted += 1

    def reached(wanted: int) -> bool:
        return accepted >= wanted

    async with asyncio.TaskGroup() as loads:
        for start in range(8):
            loads.create_task(load(ids[start::8]))
        for share in (0.2, 0.6):
            wanted = int(COMMANDS * (share + chance.uniform(-0.1, 0.1)))
            await eventually(partial(reached, wanted), SUBMIT_S)
            mesh.master.kill()
            await mesh.start_master()
    assert await ended_states(admin, ids) == {"succeeded": COMMANDS}
    assert Counter(witness.read_text().split()) == dict.fromkeys(ids, 1)
    page = await admin.list()
    assert page.commands
    async with behind(mesh) as inside:
        stored = [subject for subject, _ in await inside.stored("MESH_EVENTS")]
    ours = Counter(subject for subject in stored if f".load-{seed}-" in subject)
    assert set(ours.values()) == {1}


async def test_running_and_queued_commands_survive_a_failover(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    await mesh.wait_status("db-1", "active")
    text = f"echo $$ >> {tmp_path}/pids; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    running = [await admin.submit(["sh", "-c", text], group="db") for _ in range(6)]
    waiting = [
        await admin.submit(["sh", "-c", f"echo {n} >> {tmp_path}/order"], group="db")
        for n in range(4)
    ]
    for each in running:
        await state_reached(admin, each.id, "running")
    mesh.master.kill()
    await mesh.start_master()
    await mesh.wait_status("db-1", "active")
    await admin.link.wait_connected(PATIENCE_S)
    for each in running:
        assert (await state_reached(admin, each.id, "running")).attempts[0].attempt == 1
    for each in waiting:
        assert (await admin.show(each.id)).state == "queued"
    (tmp_path / "go").touch()
    ids = [each.id for each in (*running, *waiting)]
    assert await ended_states(admin, ids) == {"succeeded": 10}
    assert len((tmp_path / "pids").read_text().split()) == 6
    assert sorted((tmp_path / "order").read_text().split()) == ["0", "1", "2", "3"]


async def test_end_during_a_failover_is_reported_after_it(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    text = f"echo begun; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exit 5"
    answer = await admin.submit(["sh", "-c", text], agent="db-1", with_output=True)
    await state_reached(admin, answer.id, "running")
    mesh.master.kill()
    (tmp_path / "go").touch()
    await mesh.start_master()
    record = await admin.wait(answer.id, with_output=True, timeout_s=PATIENCE_S)
    assert (record.state, record.attempts[0].exit_code) == ("failed", 5)
    assert record.output is not None
    assert record.output.stdout == b"begun\n"


async def test_cancel_before_a_failover_is_carried_out_after_it(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    agent = mesh.agents["db-1"]
    await mesh.wait_status("db-1", "active")
    answer = await admin.submit(["sleep", "120"], agent="db-1")
    await state_reached(admin, answer.id, "running")
    agent.signal(signal.SIGSTOP)
    try:
        await admin.cancel(answer.id)
        mesh.master.kill()
        await mesh.start_master()
    finally:
        agent.signal(signal.SIGCONT)
    assert (await admin.wait(answer.id, timeout_s=PATIENCE_S)).state == "cancelled"


async def test_epoch_grows_with_every_start(mesh: MeshProcesses, admin: MeshClient) -> None:
    before = await admin.status()
    await mesh.restart_master()
    async with mesh.client() as anew:
        after = await anew.status()
    assert after.epoch > before.epoch
    assert after.mesh == before.mesh
    assert after.started_at > before.started_at


async def lists(mesh: MeshProcesses) -> list[object]:
    """Output of `command list`, as people see it, and page by page in each of its filters."""
    ran = await mesh.cli("command", "list", "--limit", "400", "--output", "json")
    assert ran.code == 0, ran.err
    shown: list[object] = [json.loads(ran.out)]
    async with mesh.client() as client:
        for query in (
            CommandList(limit=30),
            CommandList(group="web", limit=70),
            CommandList(agent="db-1"),
            CommandList(state="failed"),
        ):
            found = []
            page = await client.list(query)
            while page.cursor is not None:
                found += page.commands
                page = await client.list(msgspec.structs.replace(query, cursor=page.cursor))
            shown.append([*found, *page.commands])
    return shown


async def settled(admin: MeshClient) -> None:
    """Until nothing is open any more and history has all that ended."""
    for record in (await admin.list()).commands:
        if record.state not in TERMINAL:
            await admin.cancel(record.id)
            await admin.wait(record.id)
    async with asyncio.timeout(PATIENCE_S):
        while (await admin.status()).commands:
            await asyncio.sleep(0.05)


async def test_deleted_read_model_is_rebuilt_and_the_lists_are_equal(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    await mesh.wait_status("db-1", "active")
    await admin.run(["false"], group="db", id="readmodel-1", labels={"a": "b"})
    await settled(admin)
    before = await lists(mesh)
    assert len(before[0]) > COMMANDS  # type: ignore[arg-type]
    mesh.master.kill()
    for name in ("readmodel.db", "readmodel.db-wal", "readmodel.db-shm"):
        (mesh.state_dir / name).unlink(missing_ok=True)
    await mesh.start_master()
    assert await lists(mesh) == before
    again = await admin.submit(["false"], group="db", id="readmodel-1", labels={"a": "b"})
    assert again.duplicate


async def test_damaged_read_model_is_rebuilt_as_well(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    await settled(admin)
    before = await lists(mesh)
    await mesh.master.stop()
    (mesh.state_dir / "readmodel.db").write_bytes(os.urandom(5000))
    await mesh.start_master()
    assert await lists(mesh) == before


async def test_open_commands_are_listed_in_the_same_order_after_a_crash(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    await mesh.wait_status("db-1", "active")
    ids = [f"order-{n}" for n in range(8)]
    for each in ids:
        await admin.submit(["sleep", "120"], agent="db-1", id=each)
    await mesh.restart_master(kill=True)
    async with mesh.client() as anew:
        page = await anew.list()
        assert [record.id for record in page.commands if record.id in ids] == ids[::-1]
        await mesh.wait_status("db-1", "active")
        for each in ids:
            await anew.cancel(each)
        assert await ended_states(anew, ids) == {"cancelled": 8}


async def test_broker_killed_alone_is_started_again_and_nothing_is_lost(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    master, pid = mesh.master.pid, mesh.broker_pid
    ids = [f"broker-{n}" for n in range(30)]

    async def load(part: list[str]) -> None:
        for each in part:
            await submitted(admin, each, ["sh", "-c", f"echo {each} >> {witness}; sleep 0.05"])

    async with asyncio.TaskGroup() as loads:
        for start in range(3):
            loads.create_task(load(ids[start::3]))
        await eventually(witness.exists)
        psutil.Process(pid).kill()
    assert await ended_states(admin, ids) == {"succeeded": 30}
    assert Counter(witness.read_text().split()) == dict.fromkeys(ids, 1)
    assert mesh.master.pid == master
    assert mesh.master.is_running
    assert mesh.broker_pid != pid
    assert (await admin.run(NoopArgs(), group="db")).state == "succeeded"


async def test_crash_between_two_masters_leaves_one_broker_and_no_zombie_of_it(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    before = mesh.broker_pid
    mesh.master.kill()
    await mesh.start_master()
    await eventually(lambda: not psutil.pid_exists(before))
    assert psutil.Process(mesh.broker_pid).ppid() == mesh.master.pid
    await mesh.wait_status("web-1", "active")
    assert (await admin.run(NoopArgs(), group="web")).state == "succeeded"


async def test_status_since_reason_and_last_beat_survive_restarts_of_the_master(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    """One that was active still is since then; one that has ended has the same story as before."""
    live = await mesh.wait_status("web-1", "active")
    groups = {each.group: each.since for each in await admin.groups()}
    await mesh.wait_status("db-1", "active")
    assert await mesh.agents["db-1"].stop() == 0
    gone = await mesh.wait_status("db-1", "no_response")
    assert gone.reason == "shut down"
    for end in (mesh.master.stop, mesh.master.stop):
        await end()
        await mesh.start_master()
        again = await mesh.wait_status("db-1", "no_response")
        assert (again.reason, again.cause, again.next) == (gone.reason, gone.cause, gone.next)
        assert (again.since, again.last_beat_at) == (gone.since, gone.last_beat_at)
        assert (await mesh.wait_status("web-1", "active")).since == live.since
    await admin.link.wait_connected(PATIENCE_S)
    found = {each.group: each.since for each in await admin.groups()}
    assert found["web"] == groups["web"]
    await mesh.agents["db-1"].start()
    assert (await mesh.wait_status("db-1", "active")).since > gone.since


async def test_orderly_stop_is_quick_and_leaves_nothing_running(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    broker = mesh.broker_pid
    assert await mesh.master.stop() == 0, "it is not ended by force"
    assert not psutil.pid_exists(broker)
    await mesh.start_master()
    await mesh.wait_status("web-1", "active")
    assert (await admin.run(NoopArgs(), group="web")).state == "succeeded"
