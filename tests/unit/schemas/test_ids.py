import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import decode_request, encode
from schemas.faults import Refused
from schemas.ids import check_command_id, check_name, is_command_id, is_name
from schemas.messages.api import CommandQuery, NameQuery
from schemas.messages.liveness import Echo
from tests.unit.schemas.strategies import COMMAND_IDS, NAMES, quick

LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz")
ID_LETTERS = LOWER | {letter.upper() for letter in LETTERS} | {"_", "-"}

NEVER_AN_ID = {
    "empty": "",
    "wildcard of one token": "*",
    "wildcard of the rest": "agent.>",
    "two tokens": "web.1",
    "parent folder": "../x",
    "this folder": ".",
    "absolute path": "/etc/passwd",
    "backslash": "a\\b",
    "space": "web 1",
    "space at the end": "web-1 ",
    "line break at the end": "web-1\n",
    "carriage return at the end": "web-1\r",
    "line break at the start": "\nweb-1",
    "protocol line inside": "web-1\r\nPUB x 0",
    "tabulator": "a\tb",
    "NUL": "a\0",
    "NUL alone": "\0",
    "escape": "\x1b[2J",
    "accent": "é",
    "Unicode digit": "web-\u0661",
    "superscript": "web-\u00b2",
    "full-width letter": "\uff57eb",
    "long s": "\u017f",
    "Kelvin sign": "\u212a",
    "right to left": "a\u202eb",
    "zero width": "a\u200bb",
    "template": "{{name()}}",
    "percent": "a%2e",
    "dollar": "$SYS",
    "65 characters": "a" * 65,
    "one million characters": "a" * 1_000_000,
}
NOT_A_NAME = NEVER_AN_ID | {
    "64 characters": "a" * 64,
    "hyphen first": "-a",
    "capital": "A",
    "capital inside": "wEb",
    "underscore": "a_b",
    "inbox": "_INBOX",
}


def is_name_by_definition(text: str) -> bool:
    shaped = 1 <= len(text) <= 63 and set(text) <= LOWER | {"-"}
    return shaped and text[0] in LOWER


def is_command_id_by_definition(text: str) -> bool:
    return 1 <= len(text) <= 64 and set(text) <= ID_LETTERS


@pytest.mark.parametrize("text", NOT_A_NAME.values(), ids=NOT_A_NAME)
def test_malformed_name_is_refused_by_check_and_by_messages(text: str) -> None:
    assert not is_name(text)
    with pytest.raises(Refused) as refusal:
        check_name("agent", text)
    assert refusal.value.code == "name_invalid"
    assert refusal.value.message.isprintable()
    assert len(refusal.value.message) < 1000
    with pytest.raises(Refused):
        decode_request(NameQuery, encode({"name": text}))


@pytest.mark.parametrize("text", NEVER_AN_ID.values(), ids=NEVER_AN_ID)
def test_malformed_command_id_is_refused_by_check_and_by_messages(text: str) -> None:
    assert not is_command_id(text)
    with pytest.raises(Refused) as refusal:
        check_command_id(text)
    assert refusal.value.code == "id_invalid"
    assert refusal.value.message.isprintable()
    assert len(refusal.value.message) < 1000
    with pytest.raises(Refused):
        decode_request(CommandQuery, encode({"id": text}))
    with pytest.raises(Refused):
        decode_request(Echo, encode({"epoch": 1, "incarnation": text, "seq": 1}))


@pytest.mark.parametrize("text", ["a", "0", "a-", "a--b", "web-1", "0-0", "a" * 63])
def test_name_of_the_right_shape_passes_everywhere(text: str) -> None:
    assert check_name("agent", text) == text
    assert decode_request(NameQuery, encode({"name": text})).name == text


@pytest.mark.parametrize("text", ["a", "-", "_", "-a", "A", "a" * 64, "0190-AbC_d"])
def test_command_id_of_the_right_shape_passes_everywhere(text: str) -> None:
    assert check_command_id(text) == text
    assert decode_request(CommandQuery, encode({"id": text})).id == text


@quick(300)
@given(NAMES | COMMAND_IDS | st.text(max_size=70))
def test_only_the_shape_passes_whatever_the_text(text: str) -> None:
    assert is_name(text) == is_name_by_definition(text)
    assert is_command_id(text) == is_command_id_by_definition(text)


@quick(300)
@given(NAMES | COMMAND_IDS | st.text(max_size=70))
def test_field_types_and_checks_agree_on_every_text(text: str) -> None:
    assert _decodes(NameQuery, {"name": text}) == is_name(text)
    assert _decodes(CommandQuery, {"id": text}) == is_command_id(text)


def _decodes(kind: type[NameQuery] | type[CommandQuery], fields: dict[str, str]) -> bool:
    try:
        decode_request(kind, encode(fields))
    except Refused:
        return False
    return True
