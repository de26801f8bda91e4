"""Filters of lists: words that all must match, as `state:failed,lost !client:cron`.

A word is `field:value`: the value is a pattern with `*` and `?`, several patterns separated by
commas, or a comparison (`<14d`, `>=2`, `!=0`). `!` before a word negates it; a bare word is a
pattern of names. ASCII letters match in either case. One implementation serves the master, the SDK
and the command line; a store translates a `Word` into its own query.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from schemas import limits
from schemas.faults import Refused
from schemas.near import near_names
from schemas.spans import moment_of, span_s
from schemas.texts import visible

Value = float | str | Mapping[str, str]
Get = Callable[[str], Value | None]
# number, and span (seconds): compared as numbers. since, until: time of a field, compared with the
# time in the word. pairs: names with values.
Kind = Literal["text", "number", "span", "since", "until", "pairs"]
Sign = Literal["", "=", "!=", "<", "<=", ">", ">="]

WORDS: Final = 32
_ALTERNATIVES: Final = 50
_SHOWN: Final = 64
_COMPARISON: Final = re.compile(r"(<=|>=|!=|<|>|=)(.*)", re.DOTALL)
# A comparison without the colon; names and ids have none of these signs.
_UNMARKED: Final = re.compile(r"([^<>=!]*)(<=|>=|!=|<|>|=)(.*)", re.DOTALL)
_WORD: Final = re.compile(r"\S+")
_ORDERS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}
_SMALL: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


class Field(NamedTuple):
    """of: name of the value to compare, if not the field's. values: all that exist, if closed."""

    kind: Kind = "text"
    of: str = ""
    values: tuple[str, ...] = ()


class Word(NamedTuple):
    """One parsed word. field: name of the value to compare; sign: of a comparison, else empty.

    patterns: alternatives, folded. number: right side of a comparison; for `since` and `until` unix
    time. key: of pairs, the name, folded; without patterns any value matches.
    """

    field: str
    kind: Kind
    is_not: bool
    sign: Sign
    patterns: tuple[str, ...]
    number: float
    key: str


class Language(NamedTuple):
    """Fields of a list. other: further names of fields, by name. bare: the field of a bare word."""

    fields: Mapping[str, Field]
    other: Mapping[str, str]
    bare: str
    example: str

    def parse(self, text: str, now: float) -> list[Word]:
        """Return the words of `text`. now: unix time, for `since:1d`.

        Raises Refused (`filter_invalid`) with the wrong word, its place and what to write instead.
        """
        if len(text) > limits.FILTER_LEN:
            raise Refused("filter_invalid", f"filter: longer than {limits.FILTER_LEN} characters")
        words = []
        for found in _WORD.finditer(text):
            try:
                words.append(self._word(found.group(), now))
            except ValueError as error:
                at = f"{_short(found.group())} at character {found.start() + 1}"
                raise Refused(
                    "filter_invalid", f"filter: {at}: {error}; for example: {self.example}"
                ) from error
        if len(words) > WORDS:
            raise Refused("filter_invalid", f"filter: more than {WORDS} words")
        return words

    def _word(self, text: str, now: float) -> Word:
        is_not = text.startswith("!")
        name, colon, value = text.removeprefix("!").partition(":")
        if not colon:
            self._check_bare(name)
            name, value = self.bare, name
        if not value:
            raise ValueError("nothing behind it" if colon else "nothing but a sign")
        name = name.lower()
        name = self.other.get(name, name)
        found = self.fields.get(name)
        if found is None:
            near = near_names(name, [*self.fields, *self.other])
            raise ValueError(
                f"no field {_short(name)}{near}, there are: {', '.join(sorted(self.fields))}"
            )
        word = Word(found.of or name, found.kind, is_not, "", (), 0.0, "")
        if found.kind in ("since", "until"):
            return word._replace(number=moment_of(value, now))
        if found.kind == "pairs":
            key, equals, pattern = value.partition("=")
            patterns = _alternatives(pattern) if equals else ()
            return word._replace(key=fold(key), patterns=patterns)
        comparison = _COMPARISON.fullmatch(value)
        if comparison is None:
            return _patterned(word, name, found, value)
        if not comparison[2]:
            raise ValueError("nothing behind the comparison")
        return _compared(word, name, found, comparison[1], comparison[2])

    def _check_bare(self, text: str) -> None:
        """Refuse a comparison without a colon, which no name can be."""
        found = _UNMARKED.fullmatch(text)
        if found is None:
            return
        name, sign, value = found.groups()
        if name.lower() in (*self.fields, *self.other):
            raise ValueError(f"a colon is missing: {name}:{'' if sign == '=' else sign}{value}")
        pairs = next((each for each, field in self.fields.items() if field.kind == "pairs"), "")
        like = f"{pairs}:{name}={value}" if pairs else "FIELD:VALUE"
        raise ValueError(f"no name has a {sign}: did you mean {like}?")


def _patterned(word: Word, name: str, field: Field, value: str) -> Word:
    patterns = _alternatives(value)
    if field.kind == "text":
        _check_values(name, field, patterns)
    else:
        for pattern in patterns:
            if not set(pattern) & {"*", "?"}:
                _number(field, pattern)
        if field.kind == "span":
            if len(patterns) > 1 or set(patterns[0]) & {"*", "?"}:
                raise ValueError("compare a length of time: <14d, >=1h")
            return word._replace(sign="=", number=_number(field, value))
    return word._replace(patterns=patterns)


def _compared(word: Word, name: str, field: Field, sign: str, wanted: str) -> Word:
    if field.kind == "text":
        if sign not in ("=", "!="):
            raise ValueError("a text is neither less nor more: use = or !=")
        patterns = _alternatives(wanted)
        _check_values(name, field, patterns)
        is_not = word.is_not != (sign == "!=")
        return word._replace(is_not=is_not, patterns=patterns)
    exact: Sign = next(each for each in _SIGNS if each == sign)
    return word._replace(sign=exact, number=_number(field, wanted))


_SIGNS: Final[tuple[Sign, ...]] = ("=", "!=", "<", "<=", ">", ">=")


def _number(field: Field, text: str) -> float:
    try:
        if field.kind == "span":
            return 0.0 if text == "0" else span_s(text)
        if not re.fullmatch(r"-?\d{1,15}(\.\d{1,9})?", text):
            raise ValueError(text)
        return float(text)
    except ValueError as error:
        kind = "a length of time such as 14d" if field.kind == "span" else "a number"
        raise ValueError(f"{_short(text)} is not {kind}") from error


def _alternatives(value: str) -> tuple[str, ...]:
    patterns = tuple(fold(each) for each in value.split(","))
    if len(patterns) > _ALTERNATIVES:
        raise ValueError(f"more than {_ALTERNATIVES} alternatives")
    return patterns


def _check_values(name: str, field: Field, patterns: Sequence[str]) -> None:
    """Refuse a value that no record can have: it is a typing error."""
    if not field.values:
        return
    for pattern in patterns:
        if not any(matches(value, pattern) for value in field.values):
            near = near_names(pattern, field.values) or f", there are: {', '.join(field.values)}"
            raise ValueError(f"no {name} {_short(pattern)}{near}")


def _short(text: str) -> str:
    cut = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return f"'{visible(cut)}'"


# -- matching


def fold(text: str) -> str:
    """Return `text` as it is compared: on one line, escaped, ASCII letters in lower case."""
    if text.isascii() and text.isprintable():
        return text.lower()
    return visible(text).translate(_SMALL)


def matches(text: str, pattern: str) -> bool:
    """Whether a folded text matches a folded pattern, in which only `*` and `?` are special."""
    return _compiled(pattern).fullmatch(text) is not None


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Compile a pattern in which each piece between stars is searched once: none is slow."""
    first, *pieces = [_spelled(piece) for piece in re.split(r"\*+", pattern)]
    if not pieces:
        return re.compile(first, re.DOTALL)
    *middle, last = pieces
    found = "".join(f"(?>.*?{piece})" for piece in middle)
    return re.compile(f"{first}{found}.*{last}", re.DOTALL)


def _spelled(piece: str) -> str:
    return ".".join(re.escape(part) for part in piece.split("?"))


def holds(words: Sequence[Word], get: Get) -> bool:
    """Whether all words match. get: returns the value of a field by its name, None if absent."""
    return all(_holds(word, get(word.field)) != word.is_not for word in words)


def _holds(word: Word, value: Value | None) -> bool:
    if isinstance(value, Mapping):
        found = [fold(each) for name, each in value.items() if fold(name) == word.key]
        if not word.patterns:
            return bool(found)
        return any(matches(text, each) for text in found for each in word.patterns)
    if isinstance(value, str):
        text = fold(value)
        return any(matches(text, each) for each in word.patterns)
    if value is None:
        return False
    if word.kind == "since":
        return value >= word.number
    if word.kind == "until":
        return value <= word.number
    if word.sign:
        return _ORDERS[word.sign](value, word.number)
    return any(matches(f"{value:g}", each) for each in word.patterns)
