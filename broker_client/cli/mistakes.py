"""Mistakes of a command line in words: which option, what is wrong, an example."""

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cyclopts import CycloptsError

_SHOWN: Final = 64
_KEY: Final = re.compile("a name in ")
_WANTED: Final[dict[object, str]] = {
    int: "a whole number: give for example 5",
    float: "a number: give for example 1.5",
    bool: "a switch: give true or false",
}


# Options by the last word of a field, where the names differ.
_OPTIONS: Final = {
    "at_once": "--batch",
    "addresses": "--urls",
    "by": "--by",
    "new_id": "--id",
    "sticky_label": "--balance",
}
_UNKNOWN: Final = re.compile(r"unknown option: --([a-z]+)")
_FIELD: Final = re.compile(r"[a-z][a-z0-9]*(?:[_.][a-z0-9]+)*(?:\[(?:\d+|\.\.\.)\])?")
_UNITS: Final = ("", "_s", "_bytes", "s")


def with_options(message: str, options: Collection[str]) -> str:
    """Return the message of a fault with the options of a command in place of fields.

    Replaced are the first word, and all that only a field can be: `for_s`, `command.hold_s`.
    """
    begin = _KEY.match(message)
    start = begin.end() if begin else 0

    def option(found: re.Match[str]) -> str:
        is_first = found.start() == start
        text = found.group()
        if not is_first and not {"_", "."}.intersection(text):
            return text
        name = text.partition("[")[0].rpartition(".")[2]
        stems = [name.removesuffix(unit) for unit in _UNITS]
        known = [_OPTIONS.get(name, ""), *(f"--{stem.replace('_', '-')}" for stem in stems)]
        return next((each for each in known if each in options), text)

    return _FIELD.sub(option, message)


def as_filter(message: str, tokens: Sequence[str]) -> str:
    """Return advice if an unknown option of a list is a field of its filter; or nothing."""
    from schemas.listed import AGENTS, COMMANDS, EVENTS

    filtered = {
        "command list": COMMANDS,
        "agent list": AGENTS,
        "events": EVENTS,
        "top": AGENTS,
        "ping": AGENTS,
    }
    words = (" ".join(tokens[:2]), *tokens[:1])
    language = next((filtered[each] for each in words if each in filtered), None)
    option = _UNKNOWN.match(message)
    if language is None or option is None:
        return ""
    name = option[1]
    field = language.fields.get(language.other.get(name, name))
    if field is None:
        return ""
    value = "NAME=VALUE" if field.kind == "pairs" else "VALUE"
    return f"it is a word of the filter, {name}:{value}; "


def in_words(error: "CycloptsError") -> str:
    """One line without a full stop at its end."""
    text = _of_a_value(error) or _lacking(error) or str(error)
    message = " ".join(text.partition("Available commands:")[0].split()).rstrip(".")
    return message[:1].lower() + message[1:]


def _lacking(error: "CycloptsError") -> str:
    """For an option without a value, or with one that looks like an option."""
    from cyclopts import MissingArgumentError

    argument = error.argument
    if not isinstance(error, MissingArgumentError) or argument is None:
        return ""
    tokens = [*(error.root_input_tokens or ())]
    for name in argument.names:
        given = tokens[tokens.index(name) + 1 :] if name in tokens else []
        if given and given[0].startswith("-") and given[0] not in ("-", "--"):
            value = given[0][:_SHOWN]
            is_number = value[1:2].isdigit()
            wrong = "is negative" if is_number else "looks like an option"
            return f"{name}: {value!a} {wrong}: give a value, or {name}={value} if it is meant"
        if name in tokens:
            return f"{name} needs a value: give one behind it"
    return ""


def _of_a_value(error: "CycloptsError") -> str:
    """For a value of the wrong type, which the parser tells by the name of the type."""
    from cyclopts import CoercionError

    if not isinstance(error, CoercionError) or error.msg is not None or error.token is None:
        return ""
    wanted = _WANTED.get(error.target_type)
    if wanted is None:
        return ""
    argument = error.argument.name.lstrip("-").upper() if error.argument is not None else "a value"
    name = error.token.keyword or argument
    return f"{name}: {error.token.value[:_SHOWN]!a} is not {wanted}"
