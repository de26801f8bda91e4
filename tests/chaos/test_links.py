"""Links that are cut: both ways, one way, for a moment, for too long, again and again."""

import asyncio

import pytest

from schemas.states import State
from tests.chaos.conftest import MakeWorld
from tests.chaos.verdict import keeps_its_promises
from tests.chaos.world import CALM, FAST, PATIENT, STRICT, World

pytestmark = pytest.mark.chaos


async def passes(seconds: float) -> None:
    """A fault lasts for a while: that is what is tested, nothing is waited for."""
    await asyncio.sleep(seconds)


async def working(world: World, *, runs_s: float) -> list[str]:
    """A silent task and one that prints, both under way."""
    ids = [
        await world.submit(world.witness.sleeper(runs_s)),
        await world.submit(world.witness.printer(int(runs_s * 20), pause_s=0.1, every=2)),
    ]
    await world.wait_started(*ids)
    await world.wait_seen(*ids)
    for id in ids:
        await world.wait_state(id, "running")
    return ids


async def test_f20_short_cut_is_not_noticed(world_of: MakeWorld) -> None:
    async with world_of(timers=CALM) as world:
        await working(world, runs_s=5)
        for _ in range(3):
            await passes(world.chance.uniform(0.2, 0.6))
            world.cut("a1")
            await passes(world.chance.uniform(0.4, 0.9))
            world.heal("a1")
        await keeps_its_promises(world, "I4", "I6")
        assert {event["status"] for event in world.seen_statuses()} == {"active"}


@pytest.mark.first_seed_smokes
async def test_f21_recoverable_cut_costs_nothing(world_of: MakeWorld) -> None:
    async with world_of() as world:
        await working(world, runs_s=6)
        world.cut("a1")
        await passes(world.chance.uniform(2.0, 2.4))
        await world.submit(world.witness.quick(), probe=True)
        world.heal("a1")
        await keeps_its_promises(world, "I4", "I6", "T2", "T3")


@pytest.mark.first_seed_smokes
async def test_f22_unrecoverable_cut_ends_tasks_and_says_so(world_of: MakeWorld) -> None:
    async with world_of() as world:
        ids = await working(world, runs_s=60)
        world.cut("a1")
        await passes(world.timers["lost_s"] + world.chance.uniform(1.0, 1.5))
        await world.submit(world.witness.quick(), probe=True)
        for id in ids:
            assert (await world.client.show(id)).state == State.LOST
        world.heal("a1")
        for id in ids:
            record = await world.wait_state(id, "lost", "killed_fenced")
            assert record.attempts[-1].agent == "a1"
        await keeps_its_promises(world, "I3", "I5", "T1", "T2", "T3", "T4")


async def test_f22b_fenced_before_it_is_given_up_ends_as_fenced(world_of: MakeWorld) -> None:
    """Healed between the agent's deadline and the master's: nothing was ever lost."""
    async with world_of() as world:
        ids = await working(world, runs_s=60)
        world.cut("a1")
        await passes(4.6)
        world.heal("a1")
        for id in ids:
            await world.wait_state(id, "killed_fenced")
        await keeps_its_promises(world, "I3", "I5", "T2", "T4")


async def test_f22c_tasks_that_may_outlive_the_lease(world_of: MakeWorld) -> None:
    """By agreement: one for a while, one for as long as it takes, one a little too long."""
    async with world_of() as world:
        sleeper = world.witness.sleeper
        short = await world.submit(sleeper(60), loss="hold", hold_s=5.0)
        ids = [
            await world.submit(sleeper(10), loss="hold", hold_s=20.0),
            await world.submit(sleeper(10), loss="continue"),
        ]
        await world.wait_started(short, *ids)
        await world.wait_seen(short, *ids)
        for id in (short, *ids):
            await world.wait_state(id, "running")
        world.cut("a1")
        await passes(world.chance.uniform(8.0, 8.4))
        assert {(await world.client.show(id)).state for id in ids} == {State.UNKNOWN}
        world.heal("a1")
        for id in ids:
            await world.wait_state(id, "succeeded")
        await world.wait_state(short, "killed_fenced", "lost")
        await keeps_its_promises(world, "I2", "I3", "I5", "T1", "T2", "T4")


async def test_f22d_lost_and_run_again_elsewhere(world_of: MakeWorld) -> None:
    async with world_of(agents=2) as world:
        id = await world.submit(world.witness.sleeper(7), on_lost="rerun")
        await world.wait_started(id)
        await world.wait_seen(id)
        first = (await world.wait_state(id, "running")).attempts[-1].agent
        world.cut(first)
        await passes(world.timers["lost_s"] + 2)
        world.heal(first)
        record = await world.wait_state(id, "succeeded")
        assert [attempt.state for attempt in record.attempts] == ["lost", "succeeded"]
        assert record.attempts[0].agent != record.attempts[1].agent
        await keeps_its_promises(world, "I2", "I3", "I5", "T1", "T2", "T4")


async def test_f22e_strict_mesh_ends_tasks_at_the_first_suspicion(world_of: MakeWorld) -> None:
    async with world_of(timers=STRICT) as world:
        ids = await working(world, runs_s=60)
        world.cut("a1")
        await passes(world.chance.uniform(2.8, 3.2))
        world.heal("a1")
        for id in ids:
            await world.wait_state(id, "killed_fenced")
        await keeps_its_promises(world, "I3", "I5", "T1", "T2", "T4")


async def test_f23_half_open_connection_is_replaced(world_of: MakeWorld) -> None:
    """The connection is dead and says nothing, a new one would work at once."""
    async with world_of(timers=PATIENT) as world:
        id = await world.submit(world.witness.printer(4000, pause_s=0.1, every=50))
        await world.wait_started(id)
        await world.wait_state(id, "running")
        proxy = world.proxies["a1"]
        before = proxy.accepted
        proxy.freeze(present_only=True)
        world.history.add("silence", agent="a1", cut="both")
        async with asyncio.timeout(8):
            while proxy.accepted == before:
                await asyncio.sleep(0.02)
        world.history.add("healed", agent="a1")
        await keeps_its_promises(world, "I4", "I6", "T2")


async def test_f24_agent_that_hears_nothing(world_of: MakeWorld) -> None:
    """Its beats say so, so that the master knows it as well."""
    async with world_of() as world:
        ids = await working(world, runs_s=60)
        world.cut("a1", "down")
        await passes(6.5)
        world.heal("a1")
        for id in ids:
            await world.wait_state(id, "lost", "killed_fenced")
        await keeps_its_promises(world, "I3", "I5", "T1", "T2", "T4")


async def test_f25_agent_that_is_not_heard(world_of: MakeWorld) -> None:
    async with world_of() as world:
        ids = await working(world, runs_s=60)
        world.cut("a1", "up")
        await passes(6.5)
        world.heal("a1")
        for id in ids:
            await world.wait_state(id, "lost", "killed_fenced")
        await keeps_its_promises(world, "I3", "I5", "T1", "T2", "T4")


@pytest.mark.parametrize("variant", ["short", "long"])
async def test_f27_master_cut_off_from_the_broker(world_of: MakeWorld, variant: str) -> None:
    """The agents' links are well: their deadlines count all the same, and nobody is judged lost."""
    short = variant == "short"
    async with world_of(agents=2, timers=PATIENT if short else FAST) as world:
        ids = await working(world, runs_s=9 if short else 60)
        world.cut_master()
        await passes(5.0 if short else 7.0)
        world.heal_master()
        if short:
            await keeps_its_promises(world, "I4", "I6", "T2")
            return
        for id in ids:
            record = await world.wait_state(id, "killed_fenced", "lost")
            assert record.state == State.KILLED_FENCED, "the master was cut off, not the agent"
        await keeps_its_promises(world, "I3", "I5", "T2", "T4")


async def test_f28_flapping_link(world_of: MakeWorld) -> None:
    async with world_of(timers=PATIENT) as world:
        await working(world, runs_s=14)
        accepted = world.proxies["a1"].accepted
        flaps = 10
        for _ in range(flaps):
            world.cut("a1")
            await passes(world.chance.uniform(0.3, 0.9))
            world.heal("a1")
            await passes(world.chance.uniform(0.3, 0.9))
            await world.submit(world.witness.quick())
        assert world.proxies["a1"].accepted - accepted <= flaps
        await keeps_its_promises(world, "I1", "I4", "I6", "I10")


async def test_f29_slow_link(world_of: MakeWorld) -> None:
    """Beats must get through beside output that fills the line: a tenth of 0.3 s and 64 kbit/s."""
    async with world_of(timers=CALM) as world:
        proxy = world.proxies["a1"]
        proxy.delay_s, proxy.jitter_s, proxy.bytes_per_s = 0.03, 0.02, 80_000
        id = await world.submit(world.witness.bulk(400_000))
        await world.wait_started(id)
        await world.submit(world.witness.sleeper(4))
        await world.wait_state(id, "succeeded", within_s=40)
        await keeps_its_promises(world, "I1", "I4")
        shown = {event["status"] for event in world.seen_statuses()}
        assert shown == {"active"}, "a false loss"
