"""Frames: whatever the bytes and however they are cut, messages come out whole or not at all."""

import contextlib
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_client.runtime.frames import (
    LINE_MAX_BYTES,
    FrameReader,
    Msg,
    check_subject,
    parse_headers,
    render_headers,
    render_hpub,
    render_pub,
)
from schemas.faults import Corrupt, Misused


class Heard:
    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def on_ping(self) -> None:
        self.events.append(("ping", None))

    def on_pong(self) -> None:
        self.events.append(("pong", None))

    def on_info(self, text: bytes) -> None:
        self.events.append(("info", text))

    def on_error_line(self, text: str) -> None:
        self.events.append(("error", text))

    def on_callback_failed(self, subject: str, error: BaseException) -> None:
        self.events.append(("failed", (subject, type(error))))


def fed(*chunks: bytes) -> tuple[list[tuple[str, str, bytes, bytes]], Heard, FrameReader]:
    got: list[tuple[str, str, bytes, bytes]] = []
    heard = Heard()

    def route(msg: Msg) -> None:
        got.append((msg.subject, msg.reply, msg.data, msg.raw_headers))

    reader = FrameReader({b"7": route}, heard)
    for chunk in chunks:
        reader.feed(chunk)
    return got, heard, reader


def test_messages_and_control_lines_in_one_chunk() -> None:
    got, heard, _ = fed(
        b'INFO {"a":1}\r\nPING\r\nMSG a.b 7 2\r\nhi\r\nHMSG a.c 7 back 12 14\r\n'
        b"NATS/1.0\r\n\r\nhi\r\nPONG\r\n+OK\r\n-ERR 'Stale Connection'\r\nMSG a.d 7 0\r\n\r\n"
    )
    assert got == [
        ("a.b", "", b"hi", b""),
        ("a.c", "back", b"hi", b"NATS/1.0\r\n\r\n"),
        ("a.d", "", b"", b""),
    ]
    assert heard.events == [
        ("info", b'{"a":1}'),
        ("ping", None),
        ("pong", None),
        ("error", "Stale Connection"),
    ]


@given(st.lists(st.integers(0, 120)))
def test_cuts_make_no_difference(cuts: list[int]) -> None:
    data = (
        b"MSG a.b 7 4\r\n\r\n\r\n\r\nPING\r\nHMSG a.c 7 back 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"
        b"MSG a.d 9 3\r\nxyz\r\nMSG a.e 7 1\r\n!\r\n"
    )
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[a:b] for a, b in itertools.pairwise(edges)]
    got, heard, reader = fed(*chunks)
    assert [message[0] for message in got] == ["a.b", "a.c", "a.e"]
    assert got[0][2] == b"\r\n\r\n"
    assert heard.events == [("ping", None)]
    assert reader.unrouted == 1


@given(st.binary(max_size=300))
def test_hostile_bytes_raise_corrupt_or_nothing(data: bytes) -> None:
    with contextlib.suppress(Corrupt):
        fed(b"MSG a 7 1\r\nx\r\n" + data)


@pytest.mark.parametrize(
    "line",
    [
        b"MSG a 7 x\r\n",
        b"MSG a 7 -1\r\n",
        b"MSG a 7 99999999999\r\n",
        b"HMSG a 7 12 3\r\n",
        b"HMSG a 7 -5 3\r\n",
        b"HELLO\r\n",
        b"x" * (LINE_MAX_BYTES + 1),
    ],
)
def test_bytes_of_another_protocol_are_corrupt(line: bytes) -> None:
    with pytest.raises(Corrupt):
        fed(line)


def test_line_with_too_many_fields_is_skipped_and_counted() -> None:
    """A broker never writes it; should one be tricked into it, nobody gets the message."""
    got, _, reader = fed(b"MSG a 7 b c 2\r\nhi\r\nMSG a 7 2\r\nok\r\n")
    assert [message[2] for message in got] == [b"ok"]
    assert reader.malformed == 1


def test_vertical_tab_is_part_of_the_subject() -> None:
    got, _, _ = fed(b"MSG a\x0b9\x0bforged 7 2\r\nhi\r\n")
    assert got == [("a\x0b9\x0bforged", "", b"hi", b"")]


def test_callback_that_raises_is_reported_and_the_rest_is_read() -> None:
    heard = Heard()
    seen: list[bytes] = []

    def route(msg: Msg) -> None:
        seen.append(msg.data)
        raise KeyError(msg.subject)

    reader = FrameReader({b"1": route}, heard)
    reader.feed(b"MSG a 1 1\r\nx\r\nMSG b 1 1\r\ny\r\n")
    assert seen == [b"x", b"y"]
    assert heard.events == [("failed", ("a", KeyError)), ("failed", ("b", KeyError))]


@pytest.mark.parametrize(
    ("raw", "status", "headers"),
    [
        (b"", 0, {}),
        (b"NATS/1.0", 0, {}),
        (b"NATS/1.0\r\n\r\n", 0, {}),
        (b"NATS/1.0 503\r\n\r\n", 503, {}),
        (b"NATS/1.0 100 Idle Heartbeat\r\nA: b\r\n\r\n", 100, {"A": "b"}),
        (b"NATS/1.0 \xff\xfe\xfd\r\n\r\n", 0, {}),
        (b"NATS/1.0 5O3\r\n\r\n", 0, {}),
        (b"NATS/1.0\r\nA: 1\r\nA: 2\r\nno colon\r\n: none\r\nB:\r\n\r\n", 0, {"A": "2", "B": ""}),
        (b"NATS/1.0\r\nK\xff: v\xff\r\n\r\n", 0, {"K�": "v�"}),
        (b"HTTP/1.1 200\r\nA: b\r\n\r\n", 0, {}),
    ],
)
def test_headers_are_read_as_far_as_they_go(
    raw: bytes, status: int, headers: dict[str, str]
) -> None:
    found = parse_headers(raw)
    assert (found[0], found[2]) == (status, headers)


@given(st.binary(max_size=200))
def test_no_header_block_raises(raw: bytes) -> None:
    message = Msg("a", "", b"", b"NATS/1.0" + raw)
    assert isinstance(message.headers, dict)
    assert 0 <= message.status <= 999
    assert isinstance(message.description, str)


def test_rendered_frames_are_what_the_protocol_says() -> None:
    assert render_pub("a.b", b"hi") == b"PUB a.b 2\r\nhi\r\n"
    assert render_pub("a.b", b"", "back") == b"PUB a.b back 0\r\n\r\n"
    block = render_headers({"A": "b", "C": "dé"})
    assert block == b"NATS/1.0\r\nA: b\r\nC: d\xc3\xa9\r\n\r\n"
    assert render_hpub("a", block, b"hi") == b"HPUB a 26 28\r\n" + block + b"hi\r\n"
    assert render_hpub("a", block, b"hi", "r") == b"HPUB a r 26 28\r\n" + block + b"hi\r\n"


@given(st.text(max_size=20))
def test_checked_subject_stays_on_its_line(subject: str) -> None:
    try:
        check_subject(subject)
    except Misused:
        return
    line = render_pub(subject, b"")
    assert line.count(b"\r") == line.count(b"\n") == 2
    assert len(line.split(b"\r\n")[0].split(b" ")) == 3


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3))
def test_rendered_headers_never_break_out_of_their_block(headers: dict[str, str]) -> None:
    try:
        block = render_headers(headers)
    except Misused:
        return
    assert block.count(b"\r\n\r\n") == 1
    assert block.endswith(b"\r\n\r\n")
    assert len(block.split(b"\r\n")) == len(headers) + 3
