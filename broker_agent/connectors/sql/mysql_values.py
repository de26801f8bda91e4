"""Values of MariaDB's columns: as text for csv, and in JSON's types for JSON lines."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from pymysql.constants import FIELD_TYPE

Decoders = Mapping[int, Callable[[str], Any]]


def _moment(text: str) -> str:
    """`2026-11-28 12:00:00` as in RFC 3339, without a zone that the column does not have."""
    return text.replace(" ", "T", 1)


def _timestamp(text: str) -> str:
    """A timestamp, which the session reads in UTC. The zero of the server is no moment."""
    return text if text.startswith("0000") else f"{_moment(text)}Z"


_WHOLE: Final = (
    FIELD_TYPE.TINY,
    FIELD_TYPE.SHORT,
    FIELD_TYPE.LONG,
    FIELD_TYPE.INT24,
    FIELD_TYPE.LONGLONG,
    FIELD_TYPE.YEAR,
)
# As the server writes them, which is what its own client prints.
CSV: Final[Decoders] = {}
# Decimals and times of day stay text.
JSON: Final[Decoders] = {
    **dict.fromkeys(_WHOLE, int),
    FIELD_TYPE.FLOAT: float,
    FIELD_TYPE.DOUBLE: float,
    FIELD_TYPE.DATETIME: _moment,
    FIELD_TYPE.TIMESTAMP: _timestamp,
}
