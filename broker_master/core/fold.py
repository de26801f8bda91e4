"""Applies durable facts to commands: the same way live and in replay, by the table of phases.

A fact without a move in the table changes nothing: for example a repeated fact, or one written too
late by a second master.
"""

from broker_master.core.commands import Attempt, Command
from broker_master.core.phases import Event
from schemas import subjects
from schemas.faults import Misused
from schemas.messages.facts import (
    Accepted,
    Assigned,
    CancelAsked,
    Decided,
    Fact,
    Outcome,
    Started,
)
from schemas.states import STATES, TERMINAL, State, check_move


def fold(command: Command, fact: subjects.Fact, body: Fact) -> bool:
    """Change `command` by a durable fact. False: the fact is known already, or impossible."""
    try:
        return _fold(command, fact, body)
    except Misused:
        return False


def _fold(command: Command, fact: subjects.Fact, body: Fact) -> bool:
    match body:
        case Accepted():
            return body.first is not None and _fold_assigned(command, 1, body.first)
        case Assigned():
            return _fold_assigned(command, fact.attempt, body)
        case Started():
            return _fold_started(command, fact.attempt, body)
        case CancelAsked():
            return _fold_cancel(command, body)
        case Decided():
            return _fold_decided(command, body)
        case Outcome() if fact.kind == "late":
            return _fold_late(command, fact.attempt, body)
        case Outcome():
            return _fold_outcome(command, fact.attempt, body)


def unfold_assigned(command: Command) -> Attempt | None:
    """Remove the newest attempt, whose record could not be stored; None: it is over by now."""
    since = command.since
    if not command.enter(Event.TAKEN_BACK, since):
        return None
    return command.attempts.pop()


def _fold_assigned(command: Command, number: int, body: Assigned) -> bool:
    if number != len(command.attempts) + 1 or not command.may(Event.ASSIGNED):
        return False
    command.attempts.append(
        Attempt(number=number, agent=body.agent, assigned_at=body.at, since=body.at, why=body.why)
    )
    command.reason = command.rerun_by = ""
    return command.enter(Event.ASSIGNED, body.at)


def _fold_started(command: Command, number: int, body: Started) -> bool:
    attempt = command.find(number)
    if attempt is None or attempt is not command.open_attempt:
        return False
    event = Event.STARTED if body.started_at else Event.ACKNOWLEDGED
    if not command.enter(event, body.started_at or body.accepted_at):
        return False
    attempt.accepted_at, attempt.started_at = body.accepted_at, body.started_at
    attempt.sent = max(attempt.sent, body.sent)
    return True


def _fold_cancel(command: Command, body: CancelAsked) -> bool:
    if command.cancel_by:
        return False
    command.cancel_by = body.by
    return True


def _fold_decided(command: Command, body: Decided) -> bool:
    if body.what != "rerun" or not command.enter(Event.RERUN, body.at):
        return False
    command.rerun_by, command.reason = body.by, f"run again by {body.by}"
    return True


def _fold_outcome(command: Command, number: int, body: Outcome) -> bool:
    """An end of the open attempt, or of a command without one."""
    attempt, state = command.find(number), STATES.get(body.state)
    if state not in TERMINAL or attempt is not command.open_attempt:
        return False
    if attempt is not None:
        _ = check_move(attempt.state, state)
    if not command.enter(*_after(command, body, state)):
        return False
    if attempt is not None:
        _end(attempt, body, state)
        if state is State.REJECTED and not body.code:
            # In facts of 0.1.0 the code stands before the reason.
            attempt.code = body.reason.partition(":")[0]
    command.reason = body.reason
    if body.final:
        command.outcome = body
    return True


def _after(command: Command, body: Outcome, state: State) -> tuple[Event, float, State]:
    """Consequence of an outcome: the command ends, is queued again, or waits for an operator."""
    if body.final:
        return (Event.CLOSED_LOST if state is State.LOST else Event.CLOSED), body.at, state
    if command.accepted.on_lost == "wait" and state is not State.REJECTED:
        return Event.LEFT_OPEN, body.at, State.UNKNOWN
    return Event.REOPENED, body.at, State.QUEUED


def _fold_late(command: Command, number: int, body: Outcome) -> bool:
    """A late report amends a verdict of `lost`; on a re-run command it is kept beside it."""
    attempt, state = command.find(number), STATES.get(body.state)
    if attempt is None or state not in TERMINAL or not may_be_amended(attempt):
        return False
    judged, is_newest = attempt.reason, attempt is command.attempts[-1]
    _ = check_move(attempt.state, state)
    amends = is_newest and (command.state is State.LOST or command.is_undecided)
    if amends and command.enter(Event.AMENDED, body.at, state):
        _end(attempt, body, state)
        command.outcome = body
        command.reason = attempt.reason = late_reason(body, judged)
    else:
        attempt.exit_code = body.exit_code
        attempt.effect, attempt.code = body.effect, body.code
        attempt.reason = late_reason(body, judged)
    attempt.late, command.late = True, body
    return True


def may_be_amended(attempt: Attempt) -> bool:
    """Whether a report now is the first after a verdict of `lost`."""
    return attempt.state is State.LOST and not attempt.late


def late_reason(body: Outcome, judged: str) -> str:
    """Both reasons in one line: of the late report, and of the verdict before it."""
    return f"late result: {body.state}{': ' * bool(body.reason)}{body.reason}; before: {judged}"


def _end(attempt: Attempt, body: Outcome, state: State) -> None:
    attempt.state, attempt.since = check_move(attempt.state, state), body.at
    attempt.accepted_at = body.accepted_at or attempt.accepted_at
    attempt.started_at = body.started_at or attempt.started_at
    attempt.ended_at = body.ended_at or body.at
    attempt.exit_code, attempt.reason = body.exit_code, body.reason
    attempt.effect, attempt.code = body.effect, body.code
    attempt.sent = max(attempt.sent, body.sent)
    attempt.late, attempt.hidden = body.late, None
