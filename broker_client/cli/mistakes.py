"""Mistakes of a command line in words: which option, what is wrong, an example."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cyclopts import CycloptsError

_SHOWN: Final = 64
_WANTED: Final[dict[object, str]] = {
    int: "a whole number: give for example 5",
    float: "a number: give for example 1.5",
    bool: "a switch: give true or false",
}


def in_words(error: "CycloptsError") -> str:
    """One line without a full stop at its end."""
    text = _of_a_value(error) or str(error)
    message = " ".join(text.partition("Available commands:")[0].split()).rstrip(".")
    return message[:1].lower() + message[1:]


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
