"""The options that every command takes, before or after its name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from cyclopts import Parameter

Output = Literal["table", "json"]

# Long enough for a broker that elects a new leader meanwhile (5.4 s measured), and then some.
TIMEOUT_S: Final = 10.0

_TAKES_VALUE: Final = frozenset({"--context", "--output", "-o", "--timeout"})
_FLAGS: Final = frozenset({"--no-color"})
_NOUNS: Final = frozenset({"group", "agent", "command", "client"})


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """context: a file or a name. output: text for people, or JSON with the documented names."""

    context: Annotated[
        str | None, Parameter(help="Context: a file, or a name below the contexts directory.")
    ] = None
    output: Annotated[
        Output, Parameter(name=["--output", "-o"], help="Form of what is printed.")
    ] = "table"
    no_color: Annotated[
        bool, Parameter(negative="", help="No colours, as NO_COLOR in the environment.")
    ] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Shared(Common):
    timeout: Annotated[
        float, Parameter(help="Seconds to wait for the broker, and for each answer.")
    ] = TIMEOUT_S


COMMON: Final = Common()
SHARED: Final = Shared()


def hoist(tokens: Sequence[str]) -> list[str]:
    """Move options that stand before the name of a command behind it, where they are parsed.

    `--output json group list` -> `group list --output json`. Nothing behind the name of the
    command is touched, so that arguments of a program that is to run stay what they are.
    """
    words: list[str] = []
    moved: list[str] = []
    rest = list(tokens)
    while rest and not _is_complete(words):
        token = rest[0]
        name = token.partition("=")[0]
        if name in _TAKES_VALUE and name == token and len(rest) > 1:
            moved += rest[:2]
            del rest[:2]
        elif name in _TAKES_VALUE or token in _FLAGS:
            moved.append(rest.pop(0))
        elif token.startswith("-"):
            break
        else:
            words.append(rest.pop(0))
    return [*words, *moved, *rest]


def _is_complete(words: Sequence[str]) -> bool:
    """Whether `words` name a command: two of them below a noun, one anywhere else."""
    return bool(words) and (words[0] not in _NOUNS or len(words) > 1)


def asked_output(tokens: Sequence[str]) -> Output:
    """The form asked for by a command line that could not be parsed; for its error message."""
    for index, word in enumerate(tokens):
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if name in {"--output", "-o"}:
            given = value if equals else "".join(tokens[index + 1 : index + 2])
            return "json" if given == "json" else "table"
    return "table"
