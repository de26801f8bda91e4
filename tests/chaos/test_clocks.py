"""Clocks that jump: people's time is shown, never counted."""

import ctypes.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.conftest import MakeWorld
from tests.chaos.test_links import passes, working
from tests.chaos.verdict import keeps_its_promises, unavailable
from tests.chaos.world import CALM

pytestmark = pytest.mark.chaos

JUMPS = ("+3600", "-3600", "+172800")


def fake_clock(directory: Path, fault: str, seed: int, *, also_monotonic: bool = False) -> "Fake":
    library = next((path for path in _libraries() if path.exists()), None)
    if library is None:
        unavailable(fault, seed, "faketime is missing")
    return Fake(library, directory / "clock", also_monotonic=also_monotonic)


def _libraries() -> Iterator[Path]:
    name = "libfaketimeMT.so.1"
    for folder in (
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib",
        "/usr/local/lib",
    ):
        yield Path(folder) / "faketime" / name
    found = ctypes.util.find_library("faketimeMT")
    if found:
        yield Path(found)


class Fake:
    """Environment of a process whose clock can be set."""

    def __init__(self, library: Path, file: Path, *, also_monotonic: bool) -> None:
        self._file = file
        self.set("+0")
        self.env = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "0" if also_monotonic else "1",
            "DONT_FAKE_MONOTONIC": "0" if also_monotonic else "1",
        }

    def set(self, offset: str) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{offset}\n")
        fresh.rename(self._file)


async def test_f43_agents_clock_jumps(world_of: MakeWorld, tmp_path: Path, seed: int) -> None:
    clock = fake_clock(tmp_path, "F43", seed)
    async with world_of(agent_env=clock.env) as world:
        await working(world, runs_s=8)
        for offset in world.chance.sample(JUMPS, 3):
            clock.set(offset)
            await passes(1.5)
            await world.submit(world.witness.quick())
        # The clocks of before and after a cut have nothing to do with each other.
        world.cut("a1")
        clock.set("+0")
        await passes(1.6)
        world.heal("a1")
        await keeps_its_promises(world, "I1", "I2", "I4", "I6", "T2")


async def test_f43b_all_clocks_of_the_agent_jump(
    world_of: MakeWorld, tmp_path: Path, seed: int
) -> None:
    """The agent of a suspended host sees that its lease has expired meanwhile."""
    clock = fake_clock(tmp_path, "F43B", seed, also_monotonic=True)
    async with world_of(agent_env=clock.env) as world:
        ids = await working(world, runs_s=30)
        clock.set("+3600")
        for id in ids:
            await world.wait_state(id, "killed_fenced")
        assert await world.wait_gone(*ids, within_s=3)
        await world.wait_status("a1")
        await world.submit(world.witness.quick())
        await keeps_its_promises(world, "I1", "I2", "I3", "I5")


async def test_f44_masters_clock_jumps(world_of: MakeWorld, tmp_path: Path, seed: int) -> None:
    """No command is lost by it, and queued commands stay queued."""
    clock = fake_clock(tmp_path, "F44", seed)
    async with world_of(agents=2, timers=CALM, master_env=clock.env) as world:
        await working(world, runs_s=11)
        world.cut("a2")
        await world.wait_status("a2", status="no_response")
        waits = await world.submit(world.witness.quick(), agent="a2")
        for offset in world.chance.sample(JUMPS, 3):
            clock.set(offset)
            await passes(1.5)
            await world.submit(world.witness.quick(), agent="a1")
        world.heal("a2")
        await world.wait_state(waits, "succeeded")
        await keeps_its_promises(world, "I1", "I2", "I3", "I6", "T2")
        mine = [event for event in world.seen_statuses() if event["agent"] == "a1"]
        assert {event["status"] for event in mine} == {"active"}
