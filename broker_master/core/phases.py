"""The life of a command as one table: phase and event give the next phase.

A phase is finer than the state that users see: a command whose end is being made durable is
settling, whatever its state, and takes no other event in the meantime.
"""

from enum import StrEnum
from typing import Final

from schemas.states import State


class Phase(StrEnum):
    """Phase of a command with its newest attempt.

    settling: its end, or the decision on it, is being made durable. undecided: its attempt is lost,
    and it waits for an operator's decision. lost: a late report may amend it. back: the phase
    before this one.
    """

    WAITING = "waiting"
    SENT = "sent"
    ACCEPTED = "accepted"
    RUNNING = "running"
    STOPPING = "stopping"
    UNKNOWN = "unknown"
    SETTLING = "settling"
    UNDECIDED = "undecided"
    LOST = "lost"
    OVER = "over"
    BACK = "back"


class Event(StrEnum):
    """Event from an agent, an operator, a timer, or a durable fact (the last group)."""

    TRANSMITTED = "transmitted"
    UNANSWERED = "unanswered"
    ACKNOWLEDGED = "acknowledged"
    STARTED = "started"
    KEPT = "kept"
    SILENT = "silent"
    RETURNED = "returned"
    FORGOTTEN = "forgotten"
    STOP = "stop"
    WORD = "word"

    UNSENT = "unsent"
    ENDED = "ended"
    UNDELIVERABLE = "undeliverable"
    DROPPED = "dropped"
    NOT_STORED = "not_stored"

    ASSIGNED = "assigned"
    TAKEN_BACK = "taken_back"
    CLOSED = "closed"
    CLOSED_LOST = "closed_lost"
    REOPENED = "reopened"
    LEFT_OPEN = "left_open"
    RERUN = "rerun"
    AMENDED = "amended"


_P = Phase

# An agent has the newest attempt, or may have it.
HELD: Final = frozenset({_P.SENT, _P.ACCEPTED, _P.RUNNING, _P.STOPPING, _P.UNKNOWN})
ENDABLE: Final = HELD | {_P.WAITING, _P.UNDECIDED, _P.SETTLING}

# An event without an entry changes nothing.
TABLE: Final[dict[Event, dict[Phase, Phase]]] = {
    # An agent that falls silent between the choice and its record still gets one transmission.
    Event.TRANSMITTED: {_P.SENT: _P.SENT, _P.UNKNOWN: _P.UNKNOWN},
    Event.UNANSWERED: {_P.SENT: _P.SENT},
    Event.ACKNOWLEDGED: {_P.SENT: _P.ACCEPTED, _P.UNKNOWN: _P.ACCEPTED},
    Event.STARTED: {
        _P.SENT: _P.RUNNING,
        _P.ACCEPTED: _P.RUNNING,
        _P.RUNNING: _P.RUNNING,
        _P.UNKNOWN: _P.RUNNING,
    },
    # A hello may be older than a report that has overtaken it: no state goes backwards.
    Event.KEPT: {
        _P.SENT: _P.ACCEPTED,
        _P.ACCEPTED: _P.ACCEPTED,
        _P.RUNNING: _P.RUNNING,
        _P.UNKNOWN: _P.ACCEPTED,
    },
    Event.SILENT: dict.fromkeys((_P.SENT, _P.ACCEPTED, _P.RUNNING, _P.STOPPING), _P.UNKNOWN),
    Event.RETURNED: {_P.UNKNOWN: _P.BACK},
    Event.FORGOTTEN: dict.fromkeys(HELD, _P.UNKNOWN),
    Event.STOP: {_P.SENT: _P.SENT, _P.ACCEPTED: _P.STOPPING, _P.RUNNING: _P.STOPPING},
    Event.WORD: {_P.UNDECIDED: _P.SETTLING},
    # The end is known, and has to be made durable.
    Event.UNSENT: {_P.SENT: _P.SETTLING, _P.UNKNOWN: _P.SETTLING},
    Event.ENDED: dict.fromkeys(HELD, _P.SETTLING),
    Event.UNDELIVERABLE: {_P.SENT: _P.SETTLING},
    Event.DROPPED: {_P.WAITING: _P.SETTLING, _P.UNDECIDED: _P.SETTLING},
    Event.NOT_STORED: {_P.SETTLING: _P.BACK},
    # Facts, live and in replay. A stored end counts, whatever the attempt's phase.
    Event.ASSIGNED: {_P.WAITING: _P.SENT, _P.UNDECIDED: _P.SENT},
    Event.TAKEN_BACK: dict.fromkeys(HELD, _P.WAITING),
    Event.CLOSED: dict.fromkeys(ENDABLE, _P.OVER),
    Event.CLOSED_LOST: dict.fromkeys(ENDABLE, _P.LOST),
    Event.REOPENED: dict.fromkeys(ENDABLE, _P.WAITING),
    Event.LEFT_OPEN: dict.fromkeys(ENDABLE, _P.UNDECIDED),
    Event.RERUN: {_P.UNDECIDED: _P.WAITING},
    # Settling: the verdict on an undecided one is under way, and the late report is right.
    Event.AMENDED: {_P.LOST: _P.OVER, _P.UNDECIDED: _P.OVER, _P.SETTLING: _P.OVER},
}

# The state that users see; the other phases have several states.
SHOWN: Final[dict[Phase, State]] = {
    _P.WAITING: State.QUEUED,
    _P.SENT: State.SENT,
    _P.ACCEPTED: State.ACCEPTED,
    _P.RUNNING: State.RUNNING,
    _P.STOPPING: State.STOPPING,
    _P.UNKNOWN: State.UNKNOWN,
    _P.UNDECIDED: State.UNKNOWN,
    _P.LOST: State.LOST,
}

# The phase behind a state that is hidden by an agent's silence.
BEHIND: Final[dict[State, Phase]] = {
    State.SENT: _P.SENT,
    State.ACCEPTED: _P.ACCEPTED,
    State.RUNNING: _P.RUNNING,
    State.STOPPING: _P.STOPPING,
}
