"""One message of each type with every field set, and one with only what is required.

The values follow from the types and the names of the fields alone: the same on every machine, and
different from the default of the field, so that a lost field is seen.
"""

import re
from typing import Any, TypeVar
from zlib import crc32

from msgspec import Raw, Struct, inspect

from schemas.codec import encode
from tests.unit.schemas.catalogue import Kind

M = TypeVar("M", bound=Struct)

ARGS = {"argv": ["uname", "-a"], "timeout_s": 60.0}


def full(kind: type[M]) -> M:
    return kind(**{field.name: _other_than_default(field) for field in fields(kind)})


def least(kind: type[M]) -> M:
    needed = (field for field in fields(kind) if field.required)
    return kind(**{field.name: _value(field.type, field.name) for field in needed})


def fields(kind: Kind) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return info.fields


def _other_than_default(field: inspect.Field) -> object:
    kind = field.type
    if isinstance(kind, inspect.BoolType):
        return field.default is not True
    if isinstance(kind, inspect.LiteralType):
        return next(value for value in kind.values if value != field.default)
    value: Any = _value(kind, field.name)
    return value if value != field.default else value + 1


def _value(kind: inspect.Type, name: str) -> object:  # noqa: PLR0911 - one for each kind of type
    match kind:
        case inspect.StrType() | inspect.AnyType():
            return f"{name.replace('_', '-')}-1"
        case inspect.BytesType():
            return bytes(range(240, 256)).ljust(kind.min_length or 0, b"\0")
        case inspect.BoolType():
            return True
        case inspect.IntType():
            return _number(name, kind.le)
        case inspect.FloatType():
            return _number(name, kind.le) + 0.5 if not _is_moment(kind) else 1763686800.25
        case inspect.LiteralType():
            return kind.values[-1]
        case inspect.UnionType():
            return _value(next(t for t in kind.types if not isinstance(t, inspect.NoneType)), name)
        case inspect.StructType():
            return full(kind.cls)
        case inspect.ListType():
            return [_value(kind.item_type, name)]
        case inspect.DictType():
            return {_key(kind.key_type): _value(kind.value_type, name)}
        case inspect.RawType():
            return Raw(encode(ARGS))
    raise TypeError(f"no sample for {kind} of {name}")


def _key(kind: inspect.Type) -> str:
    pattern = kind.pattern if isinstance(kind, inspect.StrType) else None
    return "key-1" if pattern is None or re.search(pattern, "key-1") else "key_1"


def _number(name: str, most: float | None) -> int:
    """One or two bytes long, so that both widths are in the files."""
    return 1 + crc32(name.encode()) % int(min(most or 900, 900) - 2)


def _is_moment(kind: inspect.FloatType) -> bool:
    return kind.le == 1e11
