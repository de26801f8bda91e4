"""Writes YAML for people: blocks, plain scalars where they are safe, `|` for long text.

Only maps, lists, texts and numbers, as the rules need no others; raises for other values.

PyYAML, with which the tests read them, does not write them: it quotes and folds expressions, so
that a change of one rule is hard to read.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence

_PLAIN = re.compile(r"[A-Za-z_/.(][A-Za-z0-9_ /.,()<>=*+\-]*")
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


def render(value: object) -> str:
    return "".join(f"{line}\n" for line in _lines(value))


def _lines(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _entry(f"{_scalar(key)}:", item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _item(item)
    else:
        raise TypeError(f"neither a map nor a list: {value!r}")


def _entry(head: str, value: object) -> Iterator[str]:
    if isinstance(value, str) and "\n" in value:
        yield f"{head} |-"
        yield from (f"  {line}" for line in value.split("\n"))
    elif isinstance(value, Mapping | list | tuple) and value:
        yield head
        yield from (f"  {line}" for line in _lines(value))
    else:
        yield f"{head} {_scalar(value)}"


def _item(value: object) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        first, *rest = _lines(value)
        yield f"- {first}"
        yield from (f"  {line}" for line in rest)
    else:
        yield f"- {_scalar(value)}"


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        safe = _PLAIN.fullmatch(value) and value.lower() not in _WORDS and not value.endswith(" ")
        return value if safe else json.dumps(value, ensure_ascii=False)
    if value in ({}, [], ()):
        return "[]" if not isinstance(value, Mapping) else "{}"
    raise TypeError(f"no plain value: {value!r}")
