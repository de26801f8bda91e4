"""The cable is pulled, rather than a proxy told to be one: the same promises hold."""

import pytest

from tests.chaos.conftest import MakeWorld
from tests.chaos.netns import Namespace
from tests.chaos.test_links import passes, working
from tests.chaos.verdict import keeps_its_promises, unavailable
from tests.chaos.world import CALM

# One after the other: they share an address.
pytestmark = [pytest.mark.chaos, pytest.mark.serial]

# The kernel asks for a connection again after one second, whatever our timers are: what is left of
# the lease after the short cut has to cover that and the handshake.
SHORT_S = 1.4
LONG_S = 6.5


@pytest.mark.parametrize("variant", ["short", "long"])
async def test_f21n_pulled_cable(world_of: MakeWorld, seed: int, variant: str) -> None:
    space = Namespace(f"chaos{seed}")
    try:
        await space.__aenter__()
    except RuntimeError:
        unavailable("F21N", seed, "no right to make a network namespace")
    try:
        async with world_of(namespace=space) as world:
            ids = await working(world, runs_s=6 if variant == "short" else 60)
            await space.unplug()
            world.history.add("silence", agent="a1", cut="both")
            await passes(SHORT_S if variant == "short" else LONG_S)
            await space.plug()
            world.history.add("healed", agent="a1")
            if variant == "short":
                await keeps_its_promises(world, "I4", "I6", "T2")
                return
            for id in ids:
                await world.wait_state(id, "lost", "killed_fenced")
            await keeps_its_promises(world, "I3", "I5", "T1", "T2", "T4")
    finally:
        await space.__aexit__()


async def test_f29n_lossy_and_narrow_cable(world_of: MakeWorld, seed: int) -> None:
    """Real packets are lost, 5 % each way, on 640 kbit/s that output fills: a tenth of 64 in 10 s.

    The delay of F29 is the proxy's, in `test_f29_slow_link`: a kernel without netem has none.
    """
    space = Namespace(f"chaos{seed}")
    try:
        await space.__aenter__()
    except RuntimeError:
        unavailable("F29N", seed, "no right to make a network namespace")
    try:
        async with world_of(timers=CALM, namespace=space) as world:
            try:
                await space.spoil(loss=0.05, bits_per_s=640_000)
            except RuntimeError:
                unavailable("F29N", seed, "no packet filter")
            id = await world.submit(world.witness.bulk(400_000))
            await world.wait_started(id)
            await world.submit(world.witness.sleeper(4))
            await world.wait_state(id, "succeeded", within_s=60)
            await keeps_its_promises(world, "I1", "I4")
            shown = {event["status"] for event in world.seen_statuses()}
            assert shown == {"active"}, "a false loss"
            assert await space.dropped() > 0
    finally:
        await space.__aexit__()
