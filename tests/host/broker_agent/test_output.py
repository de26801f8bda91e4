"""Output above its limit, and output that cannot be sent now."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_agent.core.budget import HEAD_SHARE, NO_HOLE, holes
from broker_agent.core.pace import FIRST_BYTES, LEAST_BYTES, MOST_BYTES, Pace
from broker_agent.services.shipment import BACKLOG_BYTES, NEWEST_BYTES, Chunk, Shipment
from broker_agent.store.folders import Folders, TaskFolder
from broker_agent.store.holes import punch
from schemas import limits
from schemas.faults import Unreachable
from tests.host.broker_agent.rig import ACK, WAIT_S, Rig
from tests.waiting import eventually

SIZES = st.tuples(st.integers(0, 500), st.integers(0, 500))


@given(st.integers(0, 400), SIZES)
def test_output_is_kept_up_to_exactly_its_limit(limit: int, sizes: tuple[int, int]) -> None:
    found = holes(limit, sizes)
    kept = sum(sizes) - sum(hole.size for hole in found)
    assert kept == min(limit, sum(sizes))
    for hole, size in zip(found, sizes, strict=True):
        assert 0 <= hole.start <= hole.end <= size
    if sum(sizes) > limit:
        assert sum(hole.start for hole in found if hole.size) <= limit * HEAD_SHARE + sum(
            size for hole, size in zip(found, sizes, strict=True) if not hole.size
        )


@given(st.integers(0, 400), st.lists(SIZES, min_size=2, max_size=8))
def test_hole_only_grows(limit: int, steps: list[tuple[int, int]]) -> None:
    """Dropped bytes stay dropped, in whatever order the streams grow."""
    sizes = (0, 0)
    before = (NO_HOLE, NO_HOLE)
    for more in steps:
        sizes = (sizes[0] + more[0], sizes[1] + more[1])
        now = holes(limit, sizes)
        for old, new in zip(before, now, strict=True):
            if old.size:
                assert new.start <= old.start
                assert new.end >= old.end
        before = now


def test_congestion_window_grows_on_a_good_line_and_shrinks_on_a_bad_one() -> None:
    pace = Pace()
    assert pace.limit_bytes == FIRST_BYTES
    for _ in range(20):
        pace.on_sent(pace.limit_bytes)
        assert not pace.has_room()
        pace.on_stored(pace.in_flight, 0.01)
    assert pace.limit_bytes == MOST_BYTES
    assert pace.chunk_bytes(limits.CHUNK_BYTES) == limits.CHUNK_BYTES
    for took_s in (2.0, 3.0, 0.5):
        pace.on_sent(1000)
        pace.on_stored(1000, took_s)
    assert pace.limit_bytes == MOST_BYTES // 4
    for _ in range(20):
        pace.on_sent(1000)
        pace.on_failed(1000)
    assert (pace.limit_bytes, pace.in_flight) == (LEAST_BYTES, 0)
    assert pace.chunk_bytes(limits.CHUNK_BYTES) == LEAST_BYTES


def test_congestion_window_that_was_never_full_stays_small() -> None:
    pace = Pace()
    for _ in range(100):
        pace.on_sent(1000)
        pace.on_stored(1000, 0.01)
    assert pace.limit_bytes == FIRST_BYTES


@pytest.fixture
def folder(tmp_path: Path) -> TaskFolder:
    return Folders(tmp_path, keep=0).make("c1", 1)


def on_disk(fd: int) -> int:
    """Bytes on disk of a file; stat(2) counts blocks of 512."""
    return os.fstat(fd).st_blocks * 512


def test_punched_bytes_free_disk_space_and_keep_offsets(folder: TaskFolder) -> None:
    os.write(folder.stdout, b"a" * 4_000_000)
    before = on_disk(folder.stdout)
    if not punch(folder.stdout, 1_000_001, 2_999_999):
        pytest.skip("this file system has no holes")
    assert on_disk(folder.stdout) <= before - 1_900_000
    assert folder.sizes() == (4_000_000, 0)
    assert folder.read(0, 1_000_001, 0) == b"a" * 1_000_001
    assert folder.read(0, 2_000_000, 2_999_999) == b"a" * 1_000_001
    os.write(folder.stdout, b"b")
    assert folder.read(0, 10, 4_000_000) == b"b"


def taken(shipment: Shipment, *, older: bool = False, most: int = 10_000) -> list[Chunk]:
    found = []
    while (chunk := shipment.take(most, older=older)) is not None:
        found.append(chunk)
    return found


def test_only_failed_chunks_are_sent_again(folder: TaskFolder) -> None:
    os.write(folder.stdout, bytes(range(250)) * 100)
    shipment = Shipment(("c1", 1), folder, 1_000_000)
    assert shipment.look()
    first, second, third = taken(shipment)
    assert [chunk.offset for chunk in (first, second, third)] == [0, 10_000, 20_000]
    shipment.on_stored(first)
    shipment.on_failed(third)
    shipment.on_failed(second)
    assert shipment.waiting_bytes == 15_000
    assert not shipment.take(10_000, older=False)
    again = taken(shipment, older=True)
    assert [(chunk.offset, len(chunk.data)) for chunk in again] == [
        (10_000, 10_000),
        (20_000, 5000),
    ]
    for chunk in again:
        shipment.on_stored(chunk)
    assert shipment.is_finished
    assert not shipment.truncated


def test_newest_output_goes_first_after_a_loss(folder: TaskFolder) -> None:
    shipment = Shipment(("c1", 1), folder, 10_000_000)
    os.write(folder.stdout, b"o" * (BACKLOG_BYTES + NEWEST_BYTES))
    shipment.look()
    shipment.prefer_newest()
    newest = shipment.take(1_000_000, older=False)
    assert newest is not None
    assert (newest.offset, len(newest.data)) == (BACKLOG_BYTES, NEWEST_BYTES)
    older = shipment.take(1_000_000, older=True)
    assert older is not None
    assert (older.offset, len(older.data)) == (0, BACKLOG_BYTES)


def test_running_task_stops_at_its_limit_and_sends_the_end_when_it_has_ended(
    folder: TaskFolder,
) -> None:
    shipment = Shipment(("c1", 1), folder, 100_000)
    os.write(folder.stdout, b"h" * 60_000)
    shipment.look()
    assert sum(len(chunk.data) for chunk in taken(shipment)) == 60_000
    os.write(folder.stdout, b"m" * 100_000 + b"t" * 75_000)
    shipment.look()
    assert not taken(shipment)
    assert not shipment.truncated
    shipment.ended = lambda: None
    shipment.look()
    tail = taken(shipment, most=50_000)
    assert [(chunk.offset, chunk.skipped) for chunk in tail] == [(160_000, 135_000), (210_000, 0)]
    assert b"".join(chunk.data for chunk in tail) == b"t" * 75_000
    assert shipment.truncated


def test_failed_chunk_whose_bytes_were_dropped_becomes_a_gap(folder: TaskFolder) -> None:
    shipment = Shipment(("c1", 1), folder, 100_000)
    os.write(folder.stdout, b"x" * 80_000)
    shipment.look()
    chunks = taken(shipment, most=20_000)
    os.write(folder.stdout, b"x" * 1_000_000)
    shipment.look()
    for chunk in chunks:
        shipment.on_failed(chunk)
    assert shipment.truncated
    again = taken(shipment, older=True, most=20_000)
    assert [(chunk.offset, len(chunk.data)) for chunk in again] == [(0, 20_000), (20_000, 5000)]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    rig.link()
    rig.serve()
    yield rig
    await rig.close()


def printer(size: int, gate: Path) -> list[str]:
    """A program that prints numbered lines, waits for the gate, and prints a last line."""
    code = (
        "import os, sys, time\n"
        f"for n in range({size} // 20): sys.stdout.write('%019d\\n' % n)\n"
        "sys.stdout.flush()\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        "print('last')\n"
    )
    return [sys.executable, "-c", code]


def numbered(size: int) -> bytes:
    return b"".join(b"%019d\n" % number for number in range(size // 20))


async def test_output_printed_while_disconnected_is_sent_after_the_reconnect_newest_first(
    rig: Rig, tmp_path: Path
) -> None:
    size = 4_000_000
    rig.wire.is_connected = False
    gate = tmp_path / "gate"
    rig.station.book.slots = 2
    rig.wire.is_connected = True
    rig.run("c1", printer(size, gate))
    rig.wire.is_connected = False
    await eventually(lambda: rig.shipper.waiting_bytes == size, WAIT_S)
    assert not rig.chunks("c1", "stdout")
    rig.wire.is_connected = True
    await eventually(lambda: rig.shipper.waiting_bytes == 0, WAIT_S)
    first = [chunk.offset for chunk in rig.chunks("c1", "stdout")[:3]]
    assert max(first) >= size - NEWEST_BYTES
    gate.touch()
    end = await rig.end_of("c1")
    assert rig.stored("c1", "stdout") == numbered(size) + b"last\n"
    assert not end.truncated


async def test_lost_chunks_and_lost_acknowledgements_are_retried(rig: Rig, tmp_path: Path) -> None:
    calls = 0

    def answer() -> bytes:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise Unreachable("no_answer", "lost")
        return ACK

    rig.wire.answer = answer
    gate = tmp_path / "gate"
    gate.touch()
    rig.run("c1", printer(200_000, gate))
    await rig.end_of("c1")
    assert rig.stored("c1", "stdout") == numbered(200_000) + b"last\n"


async def test_files_of_a_task_that_prints_without_end_stay_within_its_limit(
    rig: Rig, tmp_path: Path
) -> None:
    """The link is down all the time; the disk usage stays bounded."""
    probe = os.open(tmp_path / "probe", os.O_RDWR | os.O_CREAT)
    os.write(probe, bytes(100_000))
    has_holes = punch(probe, 0, 50_000)
    os.close(probe)
    if not has_holes:
        pytest.skip("this file system has no holes")
    limit = 8 * 1024 * 1024
    rig.run("c1", ["/bin/sh", "-c", "exec yes mesh"], output_limit_bytes=limit)
    rig.wire.is_connected = False
    path = tmp_path / "tasks" / "c1.1" / "stdout.log"
    await eventually(lambda: path.exists() and path.stat().st_size > 20 * limit, WAIT_S)
    rig.cancel("c1")
    await eventually(lambda: not rig.processes.tasks, WAIT_S)
    size = path.stat().st_size
    assert path.stat().st_blocks * 512 < limit + 3 * 1024 * 1024
    rig.wire.is_connected = True
    end = await rig.end_of("c1")
    assert (end.truncated, end.stdout_bytes) == (True, size)
    stored = rig.stored("c1", "stdout")
    assert len(stored) == size
    expected = b"mesh\n" * (size // 5 + 1)
    head = int(limit * HEAD_SHARE)
    assert stored[:head] == expected[:head]
    assert stored[size - (limit - head) :] == expected[size - (limit - head) : size]


async def test_slow_acknowledgements_leave_one_small_chunk_under_way(rig: Rig) -> None:
    """A heartbeat must not wait for a window full of output on a line of 64 kbit/s."""
    on_the_way: list[int] = []
    answer = rig.wire.answer_chunk

    def slowly(subject: str, payload: bytes, reply: str) -> None:
        on_the_way.append(rig.shipper.pace.in_flight)
        rig.station.clock.advance(len(payload) / 8000)  # type: ignore[attr-defined]
        answer(subject, payload, reply)

    from tests.fake_clock import FakeClock

    clock = FakeClock()
    rig.shipper._clock = clock
    object.__setattr__(rig.station, "clock", clock)
    rig.wire.answer_chunk = slowly  # type: ignore[method-assign]
    rig.run("c1", [sys.executable, "-c", "print('x' * 99_999)"])
    await rig.end_of("c1")
    assert max(on_the_way[-5:]) <= 2 * LEAST_BYTES
    assert max(on_the_way) <= FIRST_BYTES + LEAST_BYTES
    assert rig.stored("c1", "stdout") == b"x" * 99_999 + b"\n"
    await asyncio.sleep(0)
