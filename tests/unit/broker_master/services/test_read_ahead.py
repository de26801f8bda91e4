"""Bytes that are read before they are asked for are the same bytes, and never too many."""

import asyncio

from broker_client.runtime.supervise import TaskSet
from broker_master.services import read_ahead as module
from broker_master.services.read_ahead import PAGE_BYTES, Part, ReadAhead
from schemas.faults import Unreachable

ANSWER = 192 * 1024
MUCH = 5_000_000


class Stream:
    """Output of `size` bytes; each page is read once it is let through."""

    def __init__(self, size: int) -> None:
        self.data = bytes(offset % 251 for offset in range(1000)) * (size // 1000)
        self.reads: list[int] = []
        self.fault: Unreachable | None = None
        self.gap = 0

    async def read(self, _subject: str, offset: int, max_bytes: int) -> Part:
        self.reads.append(offset)
        await asyncio.sleep(0)
        if self.fault is not None:
            raise self.fault
        return Part(self.data[offset : offset + max_bytes], gap=self.gap)


def ahead_of(stream: Stream) -> ReadAhead:
    return ReadAhead(TaskSet("test", limit=100), stream.read)


async def test_reader_gets_all_bytes_in_order_and_most_of_them_from_here() -> None:
    stream = Stream(MUCH)
    ahead, found, own_reads = ahead_of(stream), b"", 0
    while len(found) < MUCH:
        data = await ahead.take("s", len(found), ANSWER)
        if not data:
            own_reads += 1
            data = stream.data[len(found) : len(found) + ANSWER]
            ahead.note("s", len(found) + len(data), len(data))
        assert len(data) <= ANSWER
        found += data
    assert found == stream.data
    assert own_reads <= 2
    assert len(set(stream.reads)) == len(stream.reads)


async def test_reader_who_gets_little_costs_no_read() -> None:
    stream = Stream(MUCH)
    ahead = ahead_of(stream)
    ahead.note("s", 1000, 1000)
    assert await ahead.take("s", 1000, ANSWER) == b""
    assert not stream.reads


async def test_two_readers_of_one_stream_do_not_take_from_each_other() -> None:
    stream = Stream(MUCH)
    ahead = ahead_of(stream)
    places = [ANSWER, 2_000_000]
    for place in places:
        ahead.note("s", place, ANSWER)
    for _ in range(6):
        for number, place in enumerate(places):
            data = await ahead.take("s", place, ANSWER)
            assert data == stream.data[place : place + ANSWER]
            places[number] += len(data)
    assert len(set(stream.reads)) == len(stream.reads)


async def test_another_place_gets_nothing_from_here() -> None:
    ahead = ahead_of(Stream(MUCH))
    ahead.note("s", ANSWER, ANSWER)
    assert await ahead.take("s", 0, ANSWER) == b""
    assert await ahead.take("other", ANSWER, ANSWER) == b""


async def test_fault_and_gap_are_left_to_whoever_asks() -> None:
    stream = Stream(MUCH)
    stream.fault = Unreachable("no_answer", "the broker is away")
    ahead = ahead_of(stream)
    ahead.note("s", ANSWER, ANSWER)
    assert await ahead.take("s", ANSWER, ANSWER) == b""
    stream.fault, stream.gap = None, 7
    ahead.note("s", ANSWER, ANSWER)
    assert await ahead.take("s", ANSWER, ANSWER) == b""


async def test_end_of_what_is_there_is_no_end_of_the_output() -> None:
    stream = Stream(ANSWER)
    ahead = ahead_of(stream)
    ahead.note("s", len(stream.data), ANSWER)
    assert await ahead.take("s", len(stream.data), ANSWER) == b""
    end = len(stream.data)
    stream.data += b"more"
    ahead.note("s", end, ANSWER)
    assert await ahead.take("s", end, ANSWER) == b"more"


async def test_streams_and_bytes_are_bounded() -> None:
    stream = Stream(MUCH)
    ahead = ahead_of(stream)
    for number in range(3 * module._READERS_MAX):
        ahead.note(f"s{number}", 0, ANSWER)
    assert len(ahead) == module._READERS_MAX
    last = f"s{3 * module._READERS_MAX - 1}"
    for turn in range(4):
        assert await ahead.take(last, turn * 1000, 1000) != b""
    held = ahead._held[last, 4000]
    assert len(held.data) <= PAGE_BYTES
