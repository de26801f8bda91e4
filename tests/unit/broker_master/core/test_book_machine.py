"""The book of commands against its facts: what comes, comes once, and a restart changes nothing."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker_master.core.book import Attempt, Command, CommandBook, fold
from schemas import subjects
from schemas.messages.facts import Decided, Fact
from schemas.states import TERMINAL, State
from tests.fake_clock import EPOCH
from tests.unit.broker_master.deeds import accepted, assigned, cancel_asked, ended, late, replayed

ON_LOST = st.sampled_from(["error", "rerun", "wait"])
LOSSES = st.sampled_from([State.LOST, State.KILLED_FENCED])
ENDS = st.sampled_from([State.SUCCEEDED, State.FAILED, State.CANCELLED, State.KILLED_FENCED])
HEARD = st.sampled_from([State.ACCEPTED, State.RUNNING, State.UNKNOWN, State.STOPPING])


class BookMachine(RuleBasedStateMachine):
    """One command. `facts`: as the stream has them, which takes each kind once per attempt."""

    def __init__(self) -> None:
        super().__init__()
        self.book = CommandBook()
        self.facts: dict[subjects.Fact, Fact] = {}
        self.first_end: State | None = None
        self.amended = False

    @property
    def command(self) -> Command:
        command = self.book.get("c1")
        assert command is not None
        return command

    @property
    def open_attempt(self) -> Attempt:
        attempt = self.command.open_attempt
        assert attempt is not None
        return attempt

    def add(self, fact: subjects.Fact, body: Fact) -> bool:
        """As the stream: the second of a kind is refused. Folded twice, as after a lost answer."""
        if fact in self.facts:
            return False
        self.facts[fact] = body
        for _ in range(2):
            fold(self.command, fact, body)
        return True

    def is_state(self, *states: State) -> bool:
        return self.book.get("c1") is not None and self.command.state in states

    def is_open(self) -> bool:
        return self.book.get("c1") is not None and self.command.open_attempt is not None

    @precondition(lambda self: self.book.get("c1") is None)
    @rule(on_lost=ON_LOST)
    def accept(self, on_lost: str) -> None:
        fact, body = accepted(on_lost=on_lost)
        self.facts[fact] = body
        self.book.replay(fact, body, 1)
        self.book.end_replay()

    @precondition(lambda self: self.is_state(State.QUEUED))
    @rule(agent=st.sampled_from(["web-1", "web-2"]))
    def assign(self, agent: str) -> None:
        assert self.add(*assigned(attempt=len(self.command.attempts) + 1, agent=agent))
        assert self.command.state is State.SENT

    @precondition(lambda self: self.is_open())
    @rule(state=HEARD)
    def hear(self, state: State) -> None:
        """What is no fact: the agent's answers, its silence, its return."""
        attempt = self.open_attempt
        if attempt.state is not State.STOPPING or state is State.UNKNOWN:
            if state is State.ACCEPTED and attempt.state is State.RUNNING:
                return
            self.command.move(attempt, state, EPOCH + 5)

    @precondition(lambda self: self.is_open())
    @rule(state=ENDS)
    def end(self, state: State) -> None:
        self.settle(state, final=True)

    @precondition(lambda self: self.is_open())
    @rule(state=LOSSES)
    def lose(self, state: State) -> None:
        self.settle(state, final=self.command.accepted.on_lost == "error")

    def settle(self, state: State, *, final: bool) -> None:
        number = self.open_attempt.number
        assert self.add(*ended(attempt=number, state=state, final=final))
        if final:
            self.first_end = self.command.state
        else:
            waits = self.command.accepted.on_lost == "wait"
            assert self.command.state is (State.UNKNOWN if waits else State.QUEUED)

    @precondition(lambda self: self.book.get("c1") is not None and self.command.attempts)
    @rule(number=st.integers(1, 4), state=ENDS)
    def hear_late(self, number: int, state: State) -> None:
        attempt = self.command.find(number)
        if attempt is None or attempt.state is not State.LOST or attempt.late:
            return
        before = self.command.state
        is_newest = attempt is self.command.attempts[-1]
        amends = is_newest and (before is State.LOST or self.command.is_undecided)
        assert self.add(*late(attempt=number, state=state))
        assert self.command.state is (state if amends else before)
        assert attempt.late
        self.amended |= amends

    @precondition(lambda self: self.is_state(State.QUEUED, State.UNKNOWN))
    @rule(what=st.sampled_from(["rerun", "fail"]))
    def decide(self, what: str) -> None:
        if not self.command.is_undecided:
            return
        fact = subjects.Fact("c1", len(self.command.attempts), "decided")
        assert self.add(fact, Decided(by="ops", at=EPOCH + 9, what=what))
        if what == "fail":
            assert self.add(*ended(attempt=0, state=State.LOST))
            self.first_end = State.LOST
        else:
            assert self.command.state is State.QUEUED

    @precondition(lambda self: self.is_state(State.QUEUED, State.SENT, State.RUNNING))
    @rule(by=st.sampled_from(["ops", "ann"]))
    def cancel(self, by: str) -> None:
        already = self.command.cancel_by
        self.add(*cancel_asked(by=by))
        assert self.command.cancel_by == (already or by)

    @invariant()
    def an_end_stays_and_only_a_loss_is_amended_once(self) -> None:
        if self.first_end is None:
            return
        assert self.command.state in TERMINAL
        if self.first_end is not State.LOST or not self.amended:
            assert self.command.state is self.first_end

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
        ends = [(each.agent, each.late, each.is_open, each.exit_code) for each in again.attempts]
        assert ends == [
            (each.agent, each.late, each.is_open, each.exit_code) for each in self.command.attempts
        ]
        assert (again.cancel_by, again.outcome) == (self.command.cancel_by, self.command.outcome)
        if again.open_attempt is None:
            assert again.state is self.command.state


TestBook = BookMachine.TestCase
TestBook.settings = settings(
    max_examples=500,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
