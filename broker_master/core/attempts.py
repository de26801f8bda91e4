"""Decides what follows from each event of an attempt; services perform the effects.

Each function takes one event: it moves the command by the table in `core/phases.py` and returns the
effects, in order. An event without a move in the present phase changes nothing and has no effect.
Times: `now` is unix time, `now_s` a reading of the monotonic clock. Ends are in `core/ends.py`,
facts in `core/fold.py`.
"""

from collections.abc import Sequence

from broker_master.core import ends
from broker_master.core.commands import Attempt, Command
from broker_master.core.effects import (
    Acknowledged,
    Cancel,
    Effect,
    Remember,
    Send,
    Settle,
    Unanswered,
)
from broker_master.core.phases import HELD, Event, Phase
from schemas.messages.facts import Started
from schemas.messages.work import AttemptReport
from schemas.states import AGENT_ENDS, State

# -- sending


def on_ready(command: Command, now: float) -> Sequence[Effect]:
    """The newest attempt is durable, or has to be sent again."""
    attempt = command.open_attempt
    if attempt is None or not command.may(Event.TRANSMITTED):
        return ()
    if not command.cancel_by:
        return (Send(attempt),)
    if attempt.sent:
        # The attempt may have arrived. If not, the answer to the cancel says so, and it never
        # arrives.
        return (Cancel(attempt),)
    outcome = ends.bare(command, State.CANCELLED, ends.cancelled(command), now)
    return ends.settle(command, Event.UNSENT, outcome)


def on_transmitted(command: Command, attempt: Attempt, token: str) -> None:
    """One more transmission is sent, with this token."""
    if command.has_open(attempt, Event.TRANSMITTED):
        _ = command.enter(Event.TRANSMITTED, command.since)
        attempt.sent += 1
        attempt.token = token


def on_unanswered(
    command: Command, attempt: Attempt, *, sent: int, resends: int, now: float
) -> Sequence[Effect]:
    """The ack timeout of transmission `sent` is over, and the agent is live."""
    if attempt.sent != sent or not command.has_open(attempt, Event.UNANSWERED):
        return ()
    _ = command.enter(Event.UNANSWERED, command.since)
    if sent > resends:
        return ends.on_undeliverable(command, attempt, now)
    return (Unanswered(attempt), *on_ready(command, now))


def on_cut_off(attempt: Attempt, *, sent: int, resends: int) -> None:
    """The master could not receive answers: if transmission `sent` was the last, one follows."""
    if attempt.sent == sent:
        attempt.sent = min(sent, resends)


# -- messages of the agent


def on_acknowledged(command: Command, attempt: Attempt, now: float) -> Sequence[Effect]:
    """The agent has the attempt in its journal."""
    if not command.has_open(attempt, Event.ACKNOWLEDGED):
        return ()
    was_waited_for = command.phase is Phase.SENT
    _ = command.enter(Event.ACKNOWLEDGED, now)
    attempt.accepted_at = attempt.accepted_at or now
    attempt.hidden = None
    measured = (Acknowledged(attempt),) if was_waited_for else ()
    if command.cancel_by and command.enter(Event.STOP, now):
        return (*measured, Cancel(attempt))
    return measured


def on_started(command: Command, attempt: Attempt, item: AttemptReport, now: float) -> None:
    """The task has started; not durable: a restarted master learns it from the next handshake."""
    if command.has_open(attempt, Event.STARTED):
        _ = command.enter(Event.STARTED, item.started_at or now)
        attempt.accepted_at = item.accepted_at or attempt.accepted_at
        attempt.started_at = item.started_at
        attempt.hidden = None


def on_kept(command: Command, attempt: Attempt, now: float, *, is_running: bool) -> None:
    """The agent's handshake lists the attempt as open."""
    if not command.has_open(attempt, Event.KEPT):
        return
    if command.phase is Phase.RUNNING:
        _ = command.enter(Event.KEPT, command.since)
    else:
        _ = command.enter(Event.STARTED if is_running else Event.KEPT, now)
    attempt.sent = max(attempt.sent, 1)
    _find(attempt)


def on_named_ended(command: Command, attempt: Attempt, state: State | None) -> None:
    """The agent's handshake lists the attempt as ended; only its report ends it here."""
    if attempt is command.open_attempt and state in AGENT_ENDS:
        attempt.ended_as = state


def on_recalled(command: Command, attempt: Attempt, now: float) -> bool:
    """The agent has an attempt named by a restored master, and will report its end."""
    if not command.has_open(attempt, Event.ACKNOWLEDGED):
        return False
    _ = command.enter(Event.ACKNOWLEDGED, now)
    attempt.accepted_at = attempt.accepted_at or now
    _find(attempt)
    return True


# -- silence, return, lost memory


def on_silent(command: Command, attempt: Attempt, now: float) -> None:
    """The agent is silent; the present state is kept behind `unknown`."""
    if command.has_open(attempt, Event.SILENT):
        attempt.hidden = attempt.state
        _ = command.enter(Event.SILENT, now)


def on_returned(
    command: Command, attempt: Attempt, now: float, *, is_doubtful: bool
) -> Sequence[Effect]:
    """The agent's handshake is complete: the attempt goes on from before the silence.

    is_doubtful: the attempt may have ended since the backup, so it is never sent again. One that
    has ended on the agent does not go on: it stays as it is until its report.
    """
    if command.phase not in HELD or attempt.elsewhere_s or attempt.ended_as:
        return ()
    if command.enter(Event.RETURNED, now):
        attempt.hidden = None
    if command.phase is not Phase.SENT:
        return on_cancel(command, now) if command.cancel_by else ()
    if is_doubtful:
        return ()
    attempt.sent = min(attempt.sent, 1)
    return on_ready(command, now)


def on_forgotten(
    command: Command,
    attempt: Attempt,
    *,
    until_s: float | None,
    reason: str,
    now_s: float,
    now: float,
) -> Sequence[Remember | Settle]:
    """The agent does not know the attempt; until `until_s` another process may run it.

    until_s: None if nothing new is known of that. reason: of the loss, once that time is over.
    """
    if not command.has_open(attempt, Event.FORGOTTEN):
        return ()
    if until_s is not None:
        attempt.elsewhere_s = until_s
    if attempt.elsewhere_s <= now_s:
        return ends.on_lost(command, reason, now)
    is_first, before = not attempt.elsewhere_at, attempt.state
    attempt.elsewhere_at = now + attempt.elsewhere_s - now_s
    if before is State.UNKNOWN:
        _ = command.enter(Event.FORGOTTEN, command.since)
    else:
        attempt.hidden = before
        _ = command.enter(Event.FORGOTTEN, now)
    return (Remember(attempt.number, _taken_on(attempt, now)),) if is_first else ()


# -- orders of an operator


def on_cancel(command: Command, now: float) -> Sequence[Effect]:
    """Carry out a recorded cancel, as far as it is possible now."""
    attempt = command.open_attempt
    if attempt is None:
        return ends.on_cancelled(command, now)
    if not attempt.sent or not command.may(Event.STOP):
        return ()
    _ = command.enter(Event.STOP, command.since if command.phase is Phase.SENT else now)
    return (Cancel(attempt),)


def on_word(command: Command, now: float) -> bool:
    """Record an operator's decision; the command takes no other event until it is durable."""
    return command.enter(Event.WORD, now)


def on_doubted(command: Command, reason: str) -> None:
    """After a restore: the command waits for reports of agents, not for a free slot."""
    command.reason = reason


def _taken_on(attempt: Attempt, now: float) -> Started:
    return Started(
        agent=attempt.agent,
        accepted_at=attempt.accepted_at or now,
        started_at=attempt.started_at,
        sent=attempt.sent,
    )


def _find(attempt: Attempt) -> None:
    """The agent has the attempt, so no other process does."""
    attempt.hidden = attempt.ended_as = None
    attempt.elsewhere_s = attempt.elsewhere_at = 0.0
