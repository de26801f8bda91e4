"""What a command runs, as people read it."""

import shlex
from collections.abc import Sequence
from typing import Final

import msgspec

from schemas import codec
from schemas.faults import Refused
from schemas.messages.actions import ACTIONS, ActionArgs, ProcessArgs
from schemas.messages.facts import ArgumentsRecord
from schemas.texts import cut_text, visible

# Characters of a program in one line.
PROGRAM_LEN: Final = 500
# Of a record in a list: so many arguments, names of variables, and characters of each.
_ARGUMENTS: Final = 16
_ARGUMENT_LEN: Final = 200
_BASE_LEN: Final = 64


def quoted(argv: Sequence[str]) -> str:
    """`argv` in one line as a shell would take it, control characters spelled out.

    At most `PROGRAM_LEN` characters; what is longer ends with a mark.
    """
    line, room = [], PROGRAM_LEN
    for argument in argv:
        # Nobody needs what is cut anyway to be quoted.
        text = shlex.quote(argument[: room + 1])
        line.append(text)
        room -= len(text) + 1
        if room < 0:
            break
    return cut_text(visible(" ".join(line)), PROGRAM_LEN)


def base_name(argv: Sequence[str]) -> str:
    """`apt-get` of `/usr/bin/apt-get -y upgrade`; control characters spelled out."""
    if not argv:
        return ""
    return visible(argv[0].rstrip("/").rpartition("/")[2][:_BASE_LEN])[:_BASE_LEN]


def program_of(action: str, arguments: ArgumentsRecord | None) -> str:
    """The line that says what runs: of other actions than `process`, the action itself."""
    return quoted(arguments.argv) if arguments is not None else action


def arguments_of(action: str, raw: msgspec.Raw) -> ArgumentsRecord | None:
    """The arguments of a process without the values of its environment and its input.

    None for other actions, and for arguments that cannot be read.
    """
    kind = ACTIONS.get(action)
    if kind is not ProcessArgs:
        return None
    try:
        args: ActionArgs = codec.decode_trusted(kind, bytes(raw))
    except Refused:
        return None
    if not isinstance(args, ProcessArgs):
        return None
    return ArgumentsRecord(
        argv=args.argv,
        env=sorted(args.env),
        cwd=args.cwd,
        stdin_bytes=len(args.stdin),
        timeout_s=args.timeout_s,
    )


def is_short(arguments: ArgumentsRecord) -> bool:
    """Whether they are small enough for a list."""
    return (
        _fits(arguments.argv) and _fits(arguments.env) and len(arguments.cwd or "") <= _ARGUMENT_LEN
    )


def shortened(arguments: ArgumentsRecord) -> ArgumentsRecord:
    """What a list shows of them."""
    return msgspec.structs.replace(
        arguments,
        argv=_short(arguments.argv),
        env=_short(arguments.env),
        cwd=None if arguments.cwd is None else cut_text(arguments.cwd, _ARGUMENT_LEN),
    )


def _fits(texts: Sequence[str]) -> bool:
    return len(texts) <= _ARGUMENTS and all(len(text) <= _ARGUMENT_LEN for text in texts)


def _short(texts: Sequence[str]) -> list[str]:
    return [cut_text(text, _ARGUMENT_LEN) for text in texts[:_ARGUMENTS]]
