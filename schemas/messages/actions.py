"""The actions. The arguments of each are a type, so that nothing untyped travels."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from schemas import codec, limits
from schemas.faults import Refused
from schemas.messages.fields import Text

Environment = Annotated[dict[Text, Text], Meta(max_length=limits.MAP_LEN)]
# A character of UTF-8 has at most so many bytes.
_UTF8_MOST: Final = 4
ProgramArgument = Annotated[str, Meta(max_length=128 * 1024)]


class ProcessArgs(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """Run a program without a shell. env is added to the agent's own environment for tasks.

    cwd None: a fresh folder of the task's own. timeout_s None: no limit but the agent's life.
    """

    argv: Annotated[list[ProgramArgument], Meta(min_length=1, max_length=limits.LIST_LEN)]
    env: Environment = {}
    cwd: Text | None = None
    stdin: bytes = b""
    timeout_s: Annotated[float, Meta(gt=0, le=limits.TIMEOUT_MAX_S)] | None = None


class NoopArgs(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """Do nothing and succeed: for probes and measurements."""


ActionArgs = ProcessArgs | NoopArgs

ACTIONS: Final[dict[str, type[ProcessArgs] | type[NoopArgs]]] = {
    "process": ProcessArgs,
    "noop": NoopArgs,
}


def decode_args(action: str, raw: msgspec.Raw) -> ActionArgs:
    """The typed arguments of `action`.

    Raises Refused: `action_unknown`, `argument_unknown` for a name the action has not, or
    `field_invalid` for a value out of its type or limits.
    """
    kind = ACTIONS.get(action)
    if kind is None:
        known = ", ".join(sorted(ACTIONS))
        raise Refused("action_unknown", f"no action {action[:64]!a}; there are: {known}")
    try:
        args = codec.decode_trusted(kind, bytes(raw))
    except Refused as error:
        if "unknown field" in error.message:
            raise Refused("argument_unknown", f"{action}: {error.message}") from error
        raise Refused(error.code, f"args of {action}: {error.message}") from error
    if isinstance(args, ProcessArgs):
        _check_process(args)
    return args


def _check_lengths(args: ProcessArgs) -> None:
    """Refuse what no Linux kernel starts, whatever the limits of the agent's host are."""
    most = limits.ARGUMENT_BYTES
    for index, text in enumerate(args.argv):
        if len(text) * _UTF8_MOST > most and len(text.encode()) > most:
            raise _too_long(f"argv[{index}]")
    for name, value in args.env.items():
        size = len(name) + len(value) + 1
        if size * _UTF8_MOST > most and len(f"{name}={value}".encode()) > most:
            raise _too_long(f"env[{name[:64]}]")


def _too_long(where: str) -> Refused:
    return Refused(
        "field_invalid",
        f"args of process: {where} is longer than {limits.ARGUMENT_BYTES} bytes, the kernel's"
        " MAX_ARG_STRLEN: no host could start it; send it on stdin, or in a file",
    )


def _check_process(args: ProcessArgs) -> None:
    """Refuse what no operating system could start, before it is stored."""
    if not args.argv[0]:
        raise Refused("field_invalid", "args of process: argv[0] is empty")
    texts = [*args.argv, *args.env, *args.env.values(), args.cwd or ""]
    if any("\0" in text for text in texts):
        raise Refused("field_invalid", "args of process: a NUL byte in argv, env or cwd")
    _check_lengths(args)
    if any("=" in name or not name for name in args.env):
        raise Refused("field_invalid", "args of process: a name in env is empty or has '='")
