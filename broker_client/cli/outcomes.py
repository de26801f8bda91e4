"""Exit codes of the command line for the end of a command."""

from typing import Final

from schemas.messages.actions import PROCESS
from schemas.messages.facts import CommandRecord
from schemas.states import State
from schemas.texts import ON_STDERR

# A program may have the same exit codes; `--output json` tells them apart.
MESH_EXITS: Final[dict[str, int]] = {
    State.LOST: 120,
    State.UNDELIVERABLE: 121,
    State.EXPIRED: 122,
    State.CANCELLED: 123,
    State.TIMED_OUT: 124,
    State.REJECTED: 125,
    State.KILLED_FENCED: 126,
}
ADVICE: Final[dict[str, str]] = {
    State.LOST: "the agent fell silent: it may or may not have run; see `mesh command show ID`",
    State.UNDELIVERABLE: "no agent took it and it never ran: `mesh deadletter retry ID`",
    State.EXPIRED: "no agent was free or active in time and it never ran: see `mesh group list`",
    State.CANCELLED: "its output until then: `mesh command logs ID`",
    State.TIMED_OUT: "give it more with --timeout; its output until then: `mesh command logs ID`",
    State.REJECTED: "no agent would run it: see `mesh command show ID`",
    State.KILLED_FENCED: "the agent had lost the mesh and ended it: see `mesh command show ID`",
}
# Exit code of a fan-out without success on every agent.
PARTIAL: Final = 5
# As of a shell for what it cannot execute.
NOT_STARTED: Final = 126
BROKEN_PIPE: Final = 141
# EX_IOERR of sysexits.h.
UNWRITABLE: Final = 74


def exit_code(record: CommandRecord) -> int:
    """Return 0 for success, the program's code for its failure, 120 to 126 for a verdict.

    A program that could not be started at all has 126, as of a shell.
    """
    if record.state == State.SUCCEEDED:
        return 0
    if record.state in MESH_EXITS:
        return MESH_EXITS[record.state]
    code = program_code(record)
    if code is None and record.action == PROCESS.name:
        return NOT_STARTED
    return code or 1


def program_code(record: CommandRecord) -> int | None:
    """Return the program's exit code as a shell does, of the newest attempt with one."""
    for attempt in reversed(record.attempts):
        if attempt.exit_code is not None:
            return attempt.exit_code & 0xFF
    return None


def is_verdict(record: CommandRecord) -> bool:
    """Whether the end needs an explanation besides the program's output."""
    if record.state == State.FAILED:
        # The exit code of a program needs no words, and its own line was shown as it came; one
        # that could not be started needs them.
        is_said = bool(record.reason) and not record.reason.startswith(ON_STDERR)
        return is_said or program_code(record) is None
    return record.state in MESH_EXITS
