"""The three losses that matter most, at production's pace: `-m true_timers`, minutes each."""

import pytest

from schemas.states import State
from tests.chaos.conftest import MakeWorld
from tests.chaos.test_links import passes, working
from tests.chaos.verdict import keeps_its_promises
from tests.chaos.world import TRUE

pytestmark = [pytest.mark.chaos, pytest.mark.serial, pytest.mark.true_timers]


@pytest.mark.parametrize("variant", ["true"])
async def test_f21_recoverable_cut(world_of: MakeWorld, variant: str) -> None:
    async with world_of(timers=TRUE) as world:
        await working(world, runs_s=40)
        world.cut("a1")
        await passes(23)
        await world.submit(world.witness.quick(), probe=True)
        world.heal("a1")
        await keeps_its_promises(world, "I4", "I6", "T1", "T2", "T3")


@pytest.mark.parametrize("variant", ["true"])
async def test_f22_unrecoverable_cut(world_of: MakeWorld, variant: str) -> None:
    async with world_of(timers=TRUE) as world:
        ids = await working(world, runs_s=200)
        world.cut("a1")
        await passes(56)
        for id in ids:
            assert (await world.client.show(id)).state == State.LOST
        world.heal("a1")
        await keeps_its_promises(world, "I3", "I5", "T1", "T2", "T4")


@pytest.mark.parametrize("variant", ["true"])
async def test_f27_master_cut_off(world_of: MakeWorld, variant: str) -> None:
    async with world_of(timers=TRUE) as world:
        ids = await working(world, runs_s=200)
        world.cut_master()
        await passes(50)
        world.heal_master()
        for id in ids:
            await world.wait_state(id, "killed_fenced", within_s=30)
        await keeps_its_promises(world, "I3", "I5", "T2", "T4")
