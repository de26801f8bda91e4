"""State machine of one program: events in any order, and each move by itself."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker_agent.core.program import (
    GIVE_UP_S,
    POLL_MAX_S,
    POLL_S,
    Do,
    Ending,
    Program,
    ProgramEffect,
    ProgramPhase,
)
from schemas.states import State

USUAL_S = 10.0
GRACES = st.none() | st.sampled_from([-1.0, 0.0, 0.5, 20.0])


def made(timeout_s: float | None = None) -> Program:
    return Program(lambda: USUAL_S, timeout_s)


def running(timeout_s: float | None = None) -> Program:
    program = made(timeout_s)
    program.on_started(0.0)
    return program


def looking() -> Program:
    program = running()
    program.on_exited(0)
    return program


def ends(effects: list[ProgramEffect]) -> Ending:
    assert [effect.do for effect in effects] == [Do.END]
    assert effects[0].ending is not None
    return effects[0].ending


def test_program_without_orphans_ends_with_its_exit_code() -> None:
    program = made()
    assert program.on_started(0.0) == []
    assert program.on_exited(0) == [ProgramEffect(Do.STOP_LIMIT), ProgramEffect(Do.LOOK)]
    assert program.trusts_small_look(lives=False)
    assert not program.trusts_small_look(lives=True)
    assert ends(program.on_looked(found=False, now=1.0)) == Ending(State.SUCCEEDED, 0, "")
    assert program.phase is ProgramPhase.ENDED


def test_exit_code_and_signal_are_reported() -> None:
    program = running()
    program.on_exited(3)
    assert ends(program.on_looked(found=False, now=1.0)) == Ending(State.FAILED, 3, "")
    program = running()
    program.on_exited(137, "SIGKILL")
    ending = Ending(State.FAILED, 137, "ended by signal SIGKILL")
    assert ends(program.on_looked(found=False, now=1.0)) == ending


def test_failed_start_reports_its_reason_or_the_stop() -> None:
    assert ends(made().on_unstarted(127, "not found")) == Ending(State.FAILED, 127, "not found")
    program = made()
    program.on_stop(State.CANCELLED, "by ann", None, 0.0)
    assert not program.is_wanted
    assert ends(program.on_unstarted(127, "not found")) == Ending(State.CANCELLED, None, "by ann")


def test_start_that_hangs_is_abandoned_after_its_grace() -> None:
    program = made()
    assert program.on_stop(State.CANCELLED, "x", None, 0.0) == [
        ProgramEffect(Do.ABANDON_AT, USUAL_S + GIVE_UP_S)
    ]
    assert program.on_stop(State.CANCELLED, "y", 20.0, 0.0) == [], "the shortest counts"
    assert program.on_stop(State.CANCELLED, "y", 1.0, 0.0) == [
        ProgramEffect(Do.ABANDON_AT, 1 + GIVE_UP_S)
    ]
    assert program.on_kill(0.5) == [ProgramEffect(Do.ABANDON_AT, 0.5 + GIVE_UP_S)]
    assert ends(program.on_abandoned()) == Ending(State.CANCELLED, None, "x")
    assert running().on_abandoned() == []


def test_grace_of_a_slow_start_counts_from_the_stop() -> None:
    program = made()
    program.on_stop(State.CANCELLED, "x", 4.0, 1.0)
    assert program.on_started(3.0) == [ProgramEffect(Do.TERM), ProgramEffect(Do.KILL_AT, 5.0)]
    program = made()
    program.on_kill(1.0)
    assert program.on_started(3.0) == [ProgramEffect(Do.KILL)]


def test_timeout_counts_from_the_start() -> None:
    program = made(7.0)
    assert program.on_started(3.0) == [ProgramEffect(Do.LIMIT_AT, 10.0)]
    assert program.on_limit(10.0) == [
        ProgramEffect(Do.TERM),
        ProgramEffect(Do.KILL_AT, 10.0 + USUAL_S),
    ]
    program.on_exited(143, "SIGTERM")
    ending = Ending(State.TIMED_OUT, 143, "ran longer than timeout_s (7)")
    assert ends(program.on_looked(found=False, now=11.0)) == ending


def test_stop_sends_term_once_and_later_stops_only_shorten_the_grace() -> None:
    program = running()
    stopped = program.on_stop(State.CANCELLED, "x", None, 1.0)
    assert stopped == [ProgramEffect(Do.TERM), ProgramEffect(Do.KILL_AT, 1.0 + USUAL_S)]
    assert program.on_stop(State.KILLED_FENCED, "y", None, 2.0) == []
    assert program.on_stop(State.KILLED_FENCED, "y", 30.0, 2.0) == []
    assert program.on_stop(State.KILLED_FENCED, "y", 3.0, 2.0) == [ProgramEffect(Do.KILL_AT, 5.0)]
    assert program.on_stop(State.KILLED_FENCED, "y", -3.0, 2.0) == [ProgramEffect(Do.KILL_AT, 2.0)]
    program.on_exited(0)
    assert ends(program.on_looked(found=False, now=3.0)) == Ending(State.CANCELLED, 0, "x")


def test_stop_without_grace_kills() -> None:
    assert running().on_stop(State.KILLED_FENCED, "x", 0.0, 1.0) == [ProgramEffect(Do.KILL)]
    assert running().on_kill(1.0) == [ProgramEffect(Do.KILL)]


def test_second_stop_keeps_its_deadline_after_the_default_grace_shrank() -> None:
    usual = [10.0]
    program = Program(lambda: usual[0], None)
    program.on_started(0.0)
    program.on_exited(0)
    program.on_looked(found=True, now=1.0)
    usual[0] = 2.0
    assert program.on_stop(State.CANCELLED, "x", None, 1.5) == [ProgramEffect(Do.TERM)]


def test_stopped_program_gets_no_second_term_for_its_orphans() -> None:
    program = running()
    program.on_stop(State.CANCELLED, "x", None, 0.0)
    program.on_exited(0)
    assert program.on_looked(found=True, now=1.0) == [ProgramEffect(Do.LOOK_AT, 1.0 + POLL_S)]


def test_orphans_get_one_term_then_kill() -> None:
    program = looking()
    assert program.on_looked(found=True, now=1.0) == [
        ProgramEffect(Do.TERM),
        ProgramEffect(Do.KILL_AT, 1.0 + USUAL_S),
        ProgramEffect(Do.LOOK_AT, 1.0 + POLL_S),
    ]
    assert program.on_looked(found=True, now=1.1) == [ProgramEffect(Do.LOOK_AT, 1.1 + 2 * POLL_S)]
    for _ in range(9):
        program.on_looked(found=True, now=1.5)
    assert program.on_looked(found=True, now=2.0) == [ProgramEffect(Do.LOOK_AT, 2.0 + POLL_MAX_S)]
    assert program.on_kill_due(11.0) == [
        ProgramEffect(Do.KILL),
        ProgramEffect(Do.LOOK_AT, 11.0 + POLL_S),
    ]
    assert program.on_kill_due(11.0) == [ProgramEffect(Do.KILL)]
    program.on_looked(found=True, now=11.0)
    assert program.on_looked(found=True, now=11.0) == [ProgramEffect(Do.LOOK_AT, 11.0 + POLL_S)]
    assert ends(program.on_looked(found=False, now=12.0)) == Ending(State.SUCCEEDED, 0, "")


def test_orphans_outside_the_group_of_a_stopped_program_get_no_grace() -> None:
    program = looking()
    assert not program.kills_on_sight(lives=False)
    program.on_stop(State.CANCELLED, "x", None, 1.0)
    assert program.kills_on_sight(lives=False)
    assert not program.kills_on_sight(lives=True)
    assert not program.trusts_small_look(lives=False)


def test_killed_program_that_the_kernel_keeps_is_given_up() -> None:
    program = looking()
    program.on_kill(1.0)
    assert not program.gives_up(1.0 + GIVE_UP_S)
    assert program.gives_up(1.1 + GIVE_UP_S)
    assert not looking().gives_up(1e9)


class Machine(RuleBasedStateMachine):
    """Any order of an executor's events: one end, and a stop leads to a kill."""

    @initialize(timeout_s=st.none() | st.just(5.0))
    def make(self, timeout_s: float | None) -> None:
        self.program = made(timeout_s)
        self.now = 0.0
        self.timers: dict[Do, float] = {}
        self.endings: list[Ending] = []
        self.stops: list[State] = []
        self.killed = False

    def perform(self, effects: list[ProgramEffect]) -> None:
        for effect in effects:
            assert not self.endings, "nothing is done after the end"
            if effect.do is Do.END:
                assert effect.ending is not None
                self.endings.append(effect.ending)
                self.timers.clear()
            elif effect.do is Do.STOP_LIMIT:
                self.timers.pop(Do.LIMIT_AT, None)
            elif effect.do is Do.KILL:
                self.killed = True
                self.timers.pop(Do.KILL_AT, None)
            elif effect.at:
                if effect.do in (Do.KILL_AT, Do.ABANDON_AT):
                    assert effect.at <= self.timers.get(effect.do, 1e9), "never moved away"
                self.timers[effect.do] = effect.at

    def is_in(self, *phases: ProgramPhase) -> bool:
        return self.program.phase in phases

    @precondition(lambda self: self.is_in(ProgramPhase.STARTING))
    @rule()
    def starts(self) -> None:
        self.timers.pop(Do.ABANDON_AT, None)
        self.perform(self.program.on_started(self.now))

    @precondition(lambda self: self.is_in(ProgramPhase.STARTING))
    @rule()
    def cannot_start(self) -> None:
        self.perform(self.program.on_unstarted(127, "no"))

    @rule(state=st.sampled_from([State.CANCELLED, State.KILLED_FENCED]), grace_s=GRACES)
    def is_stopped(self, state: State, grace_s: float | None) -> None:
        if not self.endings:
            self.stops.append(state)
        self.perform(self.program.on_stop(state, "asked", grace_s, self.now))

    @rule()
    def is_killed(self) -> None:
        if not self.endings:
            self.stops.append(State.CANCELLED)
        self.perform(self.program.on_kill(self.now))

    @precondition(lambda self: self.is_in(ProgramPhase.RUNNING))
    @rule(code=st.sampled_from([0, 1]))
    def exits(self, code: int) -> None:
        self.perform(self.program.on_exited(code))

    @precondition(lambda self: self.is_in(ProgramPhase.LOOKING))
    @rule(found=st.booleans())
    def is_looked_for(self, *, found: bool) -> None:
        self.timers.pop(Do.LOOK_AT, None)
        self.perform(self.program.on_looked(found=found, now=self.now))

    @precondition(lambda self: self.timers)
    @rule()
    def time_passes(self) -> None:
        do = min(self.timers, key=lambda each: self.timers[each])
        self.now = max(self.now, self.timers.pop(do))
        if do is Do.KILL_AT:
            self.perform(self.program.on_kill_due(self.now))
        elif do is Do.LIMIT_AT:
            if not self.stops:
                self.stops.append(State.TIMED_OUT)
            self.perform(self.program.on_limit(self.now))
        elif do is Do.ABANDON_AT:
            self.perform(self.program.on_abandoned())

    @invariant()
    def it_ends_once_and_for_the_first_reason(self) -> None:
        if not hasattr(self, "program"):
            return
        assert len(self.endings) == (self.program.phase is ProgramPhase.ENDED)
        if self.endings and self.stops:
            assert self.endings[0].state is self.stops[0]

    @invariant()
    def what_was_stopped_will_be_killed_or_abandoned(self) -> None:
        if hasattr(self, "program") and self.stops and not self.endings:
            due = Do.ABANDON_AT if self.is_in(ProgramPhase.STARTING) else Do.KILL_AT
            assert self.killed or due in self.timers


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestMachine = Machine.TestCase
