"""Slow starts of programs block neither the loop nor each other."""

import asyncio
import signal
import subprocess
import threading
from collections.abc import Iterator

import pytest

from broker_agent.executors.spawn import CannotStart, Files, SpawnOrder
from broker_agent.executors.starter import THREADS, THREADS_MAX, Starter
from tests.waiting import eventually

WAIT_S = 60.0


def order(name: str) -> SpawnOrder:
    return SpawnOrder([name], {}, "/", None, Files(0, 1, 2))


class Disk:
    """A spawn that blocks for programs with names that begin with `slow`, until released."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.loaded = 0

    def load(self, wanted: SpawnOrder) -> int:
        if wanted.argv[0].startswith("slow"):
            self.answers.wait(WAIT_S)
        if wanted.argv[0] == "missing":
            raise CannotStart("cannot run missing", 127)
        if wanted.argv[0] == "broken":
            raise ValueError("of a kind that nobody foresaw")
        self.loaded += 1
        return self.loaded


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.answers.set()


class Results:
    def __init__(self) -> None:
        self.found: dict[str, int | CannotStart] = {}

    def of(self, starter: Starter, name: str) -> None:
        starter.start(order(name), lambda result: self.found.__setitem__(name, result))


async def test_each_order_has_its_result_in_the_loop(disk: Disk) -> None:
    starter, results = Starter(asyncio.get_running_loop(), disk.load), Results()
    names = [f"p{number}" for number in range(50)]
    for name in names:
        results.of(starter, name)
    results.of(starter, "missing")
    results.of(starter, "broken")
    assert not results.found
    await eventually(lambda: len(results.found) == len(names) + 2, WAIT_S)
    assert sorted(results.found[name] for name in names) == list(range(1, len(names) + 1))  # type: ignore[type-var]
    missing, broken = results.found["missing"], results.found["broken"]
    assert isinstance(missing, CannotStart)
    assert missing.exit_code == 127
    assert isinstance(broken, CannotStart)
    assert "nobody foresaw" in broken.message
    assert not starter.is_behind
    starter.close()


async def test_dead_disk_blocks_no_other_start(disk: Disk) -> None:
    starter = Starter(asyncio.get_running_loop(), disk.load, stuck_s=0.05)
    results = Results()
    slow = [f"slow{number}" for number in range(THREADS + 1)]
    for name in [*slow, "quick"]:
        results.of(starter, name)
    await eventually(lambda: "quick" in results.found, WAIT_S)
    assert set(results.found) == {"quick"}
    disk.answers.set()
    await eventually(lambda: set(slow) <= set(results.found), WAIT_S)
    starter.close()


async def test_threads_are_bounded(disk: Disk) -> None:
    starter = Starter(asyncio.get_running_loop(), disk.load, stuck_s=0.0)
    results = Results()
    for number in range(THREADS_MAX + 5):
        results.of(starter, f"slow{number}")
    await eventually(lambda: starter.threads == THREADS_MAX, WAIT_S)
    assert starter.is_behind
    disk.answers.set()
    await eventually(lambda: len(results.found) == THREADS_MAX + 5, WAIT_S)
    starter.close()


async def test_failed_start_does_not_affect_the_next(disk: Disk) -> None:
    loop, told = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: told.append(context["message"]))
    starter, results = Starter(loop, disk.load), Results()

    def fail(_: int | CannotStart) -> None:
        raise RuntimeError

    starter.start(order("first"), fail)
    results.of(starter, "second")
    await eventually(lambda: "second" in results.found, WAIT_S)
    assert told == ["the start of a program went wrong"]
    starter.close()


async def test_cancelled_start_is_skipped(disk: Disk) -> None:
    starter, results = Starter(asyncio.get_running_loop(), disk.load), Results()
    starter.start(order("p1"), lambda found: results.found.__setitem__("p1", found), lambda: False)
    await eventually(lambda: results.found, WAIT_S)
    found = results.found["p1"]
    assert isinstance(found, CannotStart)
    assert "before it began" in found.message
    assert disk.loaded == 0
    starter.close()


async def test_close_refuses_new_starts_and_kills_late_ones(disk: Disk) -> None:
    """A program of a dead disk may start after the agent is gone, and no code would kill it."""
    late = subprocess.Popen(["sleep", "60"], start_new_session=True)

    def load(wanted: SpawnOrder) -> int:
        disk.load(wanted)
        return late.pid

    starter, results = Starter(asyncio.get_running_loop(), load, close_s=0.05), Results()
    for number in range(THREADS + 2):
        results.of(starter, f"slow{number}")
    await eventually(lambda: len(starter._busy) == THREADS, WAIT_S)
    starter.close()
    assert sorted(results.found) == [f"slow{number}" for number in range(THREADS, THREADS + 2)]
    assert all(isinstance(found, CannotStart) for found in results.found.values())
    disk.answers.set()
    assert await asyncio.to_thread(late.wait, WAIT_S) == -signal.SIGKILL
    assert len(results.found) == 2


async def test_close_delivers_starts_under_way(disk: Disk) -> None:
    starter, results = Starter(asyncio.get_running_loop(), disk.load), Results()
    results.of(starter, "p1")
    results.of(starter, "p2")
    starter.close()
    assert set(results.found) == {"p1", "p2"}
    started = [found for found in results.found.values() if isinstance(found, int)]
    assert len(started) == disk.loaded
