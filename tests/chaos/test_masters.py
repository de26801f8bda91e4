"""Masters and brokers that die, freeze, are away, or have no room left."""

import asyncio
from pathlib import Path

import pytest

from schemas.faults import MeshError
from tests.chaos.conftest import MakeWorld
from tests.chaos.test_links import passes, working
from tests.chaos.verdict import keeps_its_promises, unavailable
from tests.chaos.world import GROUP, PATIENT, World

pytestmark = pytest.mark.chaos

# A master that was killed is consistent again within this time.
CONSISTENT_S = 10.0


@pytest.mark.first_seed_smokes
async def test_f01_killed_master(world_of: MakeWorld) -> None:
    """With its broker inside: what most installations have."""
    async with world_of(agents=2, timers=PATIENT, embedded=True) as world:
        await working(world, runs_s=6)
        async with world.under_load(40):
            await passes(world.chance.uniform(0.5, 1.0))
            world.kill_master()
            async with asyncio.timeout(CONSISTENT_S):
                await world.start_master()
            await passes(1)
        await keeps_its_promises(world, "I1", "I2", "I3", "I4", "I6", "I7", "T2")


async def test_f03_killed_between_store_and_answer(world_of: MakeWorld) -> None:
    failing = failpoint("master.stored_not_answered=kill@2")
    async with world_of(timers=PATIENT, master_env=failing) as world:
        world.expect_death("master")
        await world.submit(world.witness.quick())
        twice = asyncio.create_task(world.submit(world.witness.quick()))
        await dead(world)
        await world.start_master()
        id = await twice
        assert id, "the client's further tries must find the command"
        await world.wait_state(id, "succeeded")
        await keeps_its_promises(world, "I1", "I2", "I7")


async def test_f04_killed_between_dispatch_and_its_record(world_of: MakeWorld) -> None:
    """The agent has the task, and the master has never heard of that."""
    failing = failpoint("master.sent_not_recorded=kill@2")
    async with world_of(timers=PATIENT, master_env=failing) as world:
        world.expect_death("master")
        await world.submit(world.witness.quick())
        id = await world.submit(world.witness.sleeper(4))
        await dead(world)
        await world.start_master()
        await world.wait_state(id, "succeeded")
        await keeps_its_promises(world, "I1", "I2", "I3", "I7")


def failpoint(orders: str) -> dict[str, str]:
    return {"MESH_FAILPOINTS": orders, "MESH_ALLOW_FAILPOINTS": "tests"}


async def dead(world: World, within_s: float = 10.0) -> None:
    """Until the master's failpoint has been reached."""
    async with asyncio.timeout(within_s):
        while world.mesh.master.is_running:
            await asyncio.sleep(0.01)
    world.history.add("silence", agent="*", cut="master")


@pytest.mark.first_seed_smokes
@pytest.mark.parametrize("variant", ["own", "embedded"])
async def test_f05_killed_broker(world_of: MakeWorld, variant: str) -> None:
    async with world_of(agents=2, timers=PATIENT, embedded=variant == "embedded") as world:
        await working(world, runs_s=6)
        async with world.under_load(40):
            await passes(world.chance.uniform(0.5, 1.0))
            world.kill_broker()
            if variant == "own":
                await passes(1.0)
                await world.start_broker()
            else:
                await world.broker_greets()
                world.history.add("healed", agent="*")
            await passes(1.5)
        await keeps_its_promises(world, "I1", "I2", "I3", "I4", "I6", "T2")


@pytest.mark.first_seed_smokes
async def test_f06_broker_away_while_much_is_printed(world_of: MakeWorld) -> None:
    async with world_of(timers=PATIENT) as world:
        ids = [await world.submit(world.witness.bulk(2_000_000)) for _ in range(16)]
        ids.append(await world.submit(world.witness.printer(6000, pause_s=0.05, every=100)))
        await world.wait_started(*ids)
        world.kill_broker()
        await passes(world.chance.uniform(3.0, 5.0))
        await world.start_broker()
        await keeps_its_promises(world, "I1", "I4", "I6", "I10", settle_s=60)


async def test_f17_frozen_master(world_of: MakeWorld) -> None:
    async with world_of(agents=2) as world:
        await working(world, runs_s=4)
        for _ in range(2):
            world.stop_master()
            await passes(world.chance.uniform(0.5, 0.8))
            world.continue_master()
            await passes(1)
        await keeps_its_promises(world, "I4", "I6", "T2")


async def test_f27b_frozen_master_for_too_long(world_of: MakeWorld) -> None:
    """As F18, with one master: it wakes with old clocks and must not judge by them."""
    async with world_of(agents=2) as world:
        ids = await working(world, runs_s=60)
        world.stop_master()
        await passes(7)
        world.continue_master()
        for id in ids:
            record = await world.wait_state(id, "killed_fenced", "lost")
            assert record.state == "killed_fenced", "the master slept, not the agent"
        await keeps_its_promises(world, "I3", "I5", "T2", "T4")


@pytest.mark.first_seed_smokes
async def test_f38_slow_master_and_much_output(world_of: MakeWorld) -> None:
    """Ten milliseconds for each report, while thousands of lines a second are printed."""
    slow = failpoint("master.report_received=sleep:0.01")
    async with world_of(timers=PATIENT, master_env=slow) as world:
        ids = [await world.submit(world.witness.printer(20_000, every=1)) for _ in range(4)]
        async with world.under_load(40):
            await world.wait_started(*ids)
            await passes(3)
        await keeps_its_promises(world, "I1", "I2", "I4", "I10", settle_s=60)


async def test_f39_full_disk_of_the_broker(world_of: MakeWorld, seed: int) -> None:
    """Refused clearly while it lasts; afterwards, and after a restart, nothing accepted is lost."""
    store = "master/broker/jetstream"
    try:
        world = world_of(timers=PATIENT, mounts={store: 48 * 1024 * 1024})
        async with world:
            await _fill_and_free(world, world.directory / store)
            await keeps_its_promises(world, "I1", "I2", "I3")
    except RuntimeError as error:
        if "no tmpfs" not in str(error):
            raise
        unavailable("F39", seed, "no right to mount a tmpfs")


async def _fill_and_free(world: World, disk: Path) -> None:
    await world.submit(world.witness.quick())
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        block = b"\0" * 65536
        try:
            while True:
                file.write(block)
        except OSError:
            pass
    loop = asyncio.get_running_loop()
    began = loop.time()
    codes: set[str] = set()
    while not codes or loop.time() - began < 8:
        try:
            async with asyncio.timeout(6):
                await world.client.submit(["true"], group=GROUP, timeout_s=0.1)
        except MeshError as error:
            codes.add(error.code)
    assert codes <= {"store_unavailable", "store_full"}
    ballast.unlink()
    # A broker that has met a full disk stores nothing more until it is started again.
    world.history.add("silence", agent="*", cut="broker")
    world.broker.kill()
    await world.start_broker()
    async with asyncio.timeout(20):
        while not await world.submit(world.witness.quick(), timeout_s=1):
            await asyncio.sleep(0.1)


async def test_f40_full_stream(world_of: MakeWorld) -> None:
    small = {"MESH_LIMITS__EVENT_BYTES": "200000"}
    async with world_of(timers=PATIENT, master_env=small) as world:
        for _ in range(600):
            # A busy machine may need a second; that is no refusal.
            if not await world.submit(world.witness.quick(), timeout_s=1):
                break
        assert world.refusals()[-1:] == ["store_full"], "the stream's limit was never reached"
        with pytest.raises(MeshError) as caught:
            await world.client.submit(["true", "x" * 4000], group="web", timeout_s=0.1)
        assert caught.value.code in {"store_full", "store_unavailable"}
        # What the fault's advice says: the ends of what was accepted need room as well.
        world.mesh.master.env["MESH_LIMITS__EVENT_BYTES"] = "100000000"
        world.kill_master()
        await world.start_master()
        await keeps_its_promises(world, "I1", "I2", "I3")
