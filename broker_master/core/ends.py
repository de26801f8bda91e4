"""Ends of an attempt, or of a command without one, and their outcomes.

As in `core/attempts.py`: each function moves the command by the table and returns the effects. An
end counts once it is durable, so each of these only begins to settle the command.
"""

from collections.abc import Callable, Collection, Sequence

import msgspec

from broker_master.core.commands import Attempt, Command
from broker_master.core.effects import Declined, Settle
from broker_master.core.phases import Event
from broker_master.core.refusals import is_passing, refusers
from schemas import limits
from schemas.messages.facts import Outcome
from schemas.states import STATES, State
from schemas.texts import cut_text

# Agents that may refuse a command permanently before the command is rejected.
_REFUSALS_MAX = 3
_ENOUGH = f"; not tried again after {limits.ATTEMPTS} attempts"
_DRAINING = "agent_draining"
_LEFT = f"{_DRAINING}: shut down before it had the attempt"
# Refusals of the only target after which the command is sent again.
_WAITED_FOR = ("agent_full", "agent_unleased")

# Arguments: agents; whether the command has a target besides them.
HasOther = Callable[[Collection[str]], bool]


# -- of an attempt


def on_rejected(
    command: Command, attempt: Attempt, code: str, message: str, has_other: HasOther, now: float
) -> Sequence[Declined | Settle]:
    """The agent refused the attempt. Another member may take it, unless it has one target."""
    if not command.has_open(attempt, Event.ENDED):
        return ()
    reason = cut_text(f"{code}: {message}", limits.REASON_LEN - len(_ENOUGH))
    if len(command.attempts) >= limits.ATTEMPTS:
        reason += _ENOUGH
    if command.cancel_by:
        outcome = bare(command, State.CANCELLED, reason, now)
    else:
        final = _is_refused_for_good(command, code, has_other)
        outcome = bare(command, State.REJECTED, reason, now, final=final, code=code)
    return (Declined(attempt.agent, code), *settle(command, Event.ENDED, outcome))


def on_left(command: Command, attempt: Attempt, now: float) -> Sequence[Settle]:
    """The agent was shut down, and never had the attempt: the command is requeued."""
    if not command.has_open(attempt, Event.ENDED):
        return ()
    if command.cancel_by:
        outcome = bare(command, State.CANCELLED, cancelled(command), now)
        return settle(command, Event.ENDED, outcome)
    is_last = len(command.attempts) >= limits.ATTEMPTS
    reason = _LEFT + (_ENOUGH if is_last else "")
    outcome = bare(command, State.REJECTED, reason, now, final=is_last, code=_DRAINING)
    return settle(command, Event.ENDED, outcome)


def on_not_known(command: Command, attempt: Attempt, now: float) -> Sequence[Settle]:
    """The agent never had the attempt that it was asked to cancel."""
    if not command.has_open(attempt, Event.ENDED):
        return ()
    reason = f"{cancelled(command)} before it began"
    return settle(command, Event.ENDED, bare(command, State.CANCELLED, reason, now))


def on_ended(command: Command, attempt: Attempt, outcome: Outcome) -> Sequence[Settle]:
    """The agent has reported the end of the attempt."""
    if not command.has_open(attempt, Event.ENDED):
        return ()
    if not is_final(command, STATES[outcome.state]):
        outcome = msgspec.structs.replace(outcome, final=False)
    return settle(command, Event.ENDED, outcome)


def on_undeliverable(command: Command, attempt: Attempt, now: float) -> Sequence[Settle]:
    """No transmission of the attempt was acknowledged."""
    reason = f"{attempt.sent} transmissions without an acknowledgement"
    outcome = bare(command, State.UNDELIVERABLE, reason, now)
    return settle(command, Event.UNDELIVERABLE, outcome)


def on_barred(command: Command, reason: str, now: float) -> Sequence[Settle]:
    """The command may no longer run, and its newest attempt was never sent."""
    return settle(command, Event.UNSENT, bare(command, State.REJECTED, reason, now))


def on_lost(command: Command, reason: str, now: float) -> Sequence[Settle]:
    """No report can come any more for the open attempt, or the command has none."""
    attempt = command.open_attempt
    outcome = bare(command, State.LOST, reason, now, final=is_final(command, State.LOST))
    if attempt is None:
        return settle(command, Event.DROPPED, outcome)
    outcome = msgspec.structs.replace(
        outcome, accepted_at=attempt.accepted_at, started_at=attempt.started_at
    )
    return settle(command, Event.ENDED, outcome)


def on_silent_for_good(command: Command, attempt: Attempt, now: float) -> Sequence[Settle]:
    """The agent has been silent until after its own deadline."""
    was = attempt.hidden or attempt.state
    return on_lost(command, f"{attempt.agent} fell silent while it was {was}", now)


# -- of a command that no agent has


def on_dropped(command: Command, state: State, reason: str, now: float) -> Sequence[Settle]:
    """The wait for an agent ends."""
    return settle(command, Event.DROPPED, Outcome(state=state, at=now, reason=reason))


def on_cancelled(command: Command, now: float) -> Sequence[Settle]:
    """The command was cancelled."""
    return on_dropped(command, State.CANCELLED, cancelled(command), now)


# -- and back


def on_not_stored(command: Command) -> Attempt | None:
    """The end could not be stored: go back to the phase before. Returns the open attempt."""
    return command.open_attempt if command.enter(Event.NOT_STORED, command.since) else None


def is_final(command: Command, state: State) -> bool:
    """Whether the command ends with this end of an attempt.

    Only a loss is retried, or waits for a decision, and only if the submitter allowed it, up to
    `limits.ATTEMPTS` times.
    """
    if state not in (State.LOST, State.KILLED_FENCED) or command.cancel_by:
        return True
    if len(command.attempts) >= limits.ATTEMPTS:
        return True
    return command.accepted.on_lost == "error"


def _is_refused_for_good(command: Command, code: str, has_other: HasOther) -> bool:
    """Whether a refusal ends the command: its only target, or a request that no agent takes."""
    if len(command.attempts) >= limits.ATTEMPTS:
        return True
    if command.accepted.agent:
        return code not in _WAITED_FOR
    if is_passing(code):
        return False
    refused = {*refusers(command), *(each.agent for each in command.attempts[-1:])}
    return len(refused) >= _REFUSALS_MAX or not has_other(refused)


def settle(command: Command, event: Event, outcome: Outcome) -> Sequence[Settle]:
    """Begin to settle the command; no effect if the table has no such move."""
    attempt = command.open_attempt
    if not command.enter(event, outcome.at):
        return ()
    return (Settle(attempt.number if attempt is not None else 0, outcome),)


def bare(
    command: Command,
    state: State,
    reason: str,
    at: float,
    *,
    final: bool = True,
    code: str = "",
) -> Outcome:
    """An outcome without the agent's report: of the open attempt, if there is one."""
    attempt = command.open_attempt
    return Outcome(
        state=state,
        at=at,
        agent=attempt.agent if attempt is not None else "",
        sent=attempt.sent if attempt is not None else 0,
        reason=reason,
        final=final,
        code=code,
    )


def cancelled(command: Command) -> str:
    return f"cancelled by {command.cancel_by}"
