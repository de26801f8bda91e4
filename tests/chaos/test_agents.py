"""Agents that freeze, die, come back, or have nothing left to write to."""

import asyncio
import contextlib
import os
import resource
import shutil
import signal
from pathlib import Path

import psutil
import pytest

from tests.chaos.conftest import MakeWorld
from tests.chaos.test_links import passes, working
from tests.chaos.test_masters import failpoint
from tests.chaos.verdict import keeps_its_promises, unavailable
from tests.chaos.world import CALM, PATIENT, World
from tests.requirements_policy import require

pytestmark = pytest.mark.chaos


JOURNAL = ("journal.db", "journal.db-wal")


@pytest.mark.parametrize("variant", ["short", "suspect", "fenced"])
async def test_f19_frozen_agent(world_of: MakeWorld, variant: str) -> None:
    async with world_of() as world:
        ids = await working(world, runs_s=60 if variant == "fenced" else 5)
        world.stop_agent("a1")
        await passes({"short": 0.4, "suspect": 2.0, "fenced": 6.5}[variant])
        world.continue_agent("a1")
        if variant != "fenced":
            await keeps_its_promises(world, "I4", "I6", "T2")
            return
        for id in ids:
            await world.wait_state(id, "lost", "killed_fenced")
        await keeps_its_promises(world, "I3", "I5", "T1", "T2", "T4")


async def test_f42_journal_that_cannot_be_written(world_of: MakeWorld, seed: int) -> None:
    """No task is run that is not recorded, and what runs goes on."""
    if shutil.which("strace") is None:
        unavailable("F42", seed, "strace is missing")
    async with world_of(agents=2, timers=PATIENT) as world:
        ids = await working(world, runs_s=8)
        tracer = await asyncio.create_subprocess_exec(
            require("strace", "apt install strace"),
            *(
                "-f",
                "-qq",
                "-o",
                str(world.directory / "strace"),
                "-p",
                str(world.agents["a1"].pid),
            ),
            *(part for name in JOURNAL for part in ("-P", str(world.mesh.agent_dir("a1") / name))),
            *("-e", "trace=fsync,fdatasync,pwrite64"),
            *("-e", "inject=fsync,fdatasync,pwrite64:error=EIO"),
        )
        try:
            await passes(0.5)
            for _ in range(8):
                await world.submit(world.witness.quick())
            only_there = await world.submit(world.witness.quick(), agent="a1")
            # It waits where the agent has said by then that it takes nothing.
            await world.wait_state(only_there, "rejected", "undeliverable", "queued")
            assert only_there not in {each.id for each in world.witness.sightings()}
        finally:
            tracer.terminate()
            await tracer.wait()
        for id in ids:
            await world.wait_state(id, "succeeded")
        await keeps_its_promises(world, "I1", "I2", "I3")


@pytest.mark.first_seed_smokes
async def test_f47_killed_agent_that_comes_back_at_once(world_of: MakeWorld) -> None:
    async with world_of() as world:
        ids = await working(world, runs_s=60)
        await world.submit(world.witness.quick())
        world.kill_agent("a1")
        world.launch_agent("a1")
        await world.agents["a1"].wait_ready()
        for id in ids:
            await world.wait_state(id, "lost", "killed_fenced", "cancelled")
        assert await world.wait_gone(*ids, within_s=5)
        await world.submit(world.witness.quick())
        await keeps_its_promises(world, "I1", "I2", "I3", "I4", "T2")


async def test_f47b_killed_before_its_end_is_reported(world_of: MakeWorld) -> None:
    failing = failpoint("agent.ended_not_reported=kill@2")
    async with world_of(agent_env=failing) as world:
        await _dies_of_a_failpoint(world)
        await keeps_its_promises(world, "I1", "I2", "I3", "T2")


async def test_f47c_killed_before_it_answers(world_of: MakeWorld) -> None:
    failing = failpoint("agent.journalled_not_acked=kill@2")
    async with world_of(agent_env=failing) as world:
        await _dies_of_a_failpoint(world)
        await keeps_its_promises(world, "I1", "I2", "I3", "T2")


async def _dies_of_a_failpoint(world: World) -> None:
    world.expect_death("a1")
    for _ in range(2):
        await world.submit(world.witness.quick())
    async with asyncio.timeout(10):
        while world.agents["a1"].is_running:
            await asyncio.sleep(0.02)
    world.kill_agent("a1")
    for name in ("MESH_FAILPOINTS", "MESH_ALLOW_FAILPOINTS"):
        del world.agents["a1"].env[name]
    world.launch_agent("a1")
    await world.agents["a1"].wait_ready()
    await world.submit(world.witness.quick())


async def test_f48_killed_agent_that_never_comes_back(world_of: MakeWorld) -> None:
    """Somebody else must end its tasks, or they would live for ever beside their successors."""
    async with world_of() as world:
        ids = await working(world, runs_s=60)
        world.kill_agent("a1")
        for id in ids:
            await world.wait_state(id, "lost", within_s=world.timers["lost_s"] + 5)
        await keeps_its_promises(world, "I1", "I3", "I5", "T1", "T4")


async def test_f49_killed_supervisor_of_the_tasks(world_of: MakeWorld) -> None:
    """The agent goes on or ends, and in either case nothing is left that nobody watches."""
    async with world_of() as world:
        ids = await working(world, runs_s=60)
        second = _supervisor(world)
        os.kill(second, signal.SIGKILL)
        await world.submit(world.witness.quick())
        await passes(1)
        world.kill_agent("a1")
        for id in ids:
            await world.wait_state(id, "lost", within_s=world.timers["lost_s"] + 5)
        world.launch_agent("a1")
        await world.agents["a1"].wait_ready()
        assert await world.wait_gone(*ids, within_s=5)
        await keeps_its_promises(world, "I1", "I2", "I3", "I5", "T2")


def _supervisor(world: World) -> int:
    """The agent's second process: no task, as it has no command in its environment."""
    for child in psutil.Process(world.agents["a1"].pid).children():
        if "MESH_COMMAND" not in child.environ():
            return child.pid
    pytest.fail("the agent has no second process that ends its tasks if it cannot")


async def test_f50_rebooted_host(world_of: MakeWorld) -> None:
    """All processes are gone at once, and their numbers mean nothing any more."""
    async with world_of() as world:
        ids = await working(world, runs_s=60)
        tree = psutil.Process(world.agents["a1"].pid).children(recursive=True)
        world.kill_agent("a1", cut="host")
        for pid in {process.pid for process in tree} | {pid for pid, _ in world.sight.alive}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await passes(world.chance.uniform(0.5, 2))
        world.launch_agent("a1")
        await world.agents["a1"].wait_ready()
        for id in ids:
            record = await world.wait_state(id, "lost")
            assert len(record.attempts) == 1
        await world.submit(world.witness.quick())
        await keeps_its_promises(world, "I1", "I2", "I3", "I4", "T2")


async def test_f41_full_spool(world_of: MakeWorld, seed: int) -> None:
    """Output that does not fit is marked as missing; the agent itself goes on."""
    try:
        async with world_of(timers=CALM, mounts={"a1/tasks": 4 * 1024 * 1024}) as world:
            id = await world.submit(world.witness.bulk(12_000_000))
            await world.wait_state(id, "succeeded", "failed", within_s=30)
            await world.submit(world.witness.quick())
            await keeps_its_promises(world, "I1", "I2", "I3", "I4")
            assert {e["status"] for e in world.seen_statuses()} == {"active"}
    except RuntimeError as error:
        if "no tmpfs" not in str(error):
            raise
        unavailable("F41", seed, "no right to mount a tmpfs")


async def test_f41b_more_output_than_is_kept(world_of: MakeWorld) -> None:
    """Printed beyond the link's loss and beyond its limit: head and tail, the rest is marked."""
    small = {"MESH_LIMITS__OUTPUT_BYTES_PER_ATTEMPT": "400000"}
    async with world_of(timers=PATIENT, master_env=small) as world:
        id = await world.submit(world.witness.printer(40_000, pause_s=0.1, every=1000))
        await world.wait_started(id)
        await world.wait_state(id, "running")
        world.cut("a1")
        await passes(world.chance.uniform(1.5, 2.5))
        world.heal("a1")
        record = await world.wait_state(id, "succeeded", within_s=30)
        parts = [part async for part in world.client.logs(id, attempt=1) if part.data]
        assert record.truncated
        assert parts[0].data.startswith(f"{id} line 1 ".encode())
        assert f"{id} line 40000 ".encode() in parts[-1].data
        assert sum(len(part.data) for part in parts) < record.stdout_bytes
        await keeps_its_promises(world, "I1", "I4", "I6", "T2")


async def test_f57_out_of_file_descriptors(world_of: MakeWorld) -> None:
    async with world_of(agents=2, timers=CALM) as world:
        ids = await working(world, runs_s=6)
        pid = world.agents["a1"].pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        held = len([*Path(f"/proc/{pid}/fd").iterdir()])
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (held, before[1]))
        for _ in range(10):
            await world.submit(world.witness.quick())
        await world.submit(world.witness.quick(), agent="a1")
        await passes(1.5)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        for id in ids:
            await world.wait_state(id, "succeeded")
        await keeps_its_promises(world, "I1", "I2", "I3")
        assert {e["status"] for e in world.seen_statuses()} == {"active"}
