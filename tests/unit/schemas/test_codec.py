import math
import random
import struct
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import limits
from schemas.codec import decode, decode_request, decode_trusted, encode, scan
from schemas.faults import FAULTS, Refused
from schemas.messages import liveness, work
from schemas.messages.actions import ProcessArgs
from schemas.messages.api import SubmitRequest
from tests.unit.schemas.catalogue import KINDS, Kind
from tests.unit.schemas.samples import full
from tests.unit.schemas.strategies import VALUES, hostile_bytes, messages, quick, refusal_of

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@every_kind
def test_any_bytes_give_a_message_or_a_refusal(kind: Kind) -> None:
    @quick(30)
    @given(hostile_bytes(kind))
    def check(payload: bytes) -> None:
        for read in (decode, decode_request, decode_trusted):
            read_or_refuse(read, kind, payload)

    check()


def read_or_refuse(read: Callable[[Kind, bytes], object], kind: Kind, payload: bytes) -> None:
    """Anything else that escapes fails the test that called."""
    refusal = refusal_of(lambda: read(kind, payload))
    if refusal is None:
        assert isinstance(read(kind, payload), kind)
        return
    assert refusal.code in FAULTS
    assert refusal.message.isascii()
    assert refusal.message.isprintable()


@every_kind
def test_valid_bytes_with_a_few_of_them_changed_give_a_message_or_a_refusal(kind: Kind) -> None:
    """Many, cheaply: the seed is fixed, so that a failure repeats."""
    chance = random.Random(20_25)
    valid = encode(full(kind))
    for _ in range(150):
        payload = bytearray(valid)
        for _ in range(chance.randrange(1, 4)):
            payload[chance.randrange(len(payload))] = chance.randrange(256)
        for read in (decode, decode_request, decode_trusted):
            read_or_refuse(read, kind, bytes(payload))


@every_kind
def test_generated_messages_come_back_equal(kind: Kind) -> None:
    @quick(15)
    @given(messages(kind))
    def check(message: object) -> None:
        written = encode(message)
        assert decode(kind, written) == message
        assert decode_request(kind, written) == message
        assert encode(decode(kind, written)) == written

    check()


@quick(300)
@given(VALUES)
def test_scan_passes_one_whole_value_and_nothing_shorter_or_longer(value: object) -> None:
    payload = encode(value)
    scan(payload)
    for broken in (payload[:-1], payload + b"\0"):
        with pytest.raises(Refused, match="not one whole msgpack value"):
            scan(broken)


@quick(300)
@given(st.floats(width=32), st.sampled_from(["f", "d"]))
def test_scan_refuses_exactly_the_floats_that_are_not_finite(value: float, width: str) -> None:
    payload = {"f": b"\xca", "d": b"\xcb"}[width] + struct.pack(f">{width}", value)
    if math.isfinite(value):
        scan(payload)
    else:
        with pytest.raises(Refused, match="not finite"):
            scan(payload)


def test_largest_body_of_a_client_still_fits_into_the_run_request_of_its_agent() -> None:
    empty = encode({"group": "g", "args": {"argv": ["cat"], "stdin": b"x" * 70_000}})
    args = {"argv": ["cat"], "stdin": b"x" * (limits.PAYLOAD_BYTES - len(empty) + 70_000)}
    body = encode({"group": "g", "args": args})
    assert len(body) == limits.PAYLOAD_BYTES
    request = decode_request(SubmitRequest, body)
    run = full(work.Run)
    sent = encode(msgspec.structs.replace(run, args=request.args))
    assert decode(work.Run, sent).args == request.args


def test_one_byte_more_than_the_largest_body_is_refused() -> None:
    payload = encode(b"x" * (limits.PAYLOAD_BYTES - 5 + 1))
    assert len(payload) == limits.PAYLOAD_BYTES + 1
    with pytest.raises(Refused) as refusal:
        decode_request(SubmitRequest, payload)
    assert refusal.value.code == "too_large"


@pytest.mark.parametrize(
    "message",
    [
        work.Report(incarnation="i", items=[full(work.AttemptReport)] * limits.REPORT_ITEMS),
        work.Release(epoch=1, items=[full(work.Released)] * limits.REPORT_ITEMS),
        msgspec.structs.replace(
            full(liveness.Hello), tasks=[full(liveness.TaskStatus)] * limits.HELLO_TASKS
        ),
        msgspec.structs.replace(
            full(liveness.Welcome), decisions=[full(liveness.TaskDecision)] * limits.HELLO_TASKS
        ),
    ],
    ids=lambda message: type(message).__name__,
)
def test_list_of_the_greatest_length_passes_the_limits_of_shape(message: msgspec.Struct) -> None:
    """Else an agent would repeat for ever what its master must refuse."""
    assert decode(type(message), encode(message)) == message


def test_longest_arguments_pass_the_limits_of_shape() -> None:
    args = {"argv": ["a"] * limits.LIST_LEN, "env": {str(n): "" for n in range(limits.MAP_LEN)}}
    payload = encode({"group": "g", "args": args, "labels": {str(n): "" for n in range(32)}})
    request = decode_request(SubmitRequest, payload)
    assert len(decode_trusted(ProcessArgs, bytes(request.args)).argv) == limits.LIST_LEN


def test_nesting_of_16_levels_passes_and_17_do_not() -> None:
    scan(b"\x91" * 16 + b"\xc0")
    with pytest.raises(Refused) as refusal:
        scan(b"\x91" * 17 + b"\xc0")
    assert refusal.value.code == "too_deep"


def test_key_given_twice_is_refused_at_any_depth_of_a_request() -> None:
    twice = b"\x82\xa1a\x01\xa1a\x02"
    for payload in (twice, b"\x81\xa4args" + twice, b"\x81\xa1x\x91" + twice):
        with pytest.raises(Refused, match="twice"):
            decode_request(SubmitRequest, payload)


def test_refusal_never_repeats_control_characters_of_the_sender() -> None:
    """The text goes into a header, where a line break would begin another header."""
    payload = encode({"argv": ["a"], "x\r\nNats-Service-Error-Code: 200\x1b[2J\u202e": 1})
    with pytest.raises(Refused) as refusal:
        decode(ProcessArgs, payload)
    assert refusal.value.message.isascii()
    assert refusal.value.message.isprintable()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("group", "web.>", "group is not 1 to 63 of a-z, 0-9 and '-', a letter or digit first"),
        ("id", "a b", "id is not 1 to 64 of A-Z, a-z, 0-9, '_' and '-'"),
        ("tags", {"si te": "a"}, "a name in tags is not 1 to 63 of A-Z, a-z, 0-9 and '_./-'"),
        ("tags", {"site": "a b"}, "tags[...] is not at most 63 of A-Z, a-z, 0-9 and '_./:-'"),
    ],
)
def test_fault_of_a_malformed_field_shows_its_shape_in_words(
    field: str, value: object, words: str
) -> None:
    refusal = refusal_of(
        lambda: decode_request(SubmitRequest, encode({"id": "x", "group": "web", field: value}))
    )
    assert refusal is not None
    assert refusal.code == "field_invalid"
    assert refusal.message.startswith(words)
    assert "; give for example " in refusal.message
    assert "regex" not in refusal.message
