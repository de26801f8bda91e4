"""How a test of one fault ends: with a judgement that finds nothing, or with all that it found."""

import os
from typing import Final, NoReturn

import pytest

from tests.chaos.report import write_skip
from tests.chaos.world import World

# What a machine without some means may leave out even where nothing else may be skipped.
MAY_BE_MISSING: Final = frozenset(
    {
        "faketime is missing",
        "strace is missing",
        "no right to mount a tmpfs",
        "no right to make a network namespace",
    }
)


async def keeps_its_promises(world: World, *looked_at: str, settle_s: float = 25.0) -> None:
    """looked_at: rules that must have had something to look at, or the fault missed its aim."""
    judgement = await world.finish(settle_s=settle_s)
    told = "\n".join(f"{rule}: {text}" for rule, text in judgement.violations[:40])
    assert not judgement.violations, f"{told}\n{world.history.path}"
    missed = [rule for rule in looked_at if not judgement.checked.get(rule)]
    assert not missed, f"nothing to judge by {missed}: {world.history.path}"


def unavailable(fault: str, seed: int, reason: str) -> NoReturn:
    write_skip(fault, seed, reason)
    if os.environ.get("CI") == "true" and reason not in MAY_BE_MISSING:
        pytest.fail(f"{reason}, which CI may not leave out")
    pytest.skip(reason)
