"""Results of actions through connections: maps of plain values, made by agents."""

from typing import Any, Final

from schemas import codec, limits
from schemas.faults import Refused

_PLAIN: Final = (str, bytes, int, float, bool, type(None))


def read(result: bytes) -> dict[str, Any] | None:
    """The decoded result; None for an empty one, and for one that records cannot hold.

    Records are also JSON, so keys are texts, and extensions are refused.
    """
    if not result or len(result) > limits.RESULT_BYTES:
        return None
    try:
        value = codec.decode(dict[str, Any], result)
    except Refused:
        return None
    return value if _is_plain(value) else None


def _is_plain(value: object) -> bool:
    """The decoder limits the depth."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return isinstance(value, _PLAIN)
