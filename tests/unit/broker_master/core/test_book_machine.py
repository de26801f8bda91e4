"""One command through its whole life, driven by the product's own decisions.

What comes, comes once; whatever is heard, an end stays; and a restart changes nothing.
"""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker_master.core import attempts, ends
from broker_master.core.book import CommandBook
from broker_master.core.commands import Attempt, Command
from broker_master.core.effects import Cancel, Effect, Remember, Send, Settle
from broker_master.core.fold import fold, may_be_amended, unfold_assigned
from broker_master.core.phases import HELD, SHOWN, Phase
from schemas import subjects
from schemas.messages.facts import Fact, Outcome
from schemas.messages.work import AttemptReport
from schemas.states import TERMINAL, State
from tests.fake_clock import EPOCH
from tests.unit.broker_master.deeds import (
    accepted,
    assigned,
    cancel_asked,
    decided,
    late,
    replayed,
    shape,
)

pytestmark = pytest.mark.deep

ON_LOST = st.sampled_from(["error", "rerun", "wait"])
ENDS = st.sampled_from(
    [State.SUCCEEDED, State.FAILED, State.CANCELLED, State.KILLED_FENCED, State.LOST]
)
CODES = st.sampled_from(["agent_full", "unknown_action"])
RESENDS = 2

Heard = Callable[[Command, Attempt], Sequence[Effect | Remember] | bool | None]


class BookMachine(RuleBasedStateMachine):
    """One command. `facts`: as the stream has them, which takes each kind once per attempt.

    unstored: the end that is being made durable.
    """

    def __init__(self) -> None:
        super().__init__()
        self.book = CommandBook()
        self.facts: dict[subjects.Fact, Fact] = {}
        self.unstored: Settle | None = None
        self.first_end: State | None = None
        self.amended = False
        self.now = EPOCH + 3
        self.token = 0

    @property
    def command(self) -> Command:
        command = self.book.get("c1")
        assert command is not None
        return command

    @property
    def attempt(self) -> Attempt:
        attempt = self.command.attempt
        assert attempt is not None
        return attempt

    def is_in(self, *phases: Phase) -> bool:
        command = self.book.get("c1")
        return command is not None and command.phase in phases

    def has_attempt(self) -> bool:
        command = self.book.get("c1")
        return command is not None and bool(command.attempts)

    def add(self, fact: subjects.Fact, body: Fact) -> bool:
        """As the stream: the second of a kind is refused. Folded twice, as after a lost answer."""
        if fact in self.facts:
            return False
        self.facts[fact] = body
        _ = fold(self.command, fact, body)
        assert not fold(self.command, fact, body)
        return True

    def hear(self, event: Heard) -> None:
        """An event, whatever the phase is; what it asks for is done, as services do it."""
        self.now += 1
        was = None if self.command.phase in HELD else shape(self.command)
        effects = event(self.command, self.attempt)
        asked = effects if isinstance(effects, tuple) else ()
        if was is not None:
            assert asked == ()
            assert shape(self.command) == was
        for effect in asked:
            self.do(effect)

    def do(self, effect: Effect | Remember) -> None:
        command = self.command
        match effect:
            case Send(attempt):
                assert attempt is command.open_attempt
                assert not command.cancel_by
                self.token += 1
                attempts.on_transmitted(command, attempt, f"{self.token:x}")
                assert attempt.sent <= 1 + RESENDS
            case Cancel(attempt):
                assert attempt is command.open_attempt
                assert command.cancel_by
            case Settle():
                assert self.unstored is None
                assert command.phase is Phase.SETTLING
                self.unstored = effect
            case Remember(number, started):
                _ = self.facts.setdefault(subjects.Fact("c1", number, "started"), started)

    # -- the command, and its choice

    @precondition(lambda self: self.book.get("c1") is None)
    @rule(on_lost=ON_LOST)
    def accept(self, on_lost: str) -> None:
        fact, body = accepted(on_lost=on_lost)
        self.facts[fact] = body
        self.book.replay(fact, body, 1)
        self.book.end_replay()

    @precondition(lambda self: self.is_in(Phase.WAITING))
    @rule(agent=st.sampled_from(["web-1", "web-2"]), is_stored=st.booleans())
    def assign(self, agent: str, is_stored: bool) -> None:
        fact, body = assigned(attempt=len(self.command.attempts) + 1, agent=agent)
        if not is_stored:
            assert fold(self.command, fact, body)
            assert unfold_assigned(self.command) is not None
            assert self.command.state is State.QUEUED
            return
        assert self.add(fact, body)
        assert self.command.state is State.SENT
        self.hear(lambda command, _: attempts.on_ready(command, self.now))

    # -- what is heard, at any moment

    @precondition(has_attempt)
    @rule()
    def acknowledged(self) -> None:
        self.hear(lambda command, each: attempts.on_acknowledged(command, each, self.now))

    @precondition(has_attempt)
    @rule(code=CODES, has_other=st.booleans())
    def rejected(self, code: str, has_other: bool) -> None:
        self.hear(
            lambda command, each: ends.on_rejected(
                command, each, code, "", lambda _: has_other, self.now
            )
        )

    @precondition(has_attempt)
    @rule()
    def started(self) -> None:
        item = AttemptReport(
            command="c1", attempt=1, seq=1, kind="started", state="running", started_at=self.now
        )
        self.hear(lambda command, each: attempts.on_started(command, each, item, self.now))

    @precondition(has_attempt)
    @rule(state=ENDS)
    def ended(self, state: State) -> None:
        said = Outcome(state=state, at=self.now, agent=self.attempt.agent, exit_code=3)
        self.hear(lambda command, each: ends.on_ended(command, each, said))

    @precondition(has_attempt)
    @rule()
    def silent(self) -> None:
        self.hear(lambda command, each: attempts.on_silent(command, each, self.now))

    @precondition(has_attempt)
    @rule(is_running=st.booleans())
    def kept(self, is_running: bool) -> None:
        self.hear(
            lambda command, each: attempts.on_kept(command, each, self.now, is_running=is_running)
        )

    @precondition(has_attempt)
    @rule()
    def recalled(self) -> None:
        self.hear(lambda command, each: attempts.on_recalled(command, each, self.now))

    @precondition(has_attempt)
    @rule(is_doubtful=st.booleans())
    def returned(self, is_doubtful: bool) -> None:
        self.hear(
            lambda command, each: attempts.on_returned(
                command, each, self.now, is_doubtful=is_doubtful
            )
        )

    @precondition(has_attempt)
    @rule(until_s=st.sampled_from([None, 5.0, 50.0]), now_s=st.sampled_from([1.0, 10.0]))
    def forgotten(self, until_s: float | None, now_s: float) -> None:
        self.hear(
            lambda command, each: attempts.on_forgotten(
                command, each, until_s=until_s, reason="no memory", now_s=now_s, now=self.now
            )
        )

    @precondition(has_attempt)
    @rule()
    def unanswered(self) -> None:
        self.hear(
            lambda command, each: attempts.on_unanswered(
                command, each, sent=each.sent, resends=RESENDS, now=self.now
            )
        )

    @precondition(lambda self: self.is_in(*HELD, Phase.SETTLING, Phase.OVER, Phase.LOST))
    @rule()
    def lost(self) -> None:
        if self.command.attempts:
            self.hear(lambda command, _: ends.on_lost(command, "silent", self.now))

    # -- operators

    @precondition(lambda self: self.book.get("c1") is not None)
    @rule(by=st.sampled_from(["ops", "ann"]))
    def cancel(self, by: str) -> None:
        """Once it has ended, a master refuses before anything is stored."""
        if self.command.is_terminal:
            return
        already = self.command.cancel_by
        self.add(*cancel_asked(by=by))
        assert self.command.cancel_by == (already or by)
        self.now += 1
        for effect in attempts.on_cancel(self.command, self.now):
            self.do(effect)

    @precondition(lambda self: self.is_in(Phase.WAITING, Phase.UNDECIDED))
    @rule(state=st.sampled_from([State.EXPIRED, State.REJECTED, State.CANCELLED]))
    def dropped(self, state: State) -> None:
        if self.command.phase is Phase.UNDECIDED:
            state = State.LOST
        for effect in ends.on_dropped(self.command, state, "too late", self.now):
            self.do(effect)

    @precondition(lambda self: self.is_in(Phase.UNDECIDED))
    @rule()
    def rerun(self) -> None:
        fact, body = decided(attempt=len(self.command.attempts))
        if fact not in self.facts:
            assert attempts.on_word(self.command, self.now)
            assert ends.on_dropped(self.command, State.LOST, "meanwhile", self.now) == ()
            _ = ends.on_not_stored(self.command)
            self.facts[fact] = body
            assert fold(self.command, fact, body)
            assert self.command.phase is Phase.WAITING

    # -- the store

    @precondition(lambda self: self.unstored is not None)
    @rule(is_stored=st.booleans())
    def store(self, is_stored: bool) -> None:
        settle, self.unstored = self.unstored, None
        assert settle is not None
        fact = subjects.Fact("c1", settle.number, "outcome")
        if not is_stored:
            _ = ends.on_not_stored(self.command)
            return
        assert self.add(fact, settle.outcome)
        if settle.outcome.final:
            self.first_end = State(settle.outcome.state)
            return
        waits = self.command.accepted.on_lost == "wait" and settle.outcome.state != State.REJECTED
        if not self.amended:
            assert self.command.phase is (Phase.UNDECIDED if waits else Phase.WAITING)

    @precondition(has_attempt)
    @rule(number=st.integers(1, 4), state=ENDS)
    def hear_late(self, number: int, state: State) -> None:
        attempt = self.command.find(number)
        if attempt is None or not may_be_amended(attempt):
            return
        before = self.command.state
        is_newest = attempt is self.command.attempts[-1]
        amends = is_newest and (before is State.LOST or self.command.is_undecided)
        assert self.add(*late(attempt=number, state=state))
        assert self.command.state is (state if amends else before)
        assert attempt.late
        self.amended |= amends
        if amends and self.first_end is None:
            self.first_end = state

    @invariant()
    def an_end_stays_and_only_a_loss_is_amended_once(self) -> None:
        if self.first_end is None:
            return
        assert self.command.state in TERMINAL
        if self.first_end is not State.LOST and not self.amended:
            assert self.command.state is self.first_end

    @invariant()
    def state_and_phase_agree(self) -> None:
        command = self.book.get("c1")
        if command is None:
            return
        if command.phase in SHOWN:
            assert command.state is SHOWN[command.phase]
        assert (command.phase in HELD) == (command.open_attempt is not None) or (
            command.phase is Phase.SETTLING
        )
        assert command.is_terminal == (command.phase in (Phase.LOST, Phase.OVER))
        if command.open_attempt is not None:
            assert command.open_attempt.state is command.state
            assert (command.open_attempt.hidden is not None) == (command.state is State.UNKNOWN)

    @invariant()
    def only_what_is_being_stored_settles(self) -> None:
        if self.book.get("c1") is not None and not self.amended:
            assert (self.unstored is not None) == (self.command.phase is Phase.SETTLING)

    @invariant()
    def no_two_attempts_are_open(self) -> None:
        if self.book.get("c1") is not None:
            assert not any(each.is_open for each in self.command.attempts[:-1])
            numbers = [each.number for each in self.command.attempts]
            assert numbers == list(range(1, len(numbers) + 1))

    @invariant()
    def a_master_that_starts_now_knows_what_the_facts_know(self) -> None:
        if not self.facts:
            return
        again = replayed(*self.facts.items()).get("c1")
        assert again is not None
        ends_ = [(each.agent, each.late, each.is_open, each.exit_code) for each in again.attempts]
        assert ends_ == [
            (each.agent, each.late, each.is_open, each.exit_code) for each in self.command.attempts
        ]
        assert (again.cancel_by, again.outcome) == (self.command.cancel_by, self.command.outcome)
        if again.open_attempt is None and self.command.phase is not Phase.SETTLING:
            assert (again.state, again.phase) == (self.command.state, self.command.phase)


TestBook = BookMachine.TestCase
TestBook.settings = settings(
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
