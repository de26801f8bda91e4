"""Types of messages in terms of the wire, for `docs/protocol.md`."""

from typing import Any, Final

import msgspec
from msgspec import inspect

from schemas.messages import fields

Kind = type[msgspec.Struct]

_SHAPES: Final = (
    (inspect.type_info(fields.Name), "name"),
    (inspect.type_info(fields.CommandId), "id"),
)


def fields_of(kind: Kind) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(kind)
    if not isinstance(info, inspect.StructType):
        raise TypeError(f"{kind} is no message")
    return info.fields


def link(kind: type[Any]) -> str:
    return f"[{kind.__name__}](#{kind.__name__.lower()})"


def default(field: inspect.Field) -> str:
    if field.required:
        return "**required**"
    if field.default_factory is not msgspec.NODEFAULT:
        return _literal(field.default_factory())
    return _literal(field.default)


def _literal(value: object) -> str:
    match value:
        case msgspec.Struct() | {}:
            return "`{}`"
        case msgspec.Raw():
            return "`{}`"
        case None | bool():
            return {None: "nil", True: "`true`", False: "`false`"}[value]
        case bytes():
            return f'`b"{value.decode()}"`'
        case str():
            return f'`"{value}"`'
        case float():
            return f"`{value:g}`"
    return f"`{value}`"


def words(kind: inspect.Type) -> str:  # noqa: C901, PLR0911, PLR0912 - a case per type
    for shape, word in _SHAPES:
        if kind == shape:
            return word
    match kind:
        case inspect.StrType() | inspect.BytesType():
            word = "text" if isinstance(kind, inspect.StrType) else "bytes"
            return word + _length(kind)
        case inspect.IntType() | inspect.FloatType():
            return ("integer" if isinstance(kind, inspect.IntType) else "number") + _range(kind)
        case inspect.BoolType():
            return "boolean"
        case inspect.NoneType():
            return "nil"
        case inspect.AnyType():
            return "any value"
        case inspect.RawType():
            return "map, see [actions](#actions)"
        case inspect.LiteralType():
            return " or ".join(f'`"{value}"`' for value in kind.values)
        case inspect.UnionType():
            ordered = sorted(kind.types, key=lambda one: isinstance(one, inspect.NoneType))
            return " or ".join(words(one) for one in ordered)
        case inspect.StructType():
            return link(kind.cls)
        case inspect.ListType():
            return f"list of {words(kind.item_type)}{_count(kind)}"
        case inspect.DictType():
            return f"map of {words(kind.key_type)} to {words(kind.value_type)}{_count(kind)}"
    raise TypeError(f"no words for {kind}")


def _length(kind: inspect.StrType | inspect.BytesType) -> str:
    unit = "characters" if isinstance(kind, inspect.StrType) else "bytes"
    if kind.min_length:
        return f", {kind.min_length} to {kind.max_length} {unit}"
    return f", at most {kind.max_length} {unit}" if kind.max_length else ""


def _count(kind: inspect.ListType | inspect.DictType) -> str:
    least = f", at least {kind.min_length}" if kind.min_length else ""
    return least + (f", at most {kind.max_length}" if kind.max_length else "")


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    low = f"≥ {kind.ge:.16g}" if kind.ge is not None else ""
    low = f"> {kind.gt:.16g}" if kind.gt is not None else low
    high = f"≤ {kind.le:.16g}" if kind.le is not None else ""
    bounds_ = [bound for bound in (low, high) if bound]
    return " " + ", ".join(bounds_) if bounds_ else ""
