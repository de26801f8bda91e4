"""Values of PostgreSQL as in JSON: numbers, truth, lists and JSON as such, all else as text.

Decimals stay text, as the server writes them; times are those of RFC 3339, if they have a date
that it knows.
"""

import re
from typing import Final

import msgspec
import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.types.string import TextLoader

# Types whose values the driver turns into those of Python, as JSON has them; and bytes.
_KEPT: Final = frozenset({"bool", "int2", "int4", "int8", "oid", "float4", "float8", "bytea"})
_ZONE: Final = re.compile(r"([+-]\d\d)(:\d\d)?(:\d\d)?$")


class _Moment(Loader):
    def load(self, data: Buffer) -> str:
        return moment(bytes(data).decode())


class _Json(Loader):
    def load(self, data: Buffer) -> msgspec.Raw:
        text = bytes(data)
        # JSON lines have no line end within; numbers keep their digits.
        return msgspec.Raw(msgspec.json.format(text, indent=-1) if b"\n" in text else text)


def moment(text: str) -> str:
    """A time of the server, with `T` and a whole zone; others, such as `infinity`, as they are."""
    if not text[:1].isdigit() or text.endswith("BC"):
        return text
    zone = _ZONE.search(text) if ":" in text else None
    if zone is not None and not zone[3]:
        end = "Z" if zone[0] in {"+00", "+00:00"} else zone[1] + (zone[2] or ":00")
        text = text[: zone.start()] + end
    return text.replace(" ", "T", 1)


def adapters() -> AdaptersMap:
    """Return the driver's table of types, changed."""
    made = AdaptersMap(psycopg.adapters)
    for kind in psycopg.adapters.types:
        if kind.name in {"timestamp", "timestamptz", "timetz"}:
            made.register_loader(kind.oid, _Moment)
        elif kind.name in {"json", "jsonb"}:
            made.register_loader(kind.oid, _Json)
        elif kind.name not in _KEPT:
            made.register_loader(kind.oid, TextLoader)
    return made
