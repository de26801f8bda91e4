"""The states that users see, and the only moves between them.

queued ─▶ sent ─▶ accepted ─▶ running ─▶ succeeded | failed | timed_out | cancelled
  │         │        │          │  ▲
  │         └────────┴──────────┴──┴─▶ unknown ─▶ lost | …      (agent silent)
  └─▶ expired, cancelled, rejected, undeliverable
"""

from enum import StrEnum
from typing import Final

from schemas.faults import Misused


class State(StrEnum):
    """Of a command, and of each of its attempts."""

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
    """What an operator wants of an agent.

    draining: shown instead of disabled while tasks are left, never stored. paused: disabled, and
    enabled again by itself. deleted: revoked, and forgotten as soon as nothing of it can still run.
    """

    ENABLED = "enabled"
    DRAINING = "draining"
    DISABLED = "disabled"
    PAUSED = "paused"
    REVOKED = "revoked"
    DELETED = "deleted"


class Liveness(StrEnum):
    """What the master hears of an agent."""

    NEVER = "never"
    LIVE = "live"
    SILENT = "silent"


class Lack(StrEnum):
    """What an agent has no room in, so that it takes no task although slots may be free.

    spool: output that waits for the broker. reports: what the master has not stored yet.
    other: it does not say, or names something that only a later version knows.
    """

    SPOOL = "spool"
    DISK = "disk"
    FDS = "descriptors"
    JOURNAL = "journal"
    REPORTS = "reports"
    OTHER = "other"


# Whose credentials are refused.
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

# How a command ended, in one letter: small ones for what is nobody's failure.
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

# What an agent may report as the end of an attempt; the others are the master's own verdicts.
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

# How an attempt may end that an agent has taken on. A stored end counts, whatever was heard last.
_ENDS: Final = TERMINAL - {State.EXPIRED}

MOVES: Final[dict[State, frozenset[State]]] = {
    State.QUEUED: frozenset(
        {
            State.SENT,
            State.EXPIRED,
            State.CANCELLED,
            State.REJECTED,
            # Of a restored master: it may have been run since the backup.
            State.UNKNOWN,
            State.LOST,
        }
    ),
    State.SENT: _ENDS | {State.ACCEPTED, State.RUNNING, State.UNKNOWN, State.QUEUED},
    # Queued: its attempt is lost or refused, and another one follows.
    State.ACCEPTED: _ENDS | {State.RUNNING, State.UNKNOWN, State.STOPPING, State.QUEUED},
    State.RUNNING: _ENDS | {State.UNKNOWN, State.STOPPING, State.QUEUED},
    State.STOPPING: _ENDS | {State.UNKNOWN, State.QUEUED},
    State.UNKNOWN: _ENDS
    | {State.SENT, State.ACCEPTED, State.RUNNING, State.STOPPING, State.QUEUED},
    # A lost attempt may still be heard of; the later word is kept beside the verdict.
    State.LOST: AGENT_ENDS - {State.LOST},
}


def check_move(old: State, new: State) -> State:
    """Return `new` if the table allows the move from `old`; raise Misused and change nothing."""
    if new is old or new in MOVES.get(old, frozenset()):
        return new
    raise Misused("internal", f"no move from {old} to {new}")
