"""Payloads that somebody with bad intent, or a broken program, might send: named, and kept.

Each is a function of the message type it is sent as, since the worst bytes begin like good ones.
"""

import struct
from collections.abc import Callable, Iterable
from typing import Final

import msgpack

from schemas import limits
from schemas.codec import encode
from tests.unit.schemas.catalogue import Kind
from tests.unit.schemas.samples import fields, full

KIB: Final = 1024
NAN: Final = float("nan")
INFINITY: Final = float("inf")
HUGE: Final = b"\xff\xff\xff\xff"

Payloads = Callable[[Kind], Iterable[bytes]]


def array32(count: int) -> bytes:
    return b"\xdd" + struct.pack(">I", count)


def map32(count: int) -> bytes:
    return b"\xdf" + struct.pack(">I", count)


def filled(head: bytes, item: bytes, size: int = limits.PAYLOAD_BYTES - 64) -> bytes:
    """An array of as many `item` as make up `size` bytes, as the value of an unknown field."""
    count = size // len(item)
    return head + array32(count) + item * count


def always(*payloads: bytes) -> Payloads:
    return lambda kind: payloads


def in_each_field(*values: object) -> Payloads:
    """Valid but for one field, which holds one of the values."""

    def payloads(kind: Kind) -> Iterable[bytes]:
        good = msgpack.unpackb(encode(full(kind)))
        names = [field.encode_name for field in fields(kind)] or ["unknown"]
        return [msgpack.packb(good | {name: value}) for name in names for value in values]

    return payloads


def around_valid(change: Callable[[bytes], Iterable[bytes]]) -> Payloads:
    return lambda kind: change(encode(full(kind)))


def first_field_twice(kind: Kind) -> Iterable[bytes]:
    good = msgpack.unpackb(encode(full(kind))) or {"x": 1}
    name = next(iter(good))
    pairs = [*good.items(), (name, good[name])]
    body = b"".join(msgpack.packb(key) + msgpack.packb(value) for key, value in pairs)
    return [map32(len(pairs)) + body]


def keys_instead_of_text(kind: Kind) -> Iterable[bytes]:
    good = msgpack.unpackb(encode(full(kind)))
    for key in (b"\x01", b"\xc0", b"\xc3", b"\xcb" + bytes(8), b"\xc4\x01a", b"\x90", b"\x80"):
        inside = b"".join(msgpack.packb(k) + msgpack.packb(v) for k, v in good.items())
        yield map32(len(good) + 1) + inside + key + b"\x01"


UNKNOWN: Final = b"\x81\xa1x"
ESCAPES_IN_KEY: Final = b"\x92" + msgpack.packb("\x01" * 200_000) + msgpack.packb("\U0001f600")

CORPUS: Final[dict[str, Payloads]] = {
    # not one whole value
    "empty": always(b""),
    "one byte, each of them": always(*(bytes([byte]) for byte in range(256))),
    "zeros": always(bytes(limits.PAYLOAD_BYTES)),
    "never-used byte": always(b"\xc1", b"\x81\xa1x\xc1"),
    "truncated at every byte": around_valid(lambda b: [b[:end] for end in range(len(b))]),
    "trailing byte": around_valid(lambda b: [b + b"\xc0", b + b"\0"]),
    "two messages": around_valid(lambda b: [b + b]),
    "trailing 100 KiB": around_valid(lambda b: [b + bytes(100 * KIB)]),
    "leading byte order mark": around_valid(lambda b: [b"\xef\xbb\xbf" + b]),
    "other protocols": always(
        b'{"id": "x"}', b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"\x1f\x8b"
    ),
    # too much
    "300 KiB of text": always(UNKNOWN + b"\xdb" + struct.pack(">I", 300 * KIB) + b"a" * 300 * KIB),
    "400 KiB of nil": always(filled(UNKNOWN, b"\xc0", 400 * KIB)),
    "1 MiB of bytes": always(UNKNOWN + b"\xc6" + struct.pack(">I", KIB * KIB) + bytes(KIB * KIB)),
    "256 KiB of empty maps": always(filled(UNKNOWN, b"\x80")),
    "256 KiB of empty arrays": always(filled(UNKNOWN, b"\x90")),
    "256 KiB of maps of one": always(filled(UNKNOWN, b"\x81\xa1a\xc0")),
    "256 KiB of nil": always(filled(UNKNOWN, b"\xc0")),
    "256 KiB of floats": always(filled(UNKNOWN, b"\xcb" + bytes(8))),
    "256 KiB of empty texts": always(filled(UNKNOWN, b"\xa0")),
    "256 KiB of big integers": always(filled(UNKNOWN, b"\xcf" + b"\xff" * 8)),
    "as many empty maps as pass": always(UNKNOWN + array32(8189) + b"\x80" * 8189),
    "as many floats as pass": always(UNKNOWN + array32(8189) + (b"\xcb" + bytes(8)) * 8189),
    "as many texts as pass": always(
        UNKNOWN + array32(8189) + b"\xbftextual content of 31 bytes....." * 8189
    ),
    "map of as many keys as pass": always(
        UNKNOWN + map32(4094) + b"".join(msgpack.packb(f"{n:x}") + b"\xc0" for n in range(4094))
    ),
    "4000 unknown fields": always(
        map32(4000) + b"".join(msgpack.packb(f"f{n}") + b"\xc0" for n in range(4000))
    ),
    "256 KiB in one text": always(UNKNOWN + msgpack.packb("a" * (256 * KIB - 16))),
    "256 KiB in one text of wide letters": always(
        UNKNOWN + msgpack.packb("\U0001f600" + "a" * (256 * KIB - 32))
    ),
    "256 KiB in one key": always(b"\x81" + msgpack.packb("k" * (256 * KIB - 16)) + b"\xc0"),
    "256 KiB in each field": in_each_field("a" * 200_000, b"a" * 200_000),
    "thousands in each field": in_each_field(["a"] * 5000, {str(n): "a" for n in range(3000)}),
    # too deep
    "arrays 17 deep": always(UNKNOWN + b"\x91" * 17 + b"\xc0"),
    "arrays 1000 deep": always(UNKNOWN + b"\x91" * 1000 + b"\xc0", b"\x91" * 1000 + b"\xc0"),
    "arrays 100 000 deep": always(UNKNOWN + b"\x91" * 100_000 + b"\xc0", b"\x91" * 100_000),
    "maps 1000 deep": always(b"\x81\xa1a" * 1000 + b"\xc0"),
    "maps 80 000 deep": always(b"\x81\xa1a" * 80_000 + b"\xc0"),
    "maps as keys of maps": always(
        b"\x81" * 1000 + b"\xc0" * 1001, b"\x81\x81\x81\xc0\xc0\xc0\xc0"
    ),
    "16 wide levels": always(UNKNOWN + b"\xdc\x02\x00" * 15 + b"\xc0" * 100_000),
    # lengths that lie
    "array of 4 G": always(b"\xdd" + HUGE, UNKNOWN + b"\xdd" + HUGE + b"\xc0" * 1000),
    "map of 4 G": always(b"\xdf" + HUGE, UNKNOWN + b"\xdf" + HUGE + b"\xa1a\xc0" * 1000),
    "text of 4 G": always(b"\xdb" + HUGE, UNKNOWN + b"\xdb" + HUGE + b"a" * 1000),
    "bytes of 4 G": always(b"\xc6" + HUGE, UNKNOWN + b"\xc6" + HUGE + b"a" * 1000),
    "extension of 4 G": always(b"\xc9" + HUGE + b"\x01", UNKNOWN + b"\xc9" + HUGE + b"\x01a"),
    "array of 65535": always(b"\xdc\xff\xff", UNKNOWN + b"\xdc\xff\xff\xc0"),
    "map of 65535": always(b"\xde\xff\xff", UNKNOWN + b"\xde\xff\xff\xa1a\xc0"),
    "nested arrays of 4 G": always((b"\xdd" + HUGE) * 10, UNKNOWN + (b"\xdd" + HUGE) * 15),
    "length cut off": always(
        *(bytes([b]) + b"\0" for b in (0xC5, 0xC6, 0xDA, 0xDB, 0xDC, 0xDD, 0xDF))
    ),
    "4 G in each field": lambda kind: [
        b"\x81" + msgpack.packb(field.encode_name) + first + HUGE
        for field in fields(kind)
        for first in (b"\xdd", b"\xdf", b"\xdb", b"\xc6")
    ],
    # what the protocol has not
    "extension types": in_each_field(msgpack.ExtType(1, b"x"), msgpack.ExtType(127, b"x" * 300)),
    "timestamps": in_each_field(
        msgpack.Timestamp(0), msgpack.Timestamp(2**40, 1), msgpack.Timestamp(-1)
    ),
    "extension as key": always(b"\x81\xd4\x01\x00\xc0"),
    # text that is none
    "invalid UTF-8": always(*(b"\x81\xa1" + bytes([byte]) + b"\xc0" for byte in range(0x80, 256))),
    "invalid UTF-8 in a skipped value": always(b"\x81\xa1x\xa2\xff\xfe"),
    "overlong and surrogate UTF-8": always(b"\x81\xa1x\xa2\xc0\x80", b"\x81\xa1x\xa3\xed\xa0\x80"),
    "cut UTF-8": always(b"\x81\xa1x\xa3\xe2\x82a"),
    "control characters": in_each_field("\0", "a\r\nX: y", "\x1b]52;c;x\x07", "\u202e", "\ufeff"),
    "control characters in a key": always(
        b"\x81" + msgpack.packb("a\r\nNats-Service-Error-Code: 200\x1b[2J") + b"\xc0"
    ),
    # numbers that are hard to compare
    "not a number": in_each_field(NAN),
    "not a number, quietly negative": always(
        UNKNOWN + b"\xcb\xff\xf8" + bytes(6),
        UNKNOWN + b"\xca\xff\xc0\0\0",
        UNKNOWN + b"\xcb\x7f\xf0" + bytes(5) + b"\x01",
    ),
    "infinite": in_each_field(INFINITY, -INFINITY),
    "infinite in 4 bytes": always(UNKNOWN + b"\xca\x7f\x80\0\0", UNKNOWN + b"\xca\xff\x80\0\0"),
    "negative zero": in_each_field(-0.0),
    "tiny and enormous floats": in_each_field(5e-324, -5e-324, 1.7e308, -1.7e308),
    "negative integers": in_each_field(-1, -(2**31) - 1, -(2**63)),
    "huge integers": in_each_field(2**31 + 1, 2**53 + 1, 2**63, 2**64 - 1),
    # the wrong thing in the right place
    "wrong types in each field": in_each_field(
        None, True, 1, 1.5, "", b"", [], {}, [[]], {"a": {}}
    ),
    "ids that reach elsewhere": in_each_field("agent.>", "../x", "a" * 65, "a\n", "*", "\u0661"),
    "not a map": always(
        *(msgpack.packb(v) for v in (None, True, 7, -7, 1.5, "text", b"x", [], [1]))
    ),
    "duplicate key": first_field_twice,
    "thousand times the same key": always(map32(1000) + b"\xa1x\xc0" * 1000),
    "keys that are no text": keys_instead_of_text,
    "keys that become long when shown": always(
        b"\x81" + ESCAPES_IN_KEY + b"\xc0", b"\x81\xc6\0\3\0\0" + bytes(3 << 16) + b"\xc0"
    ),
    "keys that are equal only when shown": always(
        b"\x82\x01\xc0\xa11\xc0", b"\x82\xc0\xc0\xa4None\xc0"
    ),
    "empty key": always(b"\x81\xa0\xc0"),
    "numbers as keys that collide": always(
        UNKNOWN
        + map32(4000)
        + b"".join(msgpack.packb(n * (2**61 - 1)) + b"\xc0" for n in range(1, 9)) * 500
    ),
}
