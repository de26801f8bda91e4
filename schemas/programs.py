"""Program and arguments of a command, for records that people read."""

from collections.abc import Sequence
from typing import Final

import msgspec

from schemas import codec
from schemas.argv import quoted
from schemas.faults import Refused
from schemas.messages.actions import PROCESS, find_action
from schemas.messages.facts import ArgumentsRecord
from schemas.texts import cut_text

# Limits in the record of a list: number of arguments and of variables, and characters of each.
_ARGUMENTS: Final = 16
_ARGUMENT_LEN: Final = 200


def program_of(action: str, raw: msgspec.Raw, arguments: ArgumentsRecord | None) -> str:
    """Return the summary of the action in one line, or its name if it is unknown.

    arguments: of a process, from `arguments_of`.
    """
    if arguments is not None:
        return quoted(arguments.argv)
    try:
        return find_action(action).summarize(raw)
    except Refused:
        return action


def arguments_of(action: str, raw: msgspec.Raw) -> ArgumentsRecord | None:
    """Return the arguments of a process without the values of its environment and its input.

    None for other actions, and for arguments that do not decode.
    """
    if action != PROCESS.name:
        return None
    try:
        args = codec.decode_trusted(PROCESS.args, bytes(raw))
    except Refused:
        return None
    return ArgumentsRecord(
        argv=args.argv,
        env=sorted(args.env),
        cwd=args.cwd,
        stdin_bytes=args.input.size if args.input is not None else len(args.stdin),
        timeout_s=args.timeout_s,
    )


def is_short(arguments: ArgumentsRecord) -> bool:
    """Whether the arguments are small enough for a list."""
    return (
        _fits(arguments.argv) and _fits(arguments.env) and len(arguments.cwd or "") <= _ARGUMENT_LEN
    )


def shortened(arguments: ArgumentsRecord) -> ArgumentsRecord:
    """Return the part of the arguments that a list shows."""
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
