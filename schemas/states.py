"""The states that users see, and the allowed moves between them.

queued ─▶ sent ─▶ accepted ─▶ running ─▶ succeeded | failed | timed_out | cancelled
  │         │        │          │  ▲
  │         └────────┴──────────┴──┴─▶ unknown ─▶ lost | …      (agent silent)
  └─▶ expired, cancelled, rejected, undeliverable
"""

from enum import StrEnum
from typing import Final

from schemas.faults import Misused


class State(StrEnum):
    """State of a command, and of each of its attempts."""

    QUEUED = "queued"
    SENT = "sent"
    ACCEPTED = "accepted"
    RUNNING = "running"
    UNKNOWN = "unknown"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    EXPIRED = "expired"
    UNDELIVERABLE = "undeliverable"
    KILLED_FENCED = "killed_fenced"
    LOST = "lost"


class AgentStatus(StrEnum):
    AWAITING_SETUP = "awaiting_setup"
    NO_RESPONSE = "no_response"
    ACTIVE = "active"
    DISABLED = "disabled"


class GroupStatus(StrEnum):
    ACTIVE = "active"
    INACTIVE = "inactive"


class Admin(StrEnum):
    """Administrative state of an agent, set by an operator.

    draining: shown instead of disabled while tasks are left, never stored. paused: disabled until a
    time. deleted: revoked, and removed from the registry as soon as none of its tasks can run.
    """

    ENABLED = "enabled"
    DRAINING = "draining"
    DISABLED = "disabled"
    PAUSED = "paused"
    REVOKED = "revoked"
    DELETED = "deleted"


class Liveness(StrEnum):
    """Liveness of an agent, as the master sees it by heartbeats."""

    NEVER = "never"
    LIVE = "live"
    SILENT = "silent"


class Lack(StrEnum):
    """Exhausted resource of an agent, for which it takes no task although slots may be free.

    spool: output that waits for the broker. reports: results that the master has not stored yet.
    other: not reported, or known to later versions only.
    """

    SPOOL = "spool"
    DISK = "disk"
    FDS = "descriptors"
    JOURNAL = "journal"
    REPORTS = "reports"
    OTHER = "other"


# States in which the credentials are refused.
BARRED: Final = frozenset({Admin.REVOKED, Admin.DELETED})

STATES: Final[dict[str, State]] = {str(state): state for state in State}

TERMINAL: Final = frozenset(
    {
        State.SUCCEEDED,
        State.FAILED,
        State.TIMED_OUT,
        State.CANCELLED,
        State.REJECTED,
        State.EXPIRED,
        State.UNDELIVERABLE,
        State.KILLED_FENCED,
        State.LOST,
    }
)

# Result of a command in one letter; lower case for results that are no failures.
RESULT_LETTERS: Final[dict[str, str]] = {
    State.SUCCEEDED: ".",
    State.FAILED: "F",
    State.TIMED_OUT: "T",
    State.CANCELLED: "c",
    State.REJECTED: "R",
    State.EXPIRED: "e",
    State.UNDELIVERABLE: "U",
    State.KILLED_FENCED: "K",
    State.LOST: "L",
}

# Ends of an attempt that an agent may report; the other ends are verdicts of the master.
AGENT_ENDS: Final = frozenset(
    {
        State.SUCCEEDED,
        State.FAILED,
        State.TIMED_OUT,
        State.CANCELLED,
        State.REJECTED,
        State.KILLED_FENCED,
        State.LOST,
    }
)

# Ends of an accepted attempt. A stored end is allowed after any state that was received before.
_ENDS: Final = TERMINAL - {State.EXPIRED}

MOVES: Final[dict[State, frozenset[State]]] = {
    State.QUEUED: frozenset(
        {
            State.SENT,
            State.EXPIRED,
            State.CANCELLED,
            State.REJECTED,
            # After a restore: the command may have been run since the backup.
            State.UNKNOWN,
            State.LOST,
        }
    ),
    State.SENT: _ENDS | {State.ACCEPTED, State.RUNNING, State.UNKNOWN, State.QUEUED},
    # Queued: the attempt is lost or refused, and another attempt follows.
    State.ACCEPTED: _ENDS | {State.RUNNING, State.UNKNOWN, State.STOPPING, State.QUEUED},
    State.RUNNING: _ENDS | {State.UNKNOWN, State.STOPPING, State.QUEUED},
    State.STOPPING: _ENDS | {State.UNKNOWN, State.QUEUED},
    State.UNKNOWN: _ENDS
    | {State.SENT, State.ACCEPTED, State.RUNNING, State.STOPPING, State.QUEUED},
    # A report about a lost attempt may still come; it is kept beside the verdict.
    State.LOST: AGENT_ENDS - {State.LOST},
}


def check_move(old: State, new: State) -> State:
    """Return `new` if the table allows the move from `old`; raise Misused and change nothing."""
    if new is old or new in MOVES.get(old, frozenset()):
        return new
    raise Misused("internal", f"no move from {old} to {new}")
