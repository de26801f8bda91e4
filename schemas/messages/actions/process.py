"""The actions `process` and `noop`: work on the agent itself, without a connection."""

from typing import Annotated, Final

from msgspec import Meta

from schemas import limits
from schemas.argv import quoted
from schemas.messages.actions.base import Action, Arguments, Environment, invalid
from schemas.messages.fields import Text

# A character of UTF-8 has at most so many bytes.
_UTF8_MOST: Final = 4
ProgramArgument = Annotated[str, Meta(max_length=128 * 1024)]


class ProcessArgs(Arguments, frozen=True, kw_only=True):
    """Run a program without a shell. env is added to the agent's own environment for tasks.

    cwd None: a fresh folder of the task's own. timeout_s None: no limit but the agent's life.
    """

    argv: Annotated[list[ProgramArgument], Meta(min_length=1, max_length=limits.LIST_LEN)]
    env: Environment = {}
    cwd: Text | None = None
    stdin: bytes = b""
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
