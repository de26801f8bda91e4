from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from broker_master.core.chunks import RUN_BYTES, Chunk, ChunkIndex, splice, times_of

Piece = tuple[int, bytes]  # where it begins, and the bytes


@st.composite
def logs(draw: st.DrawFn) -> tuple[bytes, list[Piece]]:
    """Some output, and a log of its chunks: in any order, some twice, some overlapping."""
    size = draw(st.integers(0, 60))
    whole = bytes(range(size))
    pieces: list[Piece] = []
    at = 0
    while at < size:
        step = draw(st.integers(1, 12))
        pieces.append((at, whole[at : at + step]))
        at += step
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, size - 1)) if size else 0
        pieces.append((start, whole[start : start + draw(st.integers(1, 12))]))
    return whole, draw(st.permutations([piece for piece in pieces if piece[1]]))


@dataclass
class Reader:
    """As the service reads: some messages at once, from where the index says."""

    log: list[Chunk]
    page: int = 3
    looks: int = 0
    index: ChunkIndex = field(init=False)

    def __post_init__(self) -> None:
        self.index = ChunkIndex(run_chunks=self.page)

    def read(self, offset: int, max_bytes: int, *, is_final: bool = False) -> tuple[bytes, int]:
        """The bytes, and how many before them were left out."""
        at = offset
        while True:
            self.looks += 1
            found = self.index.locate(at)
            start = self.index.scanned if found is None else found
            page = [chunk for chunk in self.log if chunk.sequence >= start][: self.page]
            after = page[-1].sequence + 1 if page else start
            self.index.add_page(page, after)
            data = splice(page, at, max_bytes)
            if data:
                return data, at - offset
            if found is not None:
                self.index.forget(at, page)
            elif not any(chunk.sequence >= after for chunk in self.log):
                end = self.index.gap_end(at, is_final=is_final)
                if end is None:
                    return b"", at - offset
                at = end

    def all(self, max_bytes: int = 30, *, is_final: bool = False) -> bytes:
        got = bytearray()
        while True:
            data, gap = self.read(len(got), max_bytes, is_final=is_final)
            got += bytes(gap) + data
            if not data:
                return bytes(got)


def numbered(pieces: list[Piece]) -> list[Chunk]:
    return [Chunk(seq, at, data) for seq, (at, data) in enumerate(pieces, 1)]


@given(logs(), st.integers(1, 30), st.integers(1, 5))
def test_any_order_of_chunks_with_repeats_and_overlaps_gives_the_output(
    log: tuple[bytes, list[Piece]], max_bytes: int, page: int
) -> None:
    whole, pieces = log
    assert Reader(numbered(pieces), max(page, 1)).all(max_bytes) == whole


@given(logs(), st.data())
def test_reader_that_follows_a_growing_log_gets_all_of_it(
    log: tuple[bytes, list[Piece]], data: st.DataObject
) -> None:
    """A chunk that is missing at one read may come later, behind its successors."""
    whole, pieces = log
    chunks = numbered(pieces)
    reader = Reader([], data.draw(st.integers(1, 4)))
    got, there = b"", 0
    while there < len(chunks) or got != whole:
        reader.log = chunks[:there]
        piece, gap = reader.read(len(got), data.draw(st.integers(1, 30)))
        got += piece
        assert gap == 0
        assert whole.startswith(got)
        if not piece:
            assert there < len(chunks)
            there += data.draw(st.integers(1, 4))
    assert got == whole


@given(logs(), st.data())
def test_two_readers_share_what_was_seen(
    log: tuple[bytes, list[Piece]], data: st.DataObject
) -> None:
    whole, pieces = log
    reader = Reader(numbered(pieces))
    assert reader.all() == whole
    for _ in range(4):
        start = data.draw(st.integers(0, len(whole)))
        piece, gap = reader.read(start, 10)
        assert (piece, gap) == (whole[start : start + len(piece)], 0)
        assert bool(piece) == (start < len(whole))


def test_chunk_sent_again_and_longer_behind_others_hides_none_of_its_bytes() -> None:
    pieces = [(0, b"a"), (4, b"e"), (1, b"bcd"), (4, b"ef")]
    reader = Reader(numbered(pieces))
    assert reader.all() == b"abcdef"
    assert reader.read(5, 10) == (b"f", 0)


def test_gap_that_was_named_is_left_out_and_one_that_was_not_is_waited_for() -> None:
    reader = Reader([Chunk(1, 0, b"ab"), Chunk(2, 9, b"jk")])
    assert reader.read(0, 10) == (b"ab", 0)
    assert reader.read(2, 10) == (b"", 0)
    reader.log.append(Chunk(3, 11, b"lm", skipped=9))
    assert reader.read(2, 10) == (b"jklm", 7)


def test_bytes_within_a_gap_that_are_there_count() -> None:
    """The agent sent some of them before the task printed too much."""
    reader = Reader([Chunk(1, 0, b"abcd"), Chunk(2, 8, b"ij", skipped=6), Chunk(3, 5, b"f")])
    assert reader.all() == b"abcd\0f\0\0ij"


def test_lost_output_of_an_ended_attempt_is_a_gap() -> None:
    """The stream drops its oldest messages when it is full."""
    reader = Reader([Chunk(5, 4, b"ef")])
    assert reader.read(0, 10) == (b"", 0)
    assert reader.read(0, 10, is_final=True) == (b"ef", 4)


def test_chunks_that_were_read_and_purged_are_forgotten() -> None:
    reader = Reader([Chunk(1, 0, b"ab"), Chunk(2, 2, b"cd")])
    assert reader.all() == b"abcd"
    reader.log = reader.log[1:]
    assert reader.read(0, 10, is_final=True) == (b"cd", 2)


def test_chunks_in_order_are_remembered_as_few_runs_which_one_look_brings_whole() -> None:
    size = 1000
    count = 500
    index = ChunkIndex()
    index.add_page([Chunk(n + 1, n * size, b"x" * size) for n in range(count)], count + 1)
    assert len(index) <= count * size // RUN_BYTES + count // 32 + 2
    for offset in range(0, count * size, 777):
        seq = index.locate(offset)
        assert seq is not None
        assert 0 <= offset // size - (seq - 1) < RUN_BYTES // size


def test_newest_first_and_the_rest_behind_needs_no_second_scan() -> None:
    """As after a loss: a reader that waits for old bytes passes the new ones once."""
    old = [Chunk(100 + n, n * 10, b"o" * 10) for n in range(50)]
    new = [Chunk(n + 1, 500 + n * 10, b"n" * 10) for n in range(50)]
    reader = Reader(new + old, page=4)
    assert reader.all(20) == b"o" * 500 + b"n" * 500
    assert reader.looks < 100


def test_times_name_each_piece_that_is_read_and_no_other() -> None:
    chunks = [
        Chunk(1, 0, b"aaaa", at=10.0),
        Chunk(2, 4, b"bbbb", at=11.0),
        Chunk(3, 4, b"bbbb", at=12.0),
        Chunk(4, 8, b"cccc", at=13.0),
    ]
    assert times_of(chunks, 2, 9) == ((2, 10.0), (4, 11.0), (8, 13.0))
    assert times_of(chunks, 4, 8) == ((4, 11.0),)
    assert times_of(chunks, 12, 12) == ()
