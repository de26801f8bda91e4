"""Writes rows as JSON lines or csv, in batches, and makes the result of a query.

JSON: decimals as text, times as in RFC 3339, bytes in base64, numbers that JSON lacks as text.
csv: a header, then fields as PostgreSQL writes them: NULL is empty, an empty text is `""`.
"""

import base64
import datetime as dt
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from broker_agent.connectors.api import CallFailed, Out

Format = Literal["jsonl", "csv"]
Row = Sequence[Any]
# Rows that a connector fetches and hands over at a time.
BATCH: Final = 500
# Bytes of output that a batch has about, so that rows of any size take bounded memory.
BATCH_BYTES: Final = 256 * 1024
# Bytes of the first row, and of the names of columns, within a result.
FIRST_BYTES: Final = 8 * 1024
COLUMNS_BYTES: Final = 16 * 1024
_SPECIAL: Final = re.compile(r'[",\r\n]')
# Types whose values the encoder would write otherwise than `plain`.
_UNLIKE: Final = frozenset({Decimal, dt.timedelta})
_JSON: Final = msgspec.json.Encoder(decimal_format="string")


class Rows:
    """Writer of the rows of one query. rows: number of rows so far.

    max_rows: more than this fail the call. Raises CallFailed (`result_too_large`) then, and
    (`statement_refused`) for two columns of one name, of which JSON could keep one only.
    """

    def __init__(
        self, out: Out, form: Format, columns: Sequence[str], max_rows: int | None = None
    ) -> None:
        self._out = out
        self._columns = list(columns)
        self._max_rows = max_rows
        self._first: Mapping[str, Any] | None = None
        self._write: Callable[[Sequence[Row]], None] = self._write_csv
        self.rows = 0
        if form == "csv":
            out.write(csv_line(self._columns))
        else:
            _check_names(self._columns)
            self._write = self._write_json

    def add(self, rows: Sequence[Row]) -> None:
        """Write rows. Each value is one that JSON has, or one of those that `plain` takes."""
        if not rows:
            return
        if not self.rows:
            self._first = dict(zip(self._columns, map(plain, rows[0]), strict=True))
        self.count(len(rows))
        self._write(rows)

    def batch(self) -> int:
        """Number of rows to fetch next: fewer of large ones."""
        if not self.rows:
            return 1
        return max(1, min(BATCH, BATCH_BYTES * self.rows // max(1, self._out.written)))

    def count(self, rows: int) -> None:
        """Count rows that the connector writes itself, before it does."""
        self.rows += rows
        if self._max_rows is not None and self.rows > self._max_rows:
            message = f"more rows than max_rows ({self._max_rows})"
            raise CallFailed("result_too_large", message, effect="none")

    def note_first(self, row: Row) -> None:
        """Take the first row of those that the connector writes itself."""
        self._first = dict(zip(self._columns, row, strict=True))

    def result(self) -> dict[str, Any]:
        """Names of the columns, numbers of rows and bytes, and the first row if it is small."""
        return {
            "columns": fitting(self._columns, COLUMNS_BYTES),
            "rows": self.rows,
            "bytes": self._out.written,
            "first": small(self._first),
        }

    def _write_json(self, rows: Sequence[Row]) -> None:
        columns = self._columns
        lines = [dict(zip(columns, row, strict=True)) for row in _finite(rows)]
        try:
            self._out.write(_JSON.encode_lines(lines))
        except (TypeError, ValueError, OverflowError):
            # A value that the encoder does not know: rare, and slower.
            lines = [{name: plain(value) for name, value in line.items()} for line in lines]
            self._out.write(_JSON.encode_lines(lines))

    def _write_csv(self, rows: Sequence[Row]) -> None:
        self._out.write(b"".join(csv_line(row) for row in rows))


def csv_line(row: Iterable[Any]) -> bytes:
    """One line of csv, with its end."""
    fields = [csv_field(value) for value in row]
    if fields == [r"\."]:
        fields = [r'"\."']  # alone on a line it would end the data of some readers
    return (",".join(fields) + "\n").encode()


def csv_field(value: object) -> str:
    """One field: quoted if it is empty text, or has a comma, a quote or an end of line."""
    kind = type(value)
    if value is None:
        return ""
    if kind is int:
        return str(value)
    text = value if isinstance(value, str) else csv_text(value)
    if text and _SPECIAL.search(text) is None:
        return text
    return '"' + text.replace('"', '""') + '"'


def csv_text(value: object) -> str:
    """Text of a value: as in JSON, without the quotes of a string."""
    if isinstance(value, str):
        return value
    shown = plain(value)
    return shown if isinstance(shown, str) else _JSON.encode(shown).decode()


def plain(value: Any) -> Any:  # noqa: ANN401, PLR0911 - of any column; one for each kind of value
    """The value as in JSON and msgpack: text, number, truth, null, or lists and maps of them."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if -(2**63) <= value < 2**64 else str(value)
        case float():
            return value if math.isfinite(value) else _special(value)
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode()
        case Decimal():
            return format(value, "f") if value.is_finite() else str(value)
        case dt.datetime() | dt.date() | dt.time():
            return msgspec.to_builtins(value)
        case dt.timedelta() | UUID():
            return str(value)
        case msgspec.Raw():
            return plain(msgspec.json.decode(value))
        case dict():
            return {str(key): plain(each) for key, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(each) for each in value]
    return str(value)


def small(first: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The row, or None if it has more than 8 KiB."""
    if first is None or len(msgspec.msgpack.encode(first)) > FIRST_BYTES:
        return None
    return first


def fitting(names: Sequence[str], most: int) -> list[str]:
    """As many names, from the first on, as have room in `most` bytes."""
    kept: list[str] = []
    for name in names:
        most -= len(name.encode()) + 5
        if most < 0:
            break
        kept.append(name)
    return kept


def _finite(rows: Sequence[Row]) -> Sequence[Row]:
    """Rows with the numbers that JSON lacks as text; the encoder would make them null."""
    kinds = set(map(type, chain.from_iterable(rows)))
    is_plain = kinds.isdisjoint(_UNLIKE)
    if is_plain and float in kinds:
        floats = (value for value in chain.from_iterable(rows) if type(value) is float)
        is_plain = all(map(math.isfinite, floats))
    return rows if is_plain else [[plain(each) for each in row] for row in rows]


def _special(value: float) -> str:
    """As PostgreSQL writes it."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _check_names(columns: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in columns:
        if name in seen:
            message = f"two columns are named {name[:64]!a}: name one with `as`, or ask for csv"
            raise CallFailed("statement_refused", message, effect="none")
        seen.add(name)
