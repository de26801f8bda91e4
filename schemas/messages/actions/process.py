"""The actions `process` and `noop`: work on the agent itself, without a connection."""

from typing import Annotated, Final

from msgspec import Meta

from schemas import limits
from schemas.argv import quoted
from schemas.messages.actions.base import Action, Arguments, Environment, invalid
from schemas.messages.fields import CommandId, Text

# A character of UTF-8 has at most so many bytes.
_UTF8_MOST: Final = 4
ProgramArgument = Annotated[str, Meta(max_length=128 * 1024)]


class StagedInput(Arguments, frozen=True, kw_only=True):
    """Input that `command.input` has stored before. id: as in its parts, chosen by the client.

    size: bytes. sha256: of all bytes; the agent starts nothing if it differs.
    """

    id: CommandId
    size: Annotated[int, Meta(ge=1, le=limits.INPUT_BYTES)]
    sha256: Annotated[bytes, Meta(min_length=32, max_length=32)]

    @property
    def parts(self) -> int:
        """Number of its parts."""
        return -(-self.size // limits.INPUT_PART_BYTES)


class ProcessArgs(Arguments, frozen=True, kw_only=True):
    """Run a program without a shell. env is added to the agent's own environment for tasks.

    cwd None: a fresh folder of the task's own. timeout_s None: no limit but the agent's life.
    stdin: small input; input: a larger one, stored before, for agents with the feature `input`.
    """

    argv: Annotated[list[ProgramArgument], Meta(min_length=1, max_length=limits.LIST_LEN)]
    env: Environment = {}
    cwd: Text | None = None
    stdin: bytes = b""
    input: StagedInput | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=limits.TIMEOUT_MAX_S)] | None = None


class NoopArgs(Arguments, frozen=True, kw_only=True):
    """Do nothing and succeed: for probes and measurements."""


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


def _too_long(where: str) -> Exception:
    return invalid(
        "process",
        f"{where} is longer than {limits.ARGUMENT_BYTES} bytes, the kernel's"
        " MAX_ARG_STRLEN: no host could start it; send it on stdin, or in a file",
    )


def _check_process(args: ProcessArgs) -> None:
    """Refuse arguments that no operating system could start, before they are stored."""
    if not args.argv[0]:
        raise invalid("process", "argv[0] is empty")
    texts = [*args.argv, *args.env, *args.env.values(), args.cwd or ""]
    if any("\0" in text for text in texts):
        raise invalid("process", "a NUL byte in argv, env or cwd")
    _check_lengths(args)
    if args.input is not None and args.stdin:
        raise invalid("process", "stdin and input: give one of them")
    if any("=" in name or not name for name in args.env):
        raise invalid("process", "a name in env is empty or has '='")


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
