"""The life of an attempt, event by event: in which phases it means something, and what follows."""

from collections.abc import Callable, Sequence

import msgspec
import pytest

from broker_master.core import attempts, ends
from broker_master.core.commands import Attempt, Command
from broker_master.core.effects import (
    Acknowledged,
    Cancel,
    Declined,
    Remember,
    Send,
    Settle,
    Unanswered,
)
from broker_master.core.fold import fold, unfold_assigned
from broker_master.core.phases import BEHIND, HELD, SHOWN, TABLE, Event, Phase
from schemas.messages.facts import Outcome
from schemas.messages.work import AttemptReport
from schemas.states import AGENT_ENDS, TERMINAL, State
from tests.fake_clock import EPOCH
from tests.unit.broker_master.deeds import (
    accepted,
    assigned,
    cancel_asked,
    command_of,
    decided,
    ended,
    late,
    shape,
)

NOW, NOW_S = EPOCH + 30, 1000.0
RESENDS = 5
STARTED = AttemptReport(command="c1", attempt=1, seq=1, kind="started", state="running")
DONE = Outcome(state=State.SUCCEEDED, at=NOW, agent="web-1", exit_code=0)

# For each event the phase after it, by the phase before it. A dot: nothing changes, no effect.
GRID = """
              waiting  sent     accepted running  stopping unknown  settling undecided lost over
assigned      sent     .        .        .        .        .        .        sent      .    .
taken_back    .        waiting  waiting  waiting  waiting  waiting  .        .         .    .
ready         .        sent     .        .        .        unknown  .        .         .    .
transmitted   .        sent     .        .        .        unknown  .        .         .    .
unanswered    .        sent     .        .        .        .        .        .         .    .
undelivered   .        settling .        .        .        .        .        .         .    .
acknowledged  .        accepted .        .        .        accepted .        .         .    .
started       .        running  running  running  .        running  .        .         .    .
kept          .        accepted accepted .        .        accepted .        .         .    .
kept_running  .        running  running  .        .        running  .        .         .    .
recalled      .        accepted .        .        .        accepted .        .         .    .
silent        .        unknown  unknown  unknown  unknown  .        .        .         .    .
returned      .        sent     .        .        .        running  .        .         .    .
forgotten     .        unknown  unknown  unknown  unknown  unknown  .        .         .    .
gone          .        settling settling settling settling settling .        .         .    .
cancel        settling sent     stopping stopping .        .        .        settling  .    .
barred        .        settling .        .        .        settling .        .         .    .
rejected      .        settling settling settling settling settling .        .         .    .
not_known     .        settling settling settling settling settling .        .         .    .
ended         .        settling settling settling settling settling .        .         .    .
lost          settling settling settling settling settling settling .        settling  .    .
dropped       settling .        .        .        .        .        .        settling  .    .
word          .        .        .        .        .        .        .        settling  .    .
not_stored    .        .        .        .        .        .        running  .         .    .
closed        over     over     over     over     over     over     over     over      .    .
closed_lost   lost     lost     lost     lost     lost     lost     lost     lost      .    .
reopened      waiting  waiting  waiting  waiting  waiting  waiting  waiting  waiting   .    .
left_open     undecided undecided undecided undecided undecided undecided undecided undecided . .
rerun         .        .        .        .        .        .        .        waiting   .    .
amended       .        .        .        .        .        .        .        over      over .
"""
HEAD, *LINES = [line.split() for line in GRID.strip().splitlines()]
CELLS = [
    (row[0], Phase(before), after)
    for row in LINES
    for before, after in zip(HEAD, row[1:], strict=True)
]
OPEN = sorted(HELD)


def held(phase: Phase) -> Command:
    """An attempt in this phase, brought there as it happens."""
    command = command_of(accepted(on_lost="wait"), assigned())
    attempt = open_of(command)
    attempts.on_transmitted(command, attempt, "t1")
    if phase is Phase.ACCEPTED:
        _ = attempts.on_acknowledged(command, attempt, EPOCH + 2)
    elif phase is not Phase.SENT:
        attempts.on_started(command, attempt, STARTED, EPOCH + 3)
    if phase is Phase.STOPPING:
        fold(command, *cancel_asked())
        _ = attempts.on_cancel(command, EPOCH + 4)
    if phase is Phase.UNKNOWN:
        attempts.on_silent(command, attempt, EPOCH + 5)
    return command


def brought_to(phase: Phase) -> Command:
    if phase is Phase.WAITING:
        return command_of(accepted(on_lost="wait"))
    if phase in HELD:
        return held(phase)
    command = held(Phase.RUNNING)
    if phase is Phase.SETTLING:
        _ = ends.on_ended(command, open_of(command), DONE)
    elif phase is Phase.UNDECIDED:
        fold(command, *ended(state=State.LOST, final=False))
    else:
        fold(command, *ended(state=State.LOST if phase is Phase.LOST else State.SUCCEEDED))
    assert command.phase is phase
    return command


def open_of(command: Command) -> Attempt:
    assert command.open_attempt is not None
    return command.open_attempt


def outcome(command: Command, state: State, *, final: bool) -> bool:
    attempt = command.open_attempt
    number = attempt.number if attempt is not None else 0
    return fold(command, *ended(attempt=number, state=state, final=final, at=NOW))


Done = Callable[[Command, Attempt], object]
NO_ATTEMPT = Attempt(number=9, agent="web-9", sent=1)
EVENTS: dict[str, Done] = {
    "assigned": lambda c, _: fold(c, *assigned(attempt=len(c.attempts) + 1)),
    "taken_back": lambda c, _: unfold_assigned(c),
    "ready": lambda c, _: attempts.on_ready(c, NOW),
    "transmitted": lambda c, a: attempts.on_transmitted(c, a, "t2"),
    "unanswered": lambda c, a: attempts.on_unanswered(c, a, sent=1, resends=RESENDS, now=NOW),
    "undelivered": lambda c, a: attempts.on_unanswered(c, a, sent=1, resends=0, now=NOW),
    "acknowledged": lambda c, a: attempts.on_acknowledged(c, a, NOW),
    "started": lambda c, a: attempts.on_started(c, a, STARTED, NOW),
    "kept": lambda c, a: attempts.on_kept(c, a, NOW, is_running=False),
    "kept_running": lambda c, a: attempts.on_kept(c, a, NOW, is_running=True),
    "recalled": lambda c, a: attempts.on_recalled(c, a, NOW),
    "silent": lambda c, a: attempts.on_silent(c, a, NOW),
    "returned": lambda c, a: attempts.on_returned(c, a, NOW, is_doubtful=False),
    "forgotten": lambda c, a: forgotten(c, a, until_s=NOW_S + 9),
    "gone": lambda c, a: forgotten(c, a, until_s=NOW_S),
    "cancel": lambda c, _: attempts.on_cancel(c, NOW),
    "barred": lambda c, _: ends.on_barred(c, "forbidden", NOW),
    "rejected": lambda c, a: ends.on_rejected(c, a, "agent_full", "", lambda _: True, NOW),
    "not_known": lambda c, a: ends.on_not_known(c, a, NOW),
    "ended": lambda c, a: ends.on_ended(c, a, DONE),
    "lost": lambda c, _: ends.on_lost(c, "silent", NOW),
    "dropped": lambda c, _: ends.on_dropped(c, State.EXPIRED, "too late", NOW),
    "word": lambda c, _: attempts.on_word(c, NOW),
    "not_stored": lambda c, _: ends.on_not_stored(c),
    "closed": lambda c, _: outcome(c, State.CANCELLED, final=True),
    "closed_lost": lambda c, _: outcome(c, State.LOST, final=True),
    "reopened": lambda c, _: outcome(c, State.REJECTED, final=False),
    "left_open": lambda c, _: outcome(c, State.LOST, final=False),
    "rerun": lambda c, _: fold(c, *decided()),
    "amended": lambda c, _: fold(c, *late()),
}


def forgotten(
    command: Command, attempt: Attempt, *, until_s: float | None
) -> Sequence[Remember | Settle]:
    return attempts.on_forgotten(
        command, attempt, until_s=until_s, reason="no memory", now_s=NOW_S, now=NOW
    )


@pytest.mark.parametrize(("event", "before", "after"), CELLS)
def test_event_leads_where_the_grid_says(event: str, before: Phase, after: str) -> None:
    command = brought_to(before)
    if event == "cancel":
        fold(command, *cancel_asked())
    was = shape(command)
    effects = EVENTS[event](command, command.attempt or NO_ATTEMPT)
    if after == ".":
        assert not effects
        assert shape(command) == was
    else:
        assert effects or shape(command) != was
        assert command.phase is Phase(after)


@pytest.mark.parametrize("phase", Phase)
def test_state_that_users_see_follows_the_phase(phase: Phase) -> None:
    if phase is Phase.BACK:
        assert phase not in {before for row in TABLE.values() for before in row}
        return
    command = brought_to(phase)
    shown = {Phase.SETTLING: State.RUNNING, Phase.OVER: State.SUCCEEDED}
    assert command.state is shown.get(phase, SHOWN.get(phase))
    if phase in HELD:
        assert open_of(command).state is command.state


def test_table_has_a_row_for_every_event() -> None:
    assert set(TABLE) == set(Event)


@pytest.mark.parametrize("phase", sorted(BEHIND.values()))
def test_silence_hides_the_phase_and_a_return_shows_it(phase: Phase) -> None:
    command = held(phase)
    attempt, was = open_of(command), command.state
    attempts.on_silent(command, attempt, NOW)
    assert (command.state, attempt.hidden) == (State.UNKNOWN, was)
    _ = attempts.on_returned(command, attempt, NOW + 1, is_doubtful=False)
    assert (command.phase, command.state, attempt.hidden) == (phase, was, None)
    assert (command.since, attempt.since) == (NOW + 1, NOW + 1)


@pytest.mark.parametrize("phase", [*OPEN, Phase.WAITING, Phase.UNDECIDED])
def test_end_that_cannot_be_stored_leaves_all_as_it_was(phase: Phase) -> None:
    command = brought_to(phase)
    was = command.phase, command.state, command.since, command.open_attempt
    assert ends.on_lost(command, "silent", NOW)
    assert command.phase is Phase.SETTLING
    assert ends.on_not_stored(command) is was[3]
    assert (command.phase, command.state, command.since, command.open_attempt) == was


@pytest.mark.parametrize("event", sorted({"ended", "rejected", "not_known", "acknowledged"}))
def test_older_attempt_is_not_taken_for_the_open_one(event: str) -> None:
    command = command_of(
        accepted(), assigned(), ended(state=State.LOST, final=False), assigned(attempt=2)
    )
    was = shape(command)
    assert not EVENTS[event](command, command.attempts[0])
    assert shape(command) == was


@pytest.mark.parametrize("phase", OPEN)
@pytest.mark.parametrize("end", sorted(TERMINAL - {State.EXPIRED}))
def test_end_that_is_stored_counts_whatever_was_thought_of_the_attempt(
    phase: Phase, end: State
) -> None:
    command = brought_to(phase)
    assert outcome(command, end, final=True)
    assert (command.state, command.attempts[0].state) == (end, end)


@pytest.mark.parametrize("end", sorted(AGENT_ENDS))
@pytest.mark.parametrize("phase", [Phase.LOST, Phase.UNDECIDED])
def test_loss_is_amended_by_whatever_its_agent_may_say(phase: Phase, end: State) -> None:
    command = brought_to(phase)
    assert fold(command, *late(state=end))
    assert (command.phase, command.state, command.attempts[0].state) == (Phase.OVER, end, end)


@pytest.mark.parametrize("end", [State.EXPIRED, State.REJECTED, State.CANCELLED, State.LOST])
def test_waiting_command_ends_without_an_agent(end: State) -> None:
    command = brought_to(Phase.WAITING)
    assert outcome(command, end, final=True)
    assert command.state is end


# what follows


def test_acknowledgement_is_measured_once() -> None:
    command = held(Phase.SENT)
    attempt = open_of(command)
    assert attempts.on_acknowledged(command, attempt, NOW) == (Acknowledged(attempt),)
    attempts.on_silent(command, attempt, NOW)
    assert attempts.on_acknowledged(command, attempt, NOW + 1) == ()
    assert (attempt.accepted_at, attempt.hidden) == (NOW, None)


def test_acknowledgement_after_a_silence_is_not_measured() -> None:
    command = held(Phase.UNKNOWN)
    open_of(command).accepted_at = 0.0
    assert attempts.on_acknowledged(command, open_of(command), NOW) == ()


def test_start_brings_the_times_that_its_agent_has_noted() -> None:
    command = held(Phase.UNKNOWN)
    attempt = open_of(command)
    item = msgspec.structs.replace(STARTED, accepted_at=EPOCH + 6, started_at=EPOCH + 7)
    attempts.on_started(command, attempt, item, NOW)
    assert (attempt.accepted_at, attempt.started_at) == (EPOCH + 6, EPOCH + 7)
    assert (attempt.hidden, command.since) == (None, EPOCH + 7)
    attempts.on_started(command, attempt, STARTED, NOW)
    assert (attempt.accepted_at, command.since) == (EPOCH + 6, NOW)


def test_hello_changes_nothing_of_what_is_being_stopped() -> None:
    command = held(Phase.STOPPING)
    open_of(command).sent = 0
    attempts.on_kept(command, open_of(command), NOW, is_running=True)
    assert (open_of(command).sent, command.phase) == (0, Phase.STOPPING)


@pytest.mark.parametrize("accepted_at", [0.0, EPOCH + 2])
def test_recalled_attempt_was_accepted_and_runs_nowhere_else(accepted_at: float) -> None:
    command = held(Phase.SENT)
    attempt = open_of(command)
    _ = forgotten(command, attempt, until_s=NOW_S + 9)
    attempt.accepted_at = accepted_at
    assert attempts.on_recalled(command, attempt, NOW)
    assert attempt.accepted_at == (accepted_at or NOW)
    assert (attempt.hidden, attempt.elsewhere_s, attempt.elsewhere_at) == (None, 0.0, 0.0)


def test_transmissions_are_counted_anew_after_a_return() -> None:
    command = held(Phase.SENT)
    attempt = open_of(command)
    attempt.sent = 4
    attempts.on_silent(command, attempt, NOW)
    assert attempts.on_returned(command, attempt, NOW, is_doubtful=False) == (Send(attempt),)
    assert attempt.sent == 1


def test_cancel_asks_no_agent_for_what_was_not_sent() -> None:
    command = held(Phase.SENT)
    open_of(command).sent = 0
    fold(command, *cancel_asked())
    assert attempts.on_cancel(command, NOW) == ()


def test_acknowledgement_of_what_was_cancelled_meanwhile_stops_it() -> None:
    command = held(Phase.SENT)
    attempt = open_of(command)
    fold(command, *cancel_asked())
    assert attempts.on_acknowledged(command, attempt, NOW)[-1] == Cancel(attempt)
    assert command.phase is Phase.STOPPING


def test_transmissions_are_numbered_and_end_after_the_last() -> None:
    command = held(Phase.SENT)
    attempt = open_of(command)
    for number in range(1, 1 + RESENDS):
        effects = attempts.on_unanswered(command, attempt, sent=number, resends=RESENDS, now=NOW)
        assert effects == (Unanswered(attempt), Send(attempt))
        attempts.on_transmitted(command, attempt, f"t{number}")
        assert not attempts.on_unanswered(
            command, attempt, sent=number, resends=RESENDS, now=NOW
        ), "of an older transmission"
    (settle,) = attempts.on_unanswered(command, attempt, sent=6, resends=RESENDS, now=NOW)
    assert isinstance(settle, Settle)
    assert (settle.outcome.state, settle.outcome.sent) == (State.UNDELIVERABLE, 6)


def test_cut_off_master_asks_for_the_last_transmission_once_more() -> None:
    attempt = Attempt(number=1, agent="web-1", sent=6)
    attempts.on_cut_off(attempt, sent=5, resends=RESENDS)
    assert attempt.sent == 6
    attempts.on_cut_off(attempt, sent=6, resends=RESENDS)
    assert attempt.sent == RESENDS


@pytest.mark.parametrize("phase", [Phase.SENT, Phase.UNKNOWN])
def test_cancelled_command_is_not_sent(phase: Phase) -> None:
    """Ended at once while nothing of it was sent; else its agent is asked."""
    command = held(phase)
    attempt = open_of(command)
    fold(command, *cancel_asked())
    assert attempts.on_ready(command, NOW) == (Cancel(attempt),)
    attempt.sent = 0
    (settle,) = attempts.on_ready(command, NOW)
    assert isinstance(settle, Settle)
    assert settle.outcome.state is State.CANCELLED


@pytest.mark.parametrize("said", [True, False])
def test_hello_that_names_it_says_that_it_runs_nowhere_else(said: bool) -> None:
    command = held(Phase.RUNNING)
    attempt = open_of(command)
    _ = forgotten(command, attempt, until_s=NOW_S + 9)
    attempts.on_started(command, attempt, STARTED, NOW)
    attempt.sent = 0
    attempts.on_kept(command, attempt, NOW, is_running=said)
    assert command.phase is Phase.RUNNING
    assert (attempt.elsewhere_s, attempt.elsewhere_at, attempt.sent) == (0.0, 0.0, 1)


def test_forgotten_attempt_is_remembered_once_and_does_not_come_back_by_itself() -> None:
    command = held(Phase.ACCEPTED)
    attempt = open_of(command)
    (remember,) = forgotten(command, attempt, until_s=NOW_S + 9)
    assert isinstance(remember, Remember)
    assert (remember.number, remember.started.accepted_at) == (1, EPOCH + 2)
    assert (attempt.hidden, attempt.elsewhere_at) == (State.ACCEPTED, NOW + 9)
    assert forgotten(command, attempt, until_s=None) == ()
    assert attempts.on_returned(command, attempt, NOW, is_doubtful=False) == ()
    assert command.phase is Phase.UNKNOWN


@pytest.mark.parametrize("phase", [Phase.SENT, Phase.ACCEPTED, Phase.RUNNING])
def test_attempt_that_the_agent_names_as_ended_does_not_go_on_with_its_return(phase: Phase) -> None:
    command = held(phase)
    attempt = open_of(command)
    attempts.on_silent(command, attempt, NOW)
    attempts.on_named_ended(command, attempt, State.LOST)
    assert attempts.on_returned(command, attempt, NOW + 1, is_doubtful=False) == ()
    assert (command.state, attempt.ended_as) == (State.UNKNOWN, State.LOST)
    attempts.on_kept(command, attempt, NOW + 2, is_running=True)
    assert (command.state, attempt.ended_as) == (State.RUNNING, None)


@pytest.mark.parametrize("said", [None, State.RUNNING, State.EXPIRED])
def test_only_ends_that_an_agent_may_report_are_believed(said: State | None) -> None:
    command = held(Phase.ACCEPTED)
    attempts.on_named_ended(command, open_of(command), said)
    assert open_of(command).ended_as is None


@pytest.mark.parametrize(("doubtful", "sent"), [(True, []), (False, [Send])])
def test_unacknowledged_attempt_is_redelivered_unless_it_may_have_ended(
    doubtful: bool, sent: list[type]
) -> None:
    command = held(Phase.SENT)
    attempts.on_silent(command, open_of(command), NOW)
    effects = attempts.on_returned(command, open_of(command), NOW, is_doubtful=doubtful)
    assert [type(effect) for effect in effects] == sent
    assert command.phase is Phase.SENT


def test_rejection_is_noted_before_the_command_ends_by_it() -> None:
    command = held(Phase.SENT)
    effects = ends.on_rejected(
        command, open_of(command), "agent_full", "no slot", lambda _: True, NOW
    )
    assert [type(effect) for effect in effects] == [Declined, Settle]
    assert isinstance(effects[1], Settle)
    assert (effects[1].outcome.final, effects[1].outcome.reason) == (False, "agent_full: no slot")


def test_late_word_is_the_truth_while_the_verdict_is_being_stored() -> None:
    """In the stream the late word stands behind the verdict, so a replay says the same."""
    command = brought_to(Phase.UNDECIDED)
    (settle,) = ends.on_dropped(command, State.LOST, "nobody decided", NOW)
    assert fold(command, *late())
    assert settle.number == 0
    verdict = ended(attempt=0, state=State.LOST, at=NOW)
    assert command.phase is Phase.OVER
    assert not fold(command, *verdict)
    assert (command.state, command.attempts[0].state) == (State.SUCCEEDED, State.SUCCEEDED)
    life = [accepted(on_lost="wait"), assigned(), ended(state=State.LOST, final=False)]
    again = command_of(*life, late(), verdict)
    assert (again.state, again.attempts[0].state) == (State.SUCCEEDED, State.SUCCEEDED)
