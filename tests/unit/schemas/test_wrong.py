"""A wrong value in any field of any request is named, with what is wrong and an example."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from schemas import codec
from schemas.faults import Refused
from schemas.messages.actions import ACTIONS
from schemas.verbs import VERBS
from schemas.wrong import in_words
from tests.unit.raw_texts import raw_in

BAD: list[Any] = [
    "x y!",
    "x" * 70_000,
    "",
    True,
    None,
    -1,
    0,
    2**40,
    1.5,
    -1e300,
    b"x",
    [],
    [1],
    ["x y!"] * 2000,
    {},
    {"x y!": "x y!"},
    {"x": 1},
    {f"x{number}": "x" for number in range(900)},
]


def fields(kind: inspect.Type, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The way to each field of a struct, and to those of the structs in it."""
    if isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from fields(each, path)
    elif isinstance(kind, inspect.ListType):
        yield from fields(kind.item_type, (*path, "[]"))
    elif isinstance(kind, inspect.StructType):
        for field in kind.fields:
            yield (*path, field.encode_name)
            yield from fields(field.type, (*path, field.encode_name))


def nested(path: tuple[str, ...], value: object) -> object:
    for step in reversed(path):
        value = [value] if step == "[]" else {step: value}
    return value


def every_field() -> list[tuple[str, type[msgspec.Struct], tuple[str, ...]]]:
    """Of the verbs, and of the arguments of actions, which are raw in them."""
    kinds = [(name, verb.request) for name, verb in VERBS.items()]
    kinds += [(name, action.args) for name, action in ACTIONS.items()]
    return [
        (name, kind, path)
        for name, kind in kinds
        for path in fields(inspect.type_info(kind))
        if path[-1] != "args"
    ]


def test_there_is_something_to_walk() -> None:
    assert len(every_field()) > 100


def test_wrong_value_of_each_field_of_the_interface_is_explained_in_words() -> None:
    refused, told = 0, set[tuple[str, ...]]()
    for name, kind, path in every_field():
        for value in BAD:
            try:
                codec.decode_request(kind, codec.encode(nested(path, value)))
            except Refused as fault:
                if fault.code != "field_invalid":
                    continue
                said = fault.message
            else:
                continue
            refused += 1
            told.add((name, *path))
            assert not raw_in(said), (name, path, said)
            assert "does not fit" not in said, (name, path, value, said)
            assert len(said) <= 400, (name, path, said)
            if not said.endswith("is missing") and "is missing;" not in said:
                assert path[-1].strip("[]") in said, (name, path, said)
    assert refused > 500
    assert {(name, *path) for name, _, path in every_field()} - told == set()


class Wanted(msgspec.Struct):
    mode: str
    limit: int = 1


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({}, "mode is missing; give for example text"),
        ({"mode": 1}, "mode is not text; give for example text"),
        ({"mode": "a", "limit": "3"}, "limit is not a whole number; give for example 1"),
        ([], "the message is not a map"),
    ],
)
def test_finding_has_the_field_the_fault_and_an_example(payload: object, words: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(payload, Wanted)
    assert in_words(str(caught.value), Wanted) == words
