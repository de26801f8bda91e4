import re

import msgpack
import msgspec
import pytest
from hypothesis import given

from schemas.codec import decode, decode_request, encode
from tests.unit.schemas.catalogue import KINDS, Kind
from tests.unit.schemas.samples import fields, full
from tests.unit.schemas.strategies import VALUES, quick
from tools.golden import FOLDER, VERSIONS, Golden, goldens, main

GOLDENS = goldens()
FILES = sorted(path.name for path in FOLDER.iterdir())
_MAP16 = re.compile(rb"^\xde\x00([\x00-\x0f])", re.DOTALL)
FILE_NAME = re.compile(r"(?P<kind>[a-z]+\.[A-Za-z]+)\.v(?P<version>[0-9]+)(\.min)?\.msgpack")

every_golden = pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.file)
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def test_every_type_has_its_two_files() -> None:
    assert {golden.file for golden in GOLDENS} - set(FILES) == set()


def test_every_file_has_a_type_and_no_version_from_the_future() -> None:
    strangers = []
    for name in FILES:
        match = FILE_NAME.fullmatch(name)
        known = match is not None and match["kind"] in KINDS
        if match is None or not known or int(match["version"]) > VERSIONS.get(match["kind"], 1):
            strangers.append(name)
    assert strangers == []


@every_golden
def test_message_encodes_to_the_committed_bytes(golden: Golden) -> None:
    assert encode(golden.message) == (FOLDER / golden.file).read_bytes()


@every_golden
def test_committed_bytes_decode_to_the_message(golden: Golden) -> None:
    committed = (FOLDER / golden.file).read_bytes()
    assert decode(golden.kind, committed) == golden.message
    assert decode_request(golden.kind, committed) == golden.message


@pytest.mark.parametrize("name", FILES)
def test_file_of_any_version_is_still_readable(name: str) -> None:
    match = FILE_NAME.fullmatch(name)
    assert match is not None
    decode(KINDS[match["kind"]], (FOLDER / name).read_bytes())


@pytest.mark.parametrize("name", FILES)
def test_msgpack_reads_and_writes_the_same_bytes(name: str) -> None:
    committed = (FOLDER / name).read_bytes()
    plain = msgpack.unpackb(committed)
    assert isinstance(plain, dict)
    assert plain == msgspec.msgpack.decode(committed)
    # A type of more than 15 fields is written with the long header, also where most are left out.
    short = _MAP16.sub(lambda found: bytes([0x80 | found[1][0]]), committed)
    assert msgpack.packb(plain) in (committed, short)
    assert encode(plain) in (committed, short)


@every_kind
def test_full_sample_leaves_no_field_at_its_default(kind: Kind) -> None:
    sample = full(kind)
    same = [field.name for field in fields(kind) if getattr(sample, field.name) == field.default]
    assert same == []


@every_kind
def test_required_fields_alone_are_enough_and_each_is_needed(kind: Kind) -> None:
    """Also for records that send their defaults: an older peer may not know a newer field."""
    needed = {field.encode_name for field in fields(kind) if field.required}
    plain = msgpack.unpackb(encode(full(kind)))
    least = {name: plain[name] for name in needed}
    decode(kind, msgpack.packb(least))
    for name in needed:
        fewer = {key: value for key, value in least.items() if key != name}
        with pytest.raises(msgspec.ValidationError, match=f"missing required field `{name}`"):
            msgspec.msgpack.decode(msgpack.packb(fewer), type=kind)


@every_kind
def test_unknown_field_is_skipped_except_where_a_typo_would_change_the_work(kind: Kind) -> None:
    newer = msgpack.packb(msgpack.unpackb(encode(full(kind))) | {"field-of-tomorrow": [{"a": 1}]})
    if kind.__struct_config__.forbid_unknown_fields:
        assert kind.__module__.startswith("schemas.messages.actions.")
    else:
        assert decode(kind, newer) == full(kind)


def test_nothing_is_written_without_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "--write" in capsys.readouterr().err


@quick(200)
@given(VALUES)
def test_both_libraries_write_the_same_bytes_and_read_each_other(value: object) -> None:
    written = encode(value)
    assert written == msgpack.packb(value)
    assert msgpack.unpackb(written) == value
    assert msgspec.msgpack.decode(written) == value
