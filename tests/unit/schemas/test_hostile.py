"""No payload costs more than its refusal is worth, and nothing but a refusal comes out."""

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from schemas.codec import decode, decode_request
from schemas.faults import FAULTS
from schemas.messages import api, enrol, liveness, work
from schemas.verbs import VERBS
from tests.unit.schemas.catalogue import KINDS, Kind
from tests.unit.schemas.hostile import CORPUS
from tests.unit.schemas.strategies import refusal_of

# So many times what the yardstick takes in the same process at the same moment.
BUDGET_TIMES: Final = 40
BUDGET_BYTES: Final = 4_000_000
# A busy machine makes one run slow, never all of them.
RUNS: Final = 12
# The yardstick: so many steps of the interpreter, which is what an ordinary request costs.
STEPS: Final = 10_000

Read = Callable[[Any, bytes], Any]

REQUESTS: Final[tuple[Kind, ...]] = (
    *dict.fromkeys(verb.request for verb in VERBS.values()),
    enrol.EnrolRequest,
)
# One of each family that is decoded from the wire; `test_codec` sends noise to all the others.
FROM_THE_WIRE: Final[tuple[tuple[Read, Kind], ...]] = (
    *((decode_request, kind) for kind in REQUESTS),
    (decode, enrol.EnrolRequest),
    (decode, enrol.EnrolAnswer),
    (decode, liveness.Beat),
    (decode, liveness.Echo),
    (decode, liveness.Hello),
    (decode, liveness.Welcome),
    (decode, work.Run),
    (decode, work.RunReply),
    (decode, work.Control),
    (decode, work.ControlReply),
    (decode, work.Report),
    (decode, work.Release),
    (decode, work.LogChunk),
    (decode, api.SubmitRequest),
)
# Tracing memory is slow; these hold raw bytes, long lists, maps and other messages.
LARGE_OR_DEEP: Final = frozenset(
    {api.SubmitRequest, api.ClientCreate, enrol.EnrolRequest, liveness.Hello, work.Run, work.Report}
)
# What is refused by its bytes alone, whatever the type.
ALWAYS_REFUSED: Final = (
    "empty",
    "zeros",
    "never-used byte",
    "truncated at every byte",
    "trailing byte",
    "two messages",
    "trailing 100 KiB",
    "400 KiB of nil",
    "1 MiB of bytes",
    "256 KiB of empty maps",
    "256 KiB of empty arrays",
    "256 KiB of maps of one",
    "256 KiB of nil",
    "256 KiB of floats",
    "arrays 17 deep",
    "arrays 1000 deep",
    "arrays 100 000 deep",
    "maps 1000 deep",
    "maps 80 000 deep",
    "array of 4 G",
    "map of 4 G",
    "text of 4 G",
    "bytes of 4 G",
    "extension of 4 G",
    "nested arrays of 4 G",
    "length cut off",
    "4 G in each field",
    "extension types",
    "timestamps",
    "extension as key",
    "not a number",
    "not a number, quietly negative",
    "infinite",
    "infinite in 4 bytes",
    "not a map",
)
REFUSED_FROM_CLIENTS: Final = (
    *ALWAYS_REFUSED,
    "300 KiB of text",
    "invalid UTF-8",
    "invalid UTF-8 in a skipped value",
    "overlong and surrogate UTF-8",
    "cut UTF-8",
    "duplicate key",
    "thousand times the same key",
    "keys that become long when shown",
    "numbers as keys that collide",
)
every_payload = pytest.mark.parametrize("name", CORPUS)


def outcome(read: Read, kind: Kind, payload: bytes) -> str:
    """The code of the refusal, or nothing; any other exception goes through."""
    refusal = refusal_of(lambda: read(kind, payload))
    if refusal is None:
        return ""
    assert refusal.code in FAULTS
    assert len(refusal.message) <= 1000
    assert refusal.message.isascii()
    assert refusal.message.isprintable()
    return refusal.code


def times_dearer(read: Read, kind: Kind, payload: bytes, yardstick_s: float) -> float:
    """CPU time by the yardstick's: the least of as many runs as come below the budget."""
    least = float("inf")
    for _ in range(RUNS):
        began = time.thread_time()
        outcome(read, kind, payload)
        least = min(least, (time.thread_time() - began) / yardstick_s)
        if least <= BUDGET_TIMES:
            break
        yardstick_s = _yardstick_s()
    return least


def _yardstick_s() -> float:
    began, total = time.thread_time(), 0
    for step in range(STEPS):
        total += step & 7
    return time.thread_time() - began


def least_peak_bytes(read: Read, kind: Kind, payload: bytes) -> int:
    """Of a few runs: the interpreter's table of short texts grows now and then, for all at once."""
    least = BUDGET_BYTES + 1
    for _ in range(3):
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        outcome(read, kind, payload)
        least = min(least, tracemalloc.get_traced_memory()[1] - before)
        if least <= BUDGET_BYTES:
            break
    return least


def test_corpus_is_as_large_as_promised() -> None:
    assert len(CORPUS) >= 40
    assert set(REFUSED_FROM_CLIENTS) <= set(CORPUS)


@every_payload
def test_sec_s08_nothing_but_a_refusal_comes_out_whatever_the_type(name: str) -> None:
    """And a refusal it must be where the bytes can be no message, whatever the type."""
    for kind in KINDS.values():
        for payload in CORPUS[name](kind):
            code = outcome(decode, kind, payload)
            assert code or name not in ALWAYS_REFUSED, payload[:40]


@every_payload
def test_nothing_but_a_refusal_comes_out_of_a_request(name: str) -> None:
    for kind in REQUESTS:
        for payload in CORPUS[name](kind):
            code = outcome(decode_request, kind, payload)
            assert code or name not in REFUSED_FROM_CLIENTS, payload[:40]


@pytest.fixture
def collected_as_by_a_master() -> Iterator[None]:
    """The garbage of this process is not what is measured; see `broker_master.cli`."""
    usual = gc.get_threshold()
    gc.collect()
    gc.set_threshold(50_000, 20, 50)
    yield
    gc.set_threshold(*usual)


@pytest.mark.usefixtures("collected_as_by_a_master")
@every_payload
def test_sec_s08_payload_costs_at_most_forty_times_the_yardstick(name: str) -> None:
    yardstick_s = min(_yardstick_s() for _ in range(3))
    dear = [
        (kind.__name__, payload[:20], times)
        for read, kind in FROM_THE_WIRE
        for payload in CORPUS[name](kind)
        if (times := times_dearer(read, kind, payload, yardstick_s)) > BUDGET_TIMES
    ]
    assert dear == []


@every_payload
def test_sec_s08_payload_takes_at_most_4_mb(name: str) -> None:
    tracemalloc.start()
    try:
        large = [
            (kind.__name__, payload[:20], peak)
            for read, kind in FROM_THE_WIRE
            if kind in LARGE_OR_DEEP
            for payload in _largest(list(CORPUS[name](kind)))
            if (peak := least_peak_bytes(read, kind, payload)) > BUDGET_BYTES
        ]
    finally:
        tracemalloc.stop()
    assert large == []


def _largest(payloads: list[bytes]) -> list[bytes]:
    """Memory follows from length: of many small payloads, a few stand for all."""
    return sorted(payloads, key=len)[-4:]
