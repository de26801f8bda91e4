import csv
import datetime as dt
import io
import json
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from broker_agent.connectors.api import CallFailed
from broker_agent.connectors.sql.rows import FIRST_BYTES, Rows


class Kept:
    """Output in memory."""

    def __init__(self) -> None:
        self.data = b""

    @property
    def written(self) -> int:
        return len(self.data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += bytes(data)


VALUES: list[tuple[Any, Any, str]] = [
    (None, None, ""),
    (True, True, "true"),
    (-(2**63), -(2**63), "-9223372036854775808"),
    (1.5, 1.5, "1.5"),
    (float("nan"), "NaN", "NaN"),
    (float("-inf"), "-Infinity", "-Infinity"),
    ("", "", '""'),
    ('a "b"', 'a "b"', '"a ""b"""'),
    ("a,b\r\nc", "a,b\r\nc", '"a,b\r\nc"'),
    ("ünïcode \U0001f600", "ünïcode \U0001f600", "ünïcode \U0001f600"),
    (b"\0\xff", "AP8=", "AP8="),
    (Decimal("0.0000001"), "0.0000001", "0.0000001"),
    (Decimal("1.50"), "1.50", "1.50"),
    (Decimal("NaN"), "NaN", "NaN"),
    (dt.date(2024, 2, 29), "2024-02-29", "2024-02-29"),
    (
        dt.datetime(2024, 2, 29, 1, 2, 3, 4, dt.UTC),
        "2024-02-29T01:02:03.000004Z",
        "2024-02-29T01:02:03.000004Z",
    ),
    (dt.time(1, 2, 3), "01:02:03", "01:02:03"),
    (dt.timedelta(hours=30), "1 day, 6:00:00", '"1 day, 6:00:00"'),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000001"),
    ([1, [None, "a"]], [1, [None, "a"]], '"[1,[null,""a""]]"'),
    ({"a": Decimal("1.0")}, {"a": "1.0"}, '"{""a"":""1.0""}"'),
    (msgspec.Raw(b'{"a":1}'), {"a": 1}, '"{""a"":1}"'),
    (complex(1, 2), "(1+2j)", "(1+2j)"),
]


@pytest.mark.parametrize(
    ("value", "shown", "field"),
    VALUES,
    ids=[f"{number}-{type(row[0]).__name__}" for number, row in enumerate(VALUES)],
)
def test_value_in_each_format(value: Any, shown: Any, field: str) -> None:  # noqa: ANN401
    out = Kept()
    rows = Rows(out, "jsonl", ["a", "b"])
    rows.add([(value, 1)])
    assert json.loads(out.data) == {"a": shown, "b": 1}
    assert rows.result()["first"] == {"a": shown, "b": 1}
    out = Kept()
    Rows(out, "csv", ["a", "b"]).add([(value, 1)])
    assert out.data.decode() == f"a,b\n{field},1\n"


def test_csv_reads_back_with_other_readers() -> None:
    out = Kept()
    texts = ["a", 'b"', "c\nd", "", ",", "\\.", " e "]
    Rows(out, "csv", ["x,y", "z"]).add([(text, text) for text in texts])
    read = list(csv.reader(io.StringIO(out.data.decode(), newline="")))
    assert read == [["x,y", "z"], *([text, text] for text in texts)]


def test_line_that_would_end_the_data_is_quoted() -> None:
    out = Kept()
    Rows(out, "csv", ["a"]).add([("\\.",)])
    assert out.data == b'a\n"\\."\n'


def test_numbers_and_first_row_of_the_result() -> None:
    out = Kept()
    rows = Rows(out, "jsonl", ["a"], max_rows=3)
    rows.add([])
    rows.add([("x",), ("y",)])
    rows.add([("z",)])
    assert rows.result() == {
        "columns": ["a"],
        "rows": 3,
        "bytes": len(out.data),
        "first": {"a": "x"},
    }
    with pytest.raises(CallFailed, match=r"max_rows \(3\)") as refusal:
        rows.add([("w",)])
    assert (refusal.value.code, refusal.value.effect) == ("result_too_large", "none")
    assert b"w" not in out.data


def test_result_stays_small() -> None:
    rows = Rows(Kept(), "csv", [f"column_{number:05}" for number in range(5000)])
    rows.add([["x" * FIRST_BYTES] * 5000])
    result = rows.result()
    assert result["first"] is None
    assert len(msgspec.msgpack.encode(result)) < 32 * 1024
    assert result["columns"][:2] == ["column_00000", "column_00001"]


def test_columns_of_one_name_are_refused_where_one_would_be_lost() -> None:
    with pytest.raises(CallFailed, match="two columns are named 'id'") as refusal:
        Rows(Kept(), "jsonl", ["id", "id"])
    assert refusal.value.code == "statement_refused"
    Rows(Kept(), "csv", ["id", "id"])
