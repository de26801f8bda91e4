"""Findings of the validator in words: which field, what is wrong, an example.

Used after a failed validation only; no valid message pays for it.
"""

import re
from functools import lru_cache
from typing import Any, Final

from msgspec import MsgspecError, ValidationError, inspect

from schemas.ids import (
    ACTION_PATTERN,
    ID_PATTERN,
    NAME_PATTERN,
    PATTERNS_IN_WORDS,
    TAG_NAME_PATTERN,
    TAG_VALUE_PATTERN,
)
from schemas.near import near_names

_TYPES: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bytes": "bytes",
    "bool": "true or false",
    "array": "a list",
    "object": "a map",
}
_UNITS: Final = {"str": "characters", "bytes": "bytes", "array": "entries", "object": "entries"}
_EXAMPLES: Final = {
    NAME_PATTERN: "web-1",
    ID_PATTERN: "deploy-42",
    TAG_NAME_PATTERN: "site",
    TAG_VALUE_PATTERN: "berlin",
    ACTION_PATTERN: "process",
}
_BOUND: Final = re.compile(r"Expected `\w+` (>=|>|<=|<) (\S+)")
_LENGTH: Final = re.compile(r"Expected `(\w+)` of length (<=|>=)? ?(\d+)")
_PATTERN: Final = re.compile(r"Expected `str` matching regex ['\"](.*)['\"]", re.DOTALL)
_TYPE: Final = re.compile(r"Expected `([\w |]+)`, got `")
_MISSING: Final = re.compile(r"Object missing required field `(\w+)`")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MOVES: Final = {
    ">=": "is less than",
    ">": "is not more than",
    "<=": "is more than",
    "<": "is not less than",
}


def told(error: MsgspecError | ValueError, kind: Any) -> str:  # noqa: ANN401
    """Return the fault of a file that was read as a `kind`, or that cannot be parsed at all."""
    return in_words(str(error), kind) if isinstance(error, ValidationError) else str(error)


def in_words(said: str, kind: Any) -> str:  # noqa: ANN401  (any type that can be decoded)
    """Return `timeout_s is not a number; give for example 1.5` for a validator's finding.

    kind: the type that the value was checked against.
    """
    finding, _, where = said.rpartition(" - at ")
    finding, where = (finding, where) if finding else (where, "`$`")
    path, is_key = where.strip("`").rpartition("`$")[2].removeprefix("$"), where.startswith("`key`")
    name = path.lstrip(".") or "the message"
    if missing := _MISSING.search(finding):
        path = f"{path}.{missing[1]}"
        name, fault = path.lstrip("."), "is missing"
    elif unknown := _UNKNOWN.search(finding):
        found = _find(kind, path, is_key=False)
        known = [each.encode_name for each in getattr(found, "fields", ())]
        return f"{name} has no field {unknown[1][:64]!a}{near_names(unknown[1], known)}"
    else:
        fault = fault_in_words(finding)
    example = example_of(_find(kind, path, is_key=is_key))
    return f"{'a name in ' * is_key}{name} {fault}{'; give for example ' * bool(example)}{example}"


def fault_in_words(finding: str) -> str:
    """Return the fault of a value, without its name: `is more than 5`."""
    if found := _BOUND.search(finding):
        return f"{_MOVES[found[1]]} {found[2].removesuffix('.0')}"
    if found := _LENGTH.search(finding):
        size = {"<=": "more than", ">=": "less than", None: "not just"}[found[2]]
        return f"has {size} {found[3]} {_UNITS.get(found[1], 'parts')}"
    if found := _PATTERN.search(finding):
        words = next((w for p, w in PATTERNS_IN_WORDS.items() if repr(p)[1:-1] == found[1]), "")
        return f"is not {words or 'in the right form'}"
    if found := _TYPE.search(finding):
        wanted = " or ".join(_TYPES[each] for each in found[1].split(" | ") if each in _TYPES)
        return f"is not {wanted or 'empty'}"
    return "is none of its values" if finding.startswith("Invalid enum value") else "does not fit"


def example_of(kind: inspect.Type | None) -> str:
    """Return a value of this type, or all values of a choice; empty if it has no short one."""
    match kind:
        case inspect.LiteralType():
            return " or ".join(map(str, kind.values))
        case inspect.UnionType():
            return next(filter(None, map(example_of, kind.types)), "")
        case inspect.IntType() | inspect.FloatType():
            return _number(kind)
        case inspect.StrType():
            return "text" if kind.pattern is None else _EXAMPLES.get(kind.pattern, "")
        case inspect.BoolType():
            return "true"
        case inspect.ListType():
            return f"[{example_of(kind.item_type)}]"
        case inspect.DictType():
            return f"{{{example_of(kind.key_type)}: {example_of(kind.value_type)}}}"
    return ""


def _number(kind: inspect.IntType | inspect.FloatType) -> str:
    least = kind.ge if kind.ge is not None else kind.gt
    value = 1.0 if least is None else float(least) + (kind.gt is not None or least == 0)
    most = kind.le if kind.le is not None else kind.lt
    value = value if most is None else min(value, float(most))
    return f"{value:g}"


@lru_cache(maxsize=256)
def _inspected(kind: Any) -> inspect.Type:  # noqa: ANN401
    return inspect.type_info(kind)


def _find(kind: Any, path: str, *, is_key: bool) -> inspect.Type | None:  # noqa: ANN401
    """Return the type at a path such as `.terms[0].tags[...]`; None if there is none."""
    found: inspect.Type | None = _inspected(kind)
    for step in re.findall(r"\.(\w+)|\[(?:\d+|\.\.\.)\]", path):
        found = _step(found, step)
    return found.key_type if is_key and isinstance(found, inspect.DictType) else found


def _step(kind: inspect.Type | None, name: str) -> inspect.Type | None:
    if isinstance(kind, inspect.UnionType):
        return next(filter(None, (_step(each, name) for each in kind.types)), None)
    if isinstance(kind, inspect.StructType) and name:
        return next((each.type for each in kind.fields if each.encode_name == name), None)
    if isinstance(kind, inspect.ListType | inspect.VarTupleType) and not name:
        return kind.item_type
    if isinstance(kind, inspect.DictType) and not name:
        return kind.value_type
    return None
