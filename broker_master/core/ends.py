"""Which events end an attempt, or a command that no agent has, and with which outcome.

As in `core/attempts.py`: each function moves the command as the table says and returns the effects.
An end counts once it is durable, so all of these only begin to settle the command.
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

# Agents that may refuse a command for good before nobody else is asked.
_REFUSALS_MAX = 3
_ENOUGH = f"; not tried again after {limits.ATTEMPTS} attempts"
# Refusals of the only target after which it is asked again.
_WAITED_FOR = ("agent_full", "agent_unleased")

# Given agents: whether the command has a target besides them.
HasOther = Callable[[Collection[str]], bool]


# -- of an attempt


def on_rejected(
    command: Command, attempt: Attempt, code: str, message: str, has_other: HasOther, now: float
) -> Sequence[Declined | Settle]:
    """It never ran there. Another member may take it, unless only this one may."""
    if not command.has_open(attempt, Event.ENDED):
        return ()
    reason = cut_text(f"{code}: {message}", limits.REASON_LEN - len(_ENOUGH))
    if len(command.attempts) >= limits.ATTEMPTS:
        reason += _ENOUGH
    if command.cancel_by:
        outcome = bare(command, State.CANCELLED, reason, now)
    else:
        final = _is_refused_for_good(command, code, has_other)
        outcome = bare(command, State.REJECTED, reason, now, final=final)
    return (Declined(attempt.agent, code), *settle(command, Event.ENDED, outcome))


def on_not_known(command: Command, attempt: Attempt, now: float) -> Sequence[Settle]:
    """The agent was asked to cancel it, and has never had it."""
    if not command.has_open(attempt, Event.ENDED):
        return ()
    reason = f"{cancelled(command)} before it began"
    return settle(command, Event.ENDED, bare(command, State.CANCELLED, reason, now))


def on_ended(command: Command, attempt: Attempt, outcome: Outcome) -> Sequence[Settle]:
    """The agent has reported an end of it."""
    if not command.has_open(attempt, Event.ENDED):
        return ()
    if not is_final(command, STATES[outcome.state]):
        outcome = msgspec.structs.replace(outcome, final=False)
    return settle(command, Event.ENDED, outcome)


def on_undeliverable(command: Command, attempt: Attempt, now: float) -> Sequence[Settle]:
    """None of its transmissions was acknowledged."""
    reason = f"{attempt.sent} transmissions without an acknowledgement"
    outcome = bare(command, State.UNDELIVERABLE, reason, now)
    return settle(command, Event.UNDELIVERABLE, outcome)


def on_barred(command: Command, reason: str, now: float) -> Sequence[Settle]:
    """It may not be run any more, and nothing of its newest attempt was sent."""
    return settle(command, Event.UNSENT, bare(command, State.REJECTED, reason, now))


def on_lost(command: Command, reason: str, now: float) -> Sequence[Settle]:
    """Of its open attempt, or of a command that has none, nobody will speak any more."""
    attempt = command.open_attempt
    outcome = bare(command, State.LOST, reason, now, final=is_final(command, State.LOST))
    if attempt is None:
        return settle(command, Event.DROPPED, outcome)
    outcome = msgspec.structs.replace(
        outcome, accepted_at=attempt.accepted_at, started_at=attempt.started_at
    )
    return settle(command, Event.ENDED, outcome)


def on_silent_for_good(command: Command, attempt: Attempt, now: float) -> Sequence[Settle]:
    """Its agent has been silent for so long that the agent's own deadline has passed."""
    was = attempt.hidden or attempt.state
    return on_lost(command, f"{attempt.agent} fell silent while it was {was}", now)


# -- of a command that no agent has


def on_dropped(command: Command, state: State, reason: str, now: float) -> Sequence[Settle]:
    """It is not waited for any more."""
    return settle(command, Event.DROPPED, Outcome(state=state, at=now, reason=reason))


def on_cancelled(command: Command, now: float) -> Sequence[Settle]:
    """It was asked to be cancelled."""
    return on_dropped(command, State.CANCELLED, cancelled(command), now)


# -- and back


def on_not_stored(command: Command) -> Attempt | None:
    """The end could not be made durable: all is as before. Returns the attempt that is open."""
    return command.open_attempt if command.enter(Event.NOT_STORED, command.since) else None


def is_final(command: Command, state: State) -> bool:
    """Whether the command ends with this end of an attempt.

    Only a loss is tried again, or waits for a word, and only if the submitter has said so, up to
    `limits.ATTEMPTS` times.
    """
    if state not in (State.LOST, State.KILLED_FENCED) or command.cancel_by:
        return True
    if len(command.attempts) >= limits.ATTEMPTS:
        return True
    return command.accepted.on_lost == "error"


def _is_refused_for_good(command: Command, code: str, has_other: HasOther) -> bool:
    """A target of one agent, or a request that no agent will take, ends here."""
    if len(command.attempts) >= limits.ATTEMPTS:
        return True
    if command.accepted.agent:
        return code not in _WAITED_FOR
    if is_passing(code):
        return False
    refused = {*refusers(command), *(each.agent for each in command.attempts[-1:])}
    return len(refused) >= _REFUSALS_MAX or not has_other(refused)


def settle(command: Command, event: Event, outcome: Outcome) -> Sequence[Settle]:
    """Begin to settle the command; no effect if the table says that it cannot end so now."""
    attempt = command.open_attempt
    if not command.enter(event, outcome.at):
        return ()
    return (Settle(attempt.number if attempt is not None else 0, outcome),)


def bare(command: Command, state: State, reason: str, at: float, *, final: bool = True) -> Outcome:
    """An end of the open attempt, if there is one, that its agent has not reported."""
    attempt = command.open_attempt
    return Outcome(
        state=state,
        at=at,
        agent=attempt.agent if attempt is not None else "",
        sent=attempt.sent if attempt is not None else 0,
        reason=reason,
        final=final,
    )


def cancelled(command: Command) -> str:
    return f"cancelled by {command.cancel_by}"
