"""The table of actions: the kinds of work that an agent does.

Each action has a type for its arguments, so that nothing untyped travels. The agent runs it by the
executor in the module of the same name below `broker_agent/executors/`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from schemas import codec, limits
from schemas.argv import quoted
from schemas.faults import Refused
from schemas.messages.fields import Text

Args = TypeVar("Args", bound=msgspec.Struct)
# Possible effect of a lost attempt.
Effect = Literal["none", "unknown"]
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Action(Generic[Args]):
    """One kind of work.

    does: its sentence in docs/protocol.md. check: raises Refused (`field_invalid`) for arguments
    that no agent could run. summary: the one line in lists. takes_slot: whether its task counts
    against the slots of the agent; an action without a slot has ended as soon as it is recorded.
    effect: possible effect of a lost attempt. from_start: agents of the first release have it, and
    so does an agent whose `Hello` lists no actions.
    """

    name: str
    args: type[Args]
    does: str
    check: Callable[[Args], None] = lambda _args: None
    summary: Callable[[Args], str]
    takes_slot: bool = True
    effect: Effect = "unknown"
    from_start: bool = False

    def decode(self, raw: msgspec.Raw) -> Args:
        """The typed arguments. Raises Refused as `decode_args` does."""
        try:
            args = codec.decode_trusted(self.args, bytes(raw))
        except Refused as error:
            if "unknown field" in str(error.__cause__):
                raise Refused("argument_unknown", f"{self.name}: {error.message}") from error
            raise Refused(error.code, f"args of {self.name}: {error.message}") from error
        self.check(args)
        return args

    def summarize(self, raw: msgspec.Raw) -> str:
        """Return the line that describes the encoded arguments. Raises as `decode`."""
        return self.summary(self.decode(raw))


def _check_lengths(args: ProcessArgs) -> None:
    """Refuse arguments longer than any Linux kernel accepts; limits of a host may be lower."""
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
    """Refuse arguments that no operating system could start, before they are stored."""
    if not args.argv[0]:
        raise Refused("field_invalid", "args of process: argv[0] is empty")
    texts = [*args.argv, *args.env, *args.env.values(), args.cwd or ""]
    if any("\0" in text for text in texts):
        raise Refused("field_invalid", "args of process: a NUL byte in argv, env or cwd")
    _check_lengths(args)
    if any("=" in name or not name for name in args.env):
        raise Refused("field_invalid", "args of process: a name in env is empty or has '='")


PROCESS: Final = Action(
    name="process",
    args=ProcessArgs,
    does="runs a program without a shell",
    check=_check_process,
    summary=lambda args: quoted(args.argv),
    from_start=True,
)
NOOP: Final = Action(
    name="noop",
    args=NoopArgs,
    does="does nothing and succeeds, for probes and measurements",
    summary=lambda _args: "noop",
    takes_slot=False,
    effect="none",
    from_start=True,
)

ActionArgs = ProcessArgs | NoopArgs
AnyAction = Action[ProcessArgs] | Action[NoopArgs]
ACTIONS: Final[dict[str, AnyAction]] = {action.name: action for action in (PROCESS, NOOP)}

# Actions of every agent, with or without an announcement.
COMMON: Final = frozenset(action.name for action in ACTIONS.values() if action.from_start)


def find_action(name: str) -> AnyAction:
    """Return the action `name`. Raises Refused (`action_unknown`) that lists the known names."""
    action = ACTIONS.get(name)
    if action is None:
        known = ", ".join(sorted(ACTIONS))
        raise Refused("action_unknown", f"no action {name[:64]!a}; there are: {known}")
    return action


def action_of(args: ActionArgs) -> AnyAction:
    """The action with arguments of this type."""
    return next(action for action in ACTIONS.values() if type(args) is action.args)


def decode_args(name: str, raw: msgspec.Raw) -> ActionArgs:
    """The typed arguments of the action `name`.

    Raises Refused: `action_unknown`, `argument_unknown` for an argument that the action does not
    have, or `field_invalid` for a value out of its type or limits.
    """
    return find_action(name).decode(raw)
