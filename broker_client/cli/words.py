"""Words of a command line, before parsing."""

from collections.abc import Sequence
from typing import Final, Literal

# `jsonl` and `csv` are for lists: one record per line.
Output = Literal["table", "json", "jsonl", "csv"]

NOUNS: Final = {
    "command": "What was submitted, and what became of it.",
    "fanout": "One command for many agents, and what became of it on each.",
    "deadletter": "Commands that no agent has acknowledged.",
    "group": "Named sets of agents that share work.",
    "connection": "Ways through groups to databases, files, HTTP services and scripts.",
    "agent": "The processes that run programs on hosts.",
    "audit": "Who did what, from where, when.",
    "client": "Who may submit commands.",
    "context": "What this account connects with.",
    "certificate": "What was issued, and until when it holds.",
    "ca": "The mesh's authority and its signing keys.",
}
# Words that all three programs understand besides their commands.
ALSO: Final = (
    ("help", "Show the help of a command, as NAME --help does."),
    ("version", "Print the version."),
)
# Exit code after Ctrl-C, as of a shell.
INTERRUPTED: Final = 130
HELP_FLAGS: Final = frozenset({"-h", "--help"})
_TAKES_VALUE: Final = frozenset({"--context", "--output", "-o", "--timeout"})
_FLAGS: Final = frozenset({"--no-color"})


# Mark behind the first `--` of `mesh run`, so that the words before it can be told apart. No word
# of a command line has its character.
BEHIND: Final = "\0--"


def with_mark(tokens: Sequence[str]) -> list[str]:
    """Return a command line of `mesh run` with `BEHIND`; any other unchanged."""
    if tokens[:1] != ["run"] or "--" not in tokens:
        return [*tokens]
    at = tokens.index("--") + 1
    return [*tokens[:at], BEHIND, *tokens[at:]]


def hoist(tokens: Sequence[str]) -> list[str]:
    """Move options before the name of a command behind it, where they are parsed.

    `--output json group list` -> `group list --output json`. Words behind the name of the command
    stay, so that the arguments of a program are not changed.
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
    return bool(words) and (words[0] not in NOUNS or len(words) > 1)


def asked_output(tokens: Sequence[str]) -> Output:
    """Return the output format of a malformed command line, for its error message."""
    for index, word in enumerate(tokens):
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if name in {"--output", "-o"}:
            given = value if equals else "".join(tokens[index + 1 : index + 2])
            return "json" if given in {"json", "jsonl"} else "table"
    return "table"
