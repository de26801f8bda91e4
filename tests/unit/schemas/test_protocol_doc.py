import json
import re

import msgpack
import pytest

from schemas.codec import decode_request
from schemas.faults import FAULTS
from schemas.messages.actions import decode_args
from schemas.messages.api import SubmitRequest
from tests.unit.schemas.catalogue import KINDS, Kind
from tests.unit.schemas.samples import fields
from tools.docs import ROOT
from tools.protocol import SECTIONS
from tools.sections import names, rewritten

DOCUMENT = (ROOT / "docs" / "protocol.md").read_text()
# "```json api.SubmitRequest": JSON, but for bytes, which are written b"...".
EXAMPLE = re.compile(
    r"^```json (?P<kind>[a-z]+\.[A-Za-z]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
BYTES = re.compile(r'\bb("(?:[^"\\]|\\.)*")')
BYTES_MARK = "bytes of the example: "
EXAMPLES = [(match["kind"], match["text"]) for match in EXAMPLE.finditer(DOCUMENT)]


def plain(text: str) -> dict[str, object]:
    marked = BYTES.sub(lambda match: '"' + BYTES_MARK + match[1][1:], text)
    found: dict[str, object] = json.loads(
        marked, object_hook=lambda pairs: {key: _value(value) for key, value in pairs.items()}
    )
    return found


def _value(value: object) -> object:
    if isinstance(value, str) and value.startswith(BYTES_MARK):
        return value.removeprefix(BYTES_MARK).encode("latin-1")
    return value


def test_every_section_stands_in_the_document_once() -> None:
    assert sorted(names(DOCUMENT)) == sorted(SECTIONS)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_message_and_field_is_described(kind: Kind) -> None:
    _, found, rest = DOCUMENT.partition(f"#### {kind.__name__}\n")
    assert found
    described = rest.partition("\n#### ")[0].partition("<!-- end -->")[0]
    assert [f.encode_name for f in fields(kind) if f"| `{f.encode_name}` |" not in described] == []


def test_every_fault_is_described_once() -> None:
    listed = re.findall(r"^\| `([a-z_]+)` \| [45]\d\d \|", DOCUMENT, re.MULTILINE)
    assert listed == list(FAULTS)


def test_links_within_the_document_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", DOCUMENT, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 _-]", "", head.lower()).replace(" ", "-") for head in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", DOCUMENT)) - anchors == set()


def test_there_are_examples_of_what_a_plain_client_needs() -> None:
    needed = {
        "api.SubmitRequest",
        "api.SubmitAnswer",
        "facts.CommandRecord",
        "api.CommandQuery",
        "api.LogsRequest",
        "api.LogsAnswer",
        "faults.FaultBody",
    }
    assert needed <= {kind for kind, _ in EXAMPLES}


@pytest.mark.parametrize(("kind", "text"), EXAMPLES)
def test_example_is_a_message_and_names_known_fields_only(kind: str, text: str) -> None:
    value = plain(text)
    message = decode_request(KINDS[kind], msgpack.packb(value))
    assert set(value) <= {field.encode_name for field in fields(KINDS[kind])}
    if isinstance(message, SubmitRequest):
        decode_args(message.action, message.args)
        assert (message.group is None) != (message.agent is None)


def test_stale_section_is_noticed_and_prose_is_kept() -> None:
    document = "prose\n<!-- generated: faults -->\nold\n<!-- end -->\nmore prose\n"
    fresh = rewritten(document, SECTIONS)
    assert "old" not in fresh
    assert "`malformed`" in fresh
    assert fresh.startswith("prose\n")
    assert fresh.endswith("<!-- end -->\nmore prose\n")
    assert rewritten(fresh, SECTIONS) == fresh
