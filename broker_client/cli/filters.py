"""Filters of lists: `status:no_response expires:<14d tag:site=a !group:web web-*`.

Words stand beside each other and all must hold. `column:value`, where the value is a pattern with
`*` and `?`, or a comparison (`<14d`, `>=2`, `!=1.4`); `!` before it means the opposite; a bare word
is a pattern of names.
"""

import operator
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from broker_client.cli.roster import TRAITS, Trait, trait
from broker_client.cli.spans import span_s
from schemas.messages.api import AgentRecord

Test = Callable[[AgentRecord, float], bool]

_COMPARISON: Final = re.compile(r"(<=|>=|!=|<|>|=)(.+)")
_ORDERS: Final[dict[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}


def parse(words: Sequence[str]) -> Test:
    """Whether an agent passes all of `words`. Raises ValueError that names the wrong word."""
    tests = [_word(word) for text in words for word in text.split()]
    return lambda agent, now: all(test(agent, now) for test in tests)


def check(_type: object, value: str | Sequence[str]) -> None:
    """For parameters that are such words: the parser asks for each, and for all together."""
    parse([value] if isinstance(value, str) else value)


def _word(word: str) -> Test:
    if word.startswith("!"):
        inner = _word(word[1:])
        return lambda agent, now: not inner(agent, now)
    name, colon, value = word.partition(":")
    if not colon:
        return _matches(TRAITS["agent"], word)
    if not value:
        raise ValueError(f"{word!a} has nothing behind the colon")
    if name == "tag":
        return _tag(value)
    found = trait(name.lower())
    if found is None:
        raise ValueError(f"no column {name!a} to filter by: use tag, {', '.join(TRAITS)}")
    comparison = _COMPARISON.fullmatch(value)
    if comparison is None:
        return _matches(found, value)
    return _compares(word, found, comparison[1], comparison[2])


def _matches(found: Trait, pattern: str) -> Test:
    """By what the column shows; several patterns with commas between are alternatives."""
    patterns = pattern.lower().split(",")

    def test(agent: AgentRecord, now: float) -> bool:
        value = found.value(agent, now)
        texts = {found.shown(agent, now).lower()}
        if isinstance(value, float):
            texts.add(f"{value:g}")
        return any(fnmatchcase(text, each) for text in texts for each in patterns)

    return test


def _compares(word: str, found: Trait, sign: str, wanted: str) -> Test:
    order = _ORDERS[sign]

    def test(agent: AgentRecord, now: float) -> bool:
        value = found.value(agent, now)
        if isinstance(value, str):
            hit = fnmatchcase(value.lower(), wanted.lower())
            return hit if sign == "=" else not hit
        return value is not None and order(value, number)

    number = 0.0
    if _is_text(found):
        if sign not in ("=", "!="):
            raise ValueError(f"{word!a}: a text is neither less nor more; use = or !=")
        return test
    try:
        number = span_s(wanted) if found.is_span and wanted != "0" else float(wanted)
    except ValueError as error:
        kind = "a length of time such as 14d" if found.is_span else "a number"
        raise ValueError(f"{word!a}: {wanted!a} is not {kind}") from error
    return test


def _is_text(found: Trait) -> bool:
    return not (found.is_span or found.column.right)


def _tag(value: str) -> Test:
    """`site=a`, `site=a*`, or `site`: any value of it."""
    name, equals, pattern = value.partition("=")

    def test(agent: AgentRecord, _now: float) -> bool:
        found = agent.tags.get(name)
        return found is not None and (not equals or fnmatchcase(found, pattern))

    return test
