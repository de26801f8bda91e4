"""Words of peers in headers, counters and spreadsheets."""

import msgspec
import pytest

from broker_client.cli.screen.report import print_csv
from broker_client.runtime.frames import render_headers
from schemas.faults import FAULTS, MeshError, known_code


@pytest.mark.parametrize(
    "said", ["a\r\nMesh: forged", "\n", "\x00\x1b[2J", "x" * 100_000, "\u2028", "\ud800", "é\x85"]
)
def test_sec_s36_any_message_of_a_peer_fits_a_header(said: str) -> None:
    headline = MeshError("internal", said).headline
    block = render_headers({"Nats-Service-Error": headline})
    assert block.count(b"\r\n") == 3
    assert len(headline) <= 512


def test_sec_s36_codes_that_a_peer_invents_are_counted_as_one() -> None:
    assert {known_code(f"own-word-{number}") for number in range(1000)} == {"other"}
    assert all(known_code(code) == code for code in FAULTS)


class Row(msgspec.Struct):
    note: str
    tags: list[str]
    of: dict[str, str]
    exit_code: int


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum", "\tx", "=HYPERLINK(1)"])
def test_sec_s36_no_cell_of_a_table_is_taken_for_a_formula(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    print_csv(Row, [Row(note=text, tags=[text], of={text: text}, exit_code=-1)])
    heading, row = capsys.readouterr().out.splitlines()
    cells = [*heading.split(","), *row.split(",")]
    assert not any(cell.strip('"')[:1] in tuple("=+@\t") for cell in cells)
    assert row.endswith(",-1"), "a number stays a number"
