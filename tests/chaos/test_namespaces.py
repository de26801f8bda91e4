"""The cable is pulled, rather than a proxy told to be one: the same promises hold."""

import pytest

from tests.chaos.conftest import MakeWorld
from tests.chaos.netns import Namespace
from tests.chaos.test_links import passes, working
from tests.chaos.verdict import keeps_its_promises, unavailable

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
