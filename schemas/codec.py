"""Bytes to typed messages and back, with limits that hold for hostile bytes.

Decoding is typed: a message is built field by field against its type, unknown fields are skipped
and never built, lists and maps are refused by their declared length before memory is allocated.
`scan` walks the bytes once beforehand and refuses payloads that are too deep, cut off or hold too
many values, and numbers that are not finite.
"""

from typing import Any, Final, TypeVar

import msgpack
import msgspec

from schemas import limits
from schemas.faults import Refused

M = TypeVar("M")

_encoder: Final = msgspec.msgpack.Encoder()
encode = _encoder.encode


def encode_request(request: msgspec.Struct) -> bytes:
    """As `encode`, for input of a person.

    Raises Refused (`field_invalid`) that names the field with bytes that are not UTF-8.
    """
    try:
        return encode(request)
    except UnicodeEncodeError as error:
        where = _unencodable(request) or "the request"
        raise Refused("field_invalid", f"{where} has bytes that are not UTF-8") from error


def textual(text: str) -> str:
    """Return `text` from the system, with bytes that are not UTF-8 escaped, so that it encodes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _unencodable(value: object, path: str = "") -> str:
    """Return the path of the first text in `value` that UTF-8 cannot encode; empty if none."""
    parts: list[tuple[str, object]] = []
    if isinstance(value, str):
        return "" if value.isascii() or textual(value) == value else path
    if isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
        parts = [(f"{path}.{name}" if path else name, getattr(value, name)) for name in names]
    elif isinstance(value, dict):
        for name in value:
            if _unencodable(name, path):
                return f"a name in {path}"
        parts = [(f"{path}[{name}]", item) for name, item in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    return next((found for name, item in parts if (found := _unencodable(item, name))), "")


_decoders: Final[dict[type[Any], msgspec.msgpack.Decoder[Any]]] = {}


def _decoder(kind: type[M]) -> "msgspec.msgpack.Decoder[M]":
    """Return the decoder of a type, built once; the cache holds one entry per message type."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    return decoder


def decode(kind: type[M], payload: bytes) -> M:
    """Build a `kind` from bytes of an agent or a master.

    Raises Refused (`too_large`, `too_deep`, `malformed`, `field_invalid`) and nothing else.
    """
    scan(payload, limits.BROKER_PAYLOAD_BYTES)
    return decode_trusted(kind, payload)


def decode_request(kind: type[M], payload: bytes) -> M:
    """As `decode`, for requests of clients.

    A duplicate key, or a key that is no text, is refused as well (`malformed`).
    """
    scan(payload)
    try:
        msgpack.unpackb(payload, object_pairs_hook=_refuse_twice, strict_map_key=True)
    except Refused:
        raise
    except Exception as error:  # the library raises five unrelated kinds for bad bytes
        raise Refused("malformed", f"not a msgpack map: {_first_line(error)}") from error
    return decode_trusted(kind, payload)


def decode_sized(kind: type[M], payload: bytes) -> M:
    """As `decode` without the scan, for messages that come thousands of times a second.

    Equally safe: unknown fields are skipped and never built; their content is not checked.
    """
    if len(payload) > limits.BROKER_PAYLOAD_BYTES:
        raise Refused("too_large", f"{len(payload)} bytes, at most {limits.BROKER_PAYLOAD_BYTES}")
    return decode_trusted(kind, payload)


def decode_trusted(kind: type[M], payload: bytes) -> M:
    """As `decode`, for records of the mesh's streams and answers of the master.

    Types are checked, size and shape are not: a page of records may hold more values than a
    request. Bytes of other senders go through `decode`.
    """
    try:
        return _decoder(kind).decode(payload)
    except msgspec.ValidationError as error:
        from schemas.wrong import in_words  # for who has made a mistake only

        raise Refused("field_invalid", _printable(in_words(str(error), kind))) from error
    except (
        msgspec.DecodeError,
        UnicodeDecodeError,
        RecursionError,
        OverflowError,
    ) as error:
        raise Refused("malformed", f"not a msgpack map: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return _printable(str(error).partition("\n")[0][:200])


def _printable(text: str) -> str:
    """Return `text` with other characters escaped: a library's message quotes the sender."""
    return "".join(
        char if char.isascii() and char.isprintable() else ascii(char)[1:-1] for char in text
    )


def _refuse_twice(pairs: list[tuple[Any, Any]]) -> None:
    """Refuse duplicate keys. Called for each map, inner ones first; builds nothing."""
    if len(dict(pairs)) != len(pairs):
        raise Refused("malformed", "a key is given twice")


def _shapes() -> list[tuple[int, int] | None]:
    """Table by first byte: number of bytes that follow, and of values; None: not fixed by it."""
    table: list[tuple[int, int] | None] = [None] * 256
    for byte in range(256):
        if byte < 0x80 or byte >= 0xE0:
            table[byte] = (0, 0)
        elif byte < 0x90:
            table[byte] = (0, (byte & 15) * 2)
        elif byte < 0xA0:
            table[byte] = (0, byte & 15)
        elif byte < 0xC0:
            table[byte] = (byte & 31, 0)
    fixed = {
        0xC0: 0,
        0xC2: 0,
        0xC3: 0,
        0xCA: 4,
        0xCB: 8,
        0xCC: 1,
        0xCD: 2,
        0xCE: 4,
        0xCF: 8,
    }
    fixed |= {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
    for byte, size in fixed.items():
        table[byte] = (size, 0)
    return table


_SHAPES: Final = _shapes()
# First byte -> (bytes that hold the size, values per unit of size); 0 values: the size is in bytes.
_SIZED: Final = {
    0xC4: (1, 0),
    0xC5: (2, 0),
    0xC6: (4, 0),
    0xD9: (1, 0),
    0xDA: (2, 0),
    0xDB: (4, 0),
    0xDC: (2, 1),
    0xDD: (4, 1),
    0xDE: (2, 2),
    0xDF: (4, 2),
}
# First byte of a float -> its least second byte with all bits of the exponent set, if the 7 bits
# before are set too: infinite or not a number.
_FLOATS: Final = {0xCA: 0x80, 0xCB: 0xF0}


def scan(payload: bytes, limit: int = limits.PAYLOAD_BYTES) -> None:
    """Refuse a payload that is too large, nests too deep, holds too many values or is cut off.

    Extension types are refused, as the protocol has none, and floats that are not finite, as checks
    of ranges are not written for them.
    """
    if len(payload) > limit:
        raise Refused("too_large", f"{len(payload)} bytes, at most {limit}")
    try:
        position = _walk(payload)
    except IndexError:
        position = -1
    if position != len(payload):
        raise Refused("malformed", "not one whole msgpack value")


def _walk(payload: bytes) -> int:
    """Return where the first value ends; raise IndexError if it is cut off."""
    position, left, items = 0, 1, 0
    stack: list[int] = []
    # Local names: they are looked up thousands of times for one payload.
    shapes, floats, most = _SHAPES, _FLOATS, limits.ITEMS
    while left or stack:
        if not left:
            left = stack.pop()
            continue
        left -= 1
        items += 1
        first = payload[position]
        position += 1
        shape = shapes[first]
        if shape is None:
            size, values = _sized(payload, position, first)
        else:
            size, values = shape
            if size >= 4 and first in floats and payload[position] & 0x7F == 0x7F:
                _check_finite(payload[position + 1], first)
        position += size
        if values:
            if len(stack) >= limits.DEPTH:
                raise Refused("too_deep", f"nested deeper than {limits.DEPTH} levels")
            stack.append(left)
            left = values
        if items > most:
            raise Refused("too_large", f"more than {most} values")
    return position


def _check_finite(second: int, first: int) -> None:
    if second >= _FLOATS[first]:
        raise Refused("field_invalid", "a number that is not finite")


def _sized(payload: bytes, position: int, first: int) -> tuple[int, int]:
    """Return bytes to skip (the size field, and a text's or binary's content) and values inside."""
    shape = _SIZED.get(first)
    if shape is None:
        raise Refused("malformed", f"byte 0x{first:02x} is not part of the protocol")
    width, per_unit = shape
    size = int.from_bytes(payload[position : position + width], "big")
    if per_unit:
        return width, size * per_unit
    return width + size, 0
