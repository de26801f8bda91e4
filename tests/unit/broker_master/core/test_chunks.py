from hypothesis import given
from hypothesis import strategies as st

from broker_master.core.chunks import Assembly

Chunk = tuple[int, bytes]  # where it begins, and the bytes


@st.composite
def logs(draw: st.DrawFn) -> tuple[bytes, list[Chunk]]:
    """Some output, and a log of its chunks: in any order, some twice, some overlapping."""
    size = draw(st.integers(0, 60))
    whole = bytes(range(size))
    chunks: list[Chunk] = []
    at = 0
    while at < size:
        step = draw(st.integers(1, 12))
        chunks.append((at, whole[at : at + step]))
        at += step
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, size))
        chunks.append((start, whole[start : start + draw(st.integers(0, 12))]))
    return whole, draw(st.permutations(chunks))


def read_once(log: list[Chunk], offset: int, start: int, max_bytes: int) -> tuple[Assembly, int]:
    """As a reader does: from a sequence on to the end of the log, or until it has enough."""
    assembly = Assembly(offset, max_bytes)
    position = start
    for sequence in range(start, len(log) + 1):
        at, data = log[sequence - 1]
        assembly.add(sequence, at, data)
        position = sequence + 1
        if assembly.is_full:
            break
    return assembly, assembly.resume_at or position


@given(logs(), st.integers(1, 30))
def test_any_order_of_chunks_with_repeats_and_overlaps_gives_the_output(
    log: tuple[bytes, list[Chunk]], max_bytes: int
) -> None:
    """Each read goes on where the one before it said; nothing is skipped, nothing comes twice."""
    whole, chunks = log
    got, start = b"", 1
    for _ in range(len(whole) + 2):
        assembly, start = read_once(chunks, len(got), start, max_bytes)
        assert len(assembly.data) <= max_bytes
        got += bytes(assembly.data)
        assert assembly.next == len(got)
        assert whole.startswith(got)
        if not assembly.data:
            break
    assert got == whole


@given(logs(), st.integers(1, 30), st.data())
def test_reader_that_follows_a_growing_log_gets_all_of_it(
    log: tuple[bytes, list[Chunk]], max_bytes: int, data: st.DataObject
) -> None:
    """What is missing at one read may come into the log later, behind what lay ahead."""
    whole, chunks = log
    got, start, there = b"", 1, 0
    for _ in range(len(whole) + len(chunks) + 2):
        there = min(len(chunks), there + data.draw(st.integers(0, 4)))
        assembly, start = read_once(chunks[:there], len(got), start, max_bytes)
        got += bytes(assembly.data)
        assert whole.startswith(got)
    while there < len(chunks) or got != whole:
        before = (there, len(got))
        there = min(len(chunks), there + 1)
        assembly, start = read_once(chunks[:there], len(got), start, max_bytes)
        got += bytes(assembly.data)
        assert whole.startswith(got)
        assert (there, len(got)) > before
    assert got == whole


def test_gap_ends_what_is_given_and_is_looked_at_again() -> None:
    assembly = Assembly(0, 100)
    assembly.add(7, 0, b"ab")
    assembly.add(8, 5, b"fg")
    assert (bytes(assembly.data), assembly.next, assembly.resume_at) == (b"ab", 2, 8)
    assembly.add(9, 2, b"cde")
    assert bytes(assembly.data) == b"abcdefg"


def test_reader_that_has_enough_comes_back_for_the_rest_of_a_chunk() -> None:
    assembly = Assembly(0, 3)
    assembly.add(4, 0, b"abcdef")
    assert (bytes(assembly.data), assembly.is_full, assembly.resume_at) == (b"abc", True, 4)


def test_chunk_that_ends_exactly_at_the_limit_needs_no_second_look() -> None:
    assembly = Assembly(0, 3)
    assembly.add(4, 0, b"abc")
    assert (assembly.is_full, assembly.resume_at) == (True, 0)


def test_reading_begins_in_the_middle_of_a_chunk() -> None:
    assembly = Assembly(2, 100)
    assembly.add(1, 0, b"abcd")
    assert (bytes(assembly.data), assembly.next) == (b"cd", 4)


def test_what_was_read_before_is_left_out() -> None:
    assembly = Assembly(4, 100)
    assembly.add(1, 0, b"abcd")
    assert (bytes(assembly.data), assembly.resume_at) == (b"", 0)


def test_of_two_chunks_that_lie_ahead_at_one_place_nothing_is_lost() -> None:
    log: list[Chunk] = [(2, b"cdefgh"), (2, b"c"), (0, b"ab")]
    assembly, start = read_once(log, 0, 1, 100)
    got = bytes(assembly.data)
    again, _ = read_once(log, len(got), start, 100)
    assert got + bytes(again.data) == b"abcdefgh"
