"""How a command ended, as the exit code of the program that watched it."""

from typing import Final

from schemas.messages.facts import CommandRecord
from schemas.states import State
from schemas.texts import ON_STDERR

# A program may end with these as well; `--output json` tells which of the two it was.
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
# Of a fan-out that has not succeeded on every agent.
PARTIAL: Final = 5
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
# EX_IOERR of sysexits.h.
UNWRITABLE: Final = 74


def exit_code(record: CommandRecord) -> int:
    """0 for success, the program's own code for its failure, 120 to 126 for the mesh's verdicts."""
    if record.state == State.SUCCEEDED:
        return 0
    if record.state in MESH_EXITS:
        return MESH_EXITS[record.state]
    return program_code(record) or 1


def program_code(record: CommandRecord) -> int | None:
    """The program's exit code as a shell gives it, of the newest attempt that has one."""
    for attempt in reversed(record.attempts):
        if attempt.exit_code is not None:
            return attempt.exit_code & 0xFF
    return None


def is_verdict(record: CommandRecord) -> bool:
    """Whether a person should be told more than the program itself printed."""
    if record.state == State.FAILED:
        # The exit code of a program needs no words, and its own line was shown as it came; one
        # that could not be started needs them.
        is_said = bool(record.reason) and not record.reason.startswith(ON_STDERR)
        return is_said or program_code(record) is None
    return record.state in MESH_EXITS
