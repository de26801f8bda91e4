"""Generators of names, messages and bytes; `quick` bounds a property test on a busy machine."""

import re
from collections.abc import Callable
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from msgspec import Raw, inspect

from schemas import subjects
from schemas.codec import encode
from schemas.faults import Refused
from tests.unit.schemas.catalogue import Kind
from tests.unit.schemas.samples import fields, full, least

NAMES: Final = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
COMMAND_IDS: Final = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
ATTEMPTS: Final = st.integers(min_value=0, max_value=999_999_999)
STREAMS: Final = st.sampled_from(subjects.STREAMS)

SCALARS: Final = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40)
    | st.binary(max_size=40)
)
VALUES: Final = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=17) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def refusal_of(read: Callable[[], object]) -> Refused | None:
    """Fault of a refused `read`; any other exception is not expected, and goes through."""
    try:
        read()
    except Refused as refusal:
        return refusal
    return None


def quick(examples: int) -> settings:
    """No deadline for one example: other work on the machine must not fail a property."""
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def messages(kind: Kind) -> st.SearchStrategy[Any]:
    """Messages of a type, with any subset of the fields that have defaults."""
    found = fields(kind)
    return st.fixed_dictionaries(
        {field.name: _values(field.type) for field in found if field.required},
        optional={field.name: _values(field.type) for field in found if not field.required},
    ).map(lambda chosen: kind(**chosen))


def hostile_bytes(kind: Kind) -> st.SearchStrategy[bytes]:
    """Noise, and what looks more and more like a message of the type."""
    names = st.sampled_from([field.encode_name for field in fields(kind)] or ["x"])
    nearly = st.dictionaries(
        names, SCALARS | st.floats() | st.lists(SCALARS, max_size=2), max_size=4
    )
    valid = st.sampled_from([encode(full(kind)), encode(least(kind))])
    return st.one_of(st.binary(max_size=200), nearly.map(encode), valid.flatmap(_damaged))


def _damaged(payload: bytes) -> st.SearchStrategy[bytes]:
    """`payload` with a part of it replaced by other bytes, possibly none."""
    places = st.integers(min_value=0, max_value=len(payload))
    cuts = st.tuples(places, places, st.binary(max_size=6))
    return cuts.map(lambda cut: payload[: min(cut[:2])] + cut[2] + payload[max(cut[:2]) :])


def _values(  # noqa: C901, PLR0911, PLR0912 - one for each kind of type
    kind: inspect.Type,
) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.StrType():
            return _texts(kind)
        case inspect.BytesType():
            return st.binary(min_size=kind.min_length or 0, max_size=min(kind.max_length or 64, 64))
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType():
            low = -(2**63) if kind.ge is None else kind.ge
            return st.integers(min_value=low, max_value=2**63 if kind.le is None else kind.le)
        case inspect.FloatType():
            return st.floats(
                min_value=kind.ge if kind.gt is None else kind.gt,
                exclude_min=kind.gt is not None,
                max_value=kind.le,
                allow_nan=False,
                allow_infinity=False,
            )
        case inspect.NoneType():
            return st.none()
        case inspect.LiteralType():
            return st.sampled_from(list(kind.values))
        case inspect.UnionType():
            return st.one_of([_values(one) for one in kind.types])
        case inspect.StructType():
            return messages(kind.cls)
        case inspect.ListType():
            return st.lists(_values(kind.item_type), min_size=kind.min_length or 0, max_size=2)
        case inspect.DictType():
            return st.dictionaries(_values(kind.key_type), _values(kind.value_type), max_size=2)
        case inspect.AnyType():
            return SCALARS
        case inspect.RawType():
            return VALUES.map(lambda value: Raw(encode(value)))
    raise TypeError(f"no values for {kind}")


def _texts(kind: inspect.StrType) -> st.SearchStrategy[str]:
    if kind.pattern is None:
        return st.text(max_size=min(kind.max_length or 80, 80))
    return st.from_regex(re.compile(kind.pattern), fullmatch=True)
