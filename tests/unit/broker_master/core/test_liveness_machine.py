"""The roster against a plain model of it, whatever is heard in whatever order."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker_master.core.liveness import Presence, Roster
from broker_master.core.standing import classify
from schemas.messages.liveness import Beat, Hello
from schemas.messages.registry import AgentEntry
from schemas.states import Liveness
from schemas.timers import Timers

pytestmark = pytest.mark.deep

# Longer than `lost_s`, or it would never be what a verdict waits for.
TIMERS = Timers(adopt_s=80)
AGENT = "web-1"
ENTRY = AgentEntry(name=AGENT, group="web", created_at=1.0, connected=True)
INCARNATIONS = st.sampled_from(["i1", "i2", "i3"])


class RosterMachine(RuleBasedStateMachine):
    """One agent, which may live in several places. `heard`: when the one that counts was heard."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.roster = Roster(TIMERS, now_s=self.now)
        self.roster.add("web", AGENT, connected=False, at=self.now, now_s=self.now)
        self.judge_from = self.now + TIMERS.adopt_s
        self.heard = self.now
        self.present = ""
        self.older: list[str] = []
        self.seq = 0
        self.liveness = Liveness.NEVER
        self.greeted = self.agreed = self.given_up = self.has_left = self.is_cut_off = False

    @property
    def presence(self) -> Presence:
        presence = self.roster.get(AGENT)
        assert presence is not None
        return presence

    def counts(self, incarnation: str) -> bool:
        """Whether it is heard at all: not one that was superseded by another that is still here."""
        has_left = self.liveness is Liveness.SILENT and (self.given_up or self.has_left)
        return incarnation not in self.older or has_left

    def adopt(self, incarnation: str) -> None:
        if incarnation == self.present:
            return
        if self.present:
            self.older.append(self.present)
        if incarnation in self.older:
            self.older.remove(incarnation)
        self.present, self.seq = incarnation, 0
        self.greeted = self.agreed = False

    @rule(seconds=st.floats(0, 8))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tick()

    @rule(seconds=st.floats(8, 200))
    def much_time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tick()

    def tick(self) -> None:
        events = [each.event for each in self.roster.tick(now_s=self.now, at=self.now)]
        expected = [] if self.is_cut_off else self.judged()
        assert events == expected

    def judged(self) -> list[str]:
        expected, silence_s = [], self.now - self.heard
        if self.liveness is Liveness.LIVE and silence_s >= TIMERS.suspect_s:
            self.liveness, self.greeted, self.agreed = Liveness.SILENT, False, False
            self.has_left = False
            expected.append("suspected")
        may_judge = silence_s >= TIMERS.lost_s and self.now >= self.judge_from
        if self.liveness is Liveness.SILENT and not self.given_up and may_judge:
            self.given_up = True
            expected.append("given_up")
        return expected

    @rule(incarnation=INCARNATIONS, is_new=st.booleans(), goodbye=st.booleans())
    def beat(self, incarnation: str, *, is_new: bool, goodbye: bool) -> None:
        known = incarnation == self.present
        seq = (self.seq if known else 0) + is_new
        beat = Beat(incarnation=incarnation, seq=seq, goodbye=goodbye and is_new)
        self.roster.on_beat(AGENT, beat, now_s=self.now, at=self.now)
        if not self.counts(incarnation) or (known and not is_new):
            return
        self.adopt(incarnation)
        self.heard, self.seq = self.now, seq
        if goodbye and is_new:
            self.liveness, self.has_left = Liveness.SILENT, True
            self.greeted = self.agreed = False

    @rule(incarnation=INCARNATIONS)
    def hello(self, incarnation: str) -> None:
        self.roster.on_hello(AGENT, Hello(incarnation=incarnation), now_s=self.now, at=self.now)
        if self.counts(incarnation):
            self.adopt(incarnation)
            self.heard, self.greeted, self.agreed = self.now, True, False

    @rule(incarnation=INCARNATIONS)
    def done(self, incarnation: str) -> None:
        changes = self.roster.on_done(AGENT, incarnation, now_s=self.now, at=self.now)
        is_end = incarnation == self.present and self.greeted and not self.agreed
        assert [each.event for each in changes] == ["returned"] * is_end
        if is_end:
            self.agreed, self.given_up, self.has_left = True, False, False
            self.liveness, self.heard = Liveness.LIVE, self.now

    @rule()
    def master_is_cut_off(self) -> None:
        self.roster.on_cut_off()
        self.is_cut_off = True

    @rule()
    def master_is_back(self) -> None:
        self.roster.on_rejoined(now_s=self.now)
        self.is_cut_off, self.heard = False, self.now
        self.judge_from = self.now + TIMERS.adopt_s

    @invariant()
    def only_the_one_that_counts_is_present(self) -> None:
        assert self.presence.incarnation == self.present
        assert self.present not in self.presence.older
        assert self.presence.heard_s == self.heard

    @invariant()
    def it_is_what_was_heard_of_it(self) -> None:
        presence = self.presence
        assert (presence.liveness, presence.given_up) == (self.liveness, self.given_up)
        assert (presence.reconciled, presence.greeted) == (self.agreed, self.greeted)

    @invariant()
    def work_goes_only_to_whom_an_agreement_was_made_with(self) -> None:
        if classify(ENTRY, self.presence, self.now).takes_work:
            assert self.agreed
            assert self.liveness is Liveness.LIVE

    @invariant()
    def nobody_is_given_up_who_may_still_run_something(self) -> None:
        left_s = self.roster.given_up_in_s(self.presence, now_s=self.now)
        assert left_s >= TIMERS.lost_s - (self.now - self.heard) - 1e-6


TestRoster = RosterMachine.TestCase
TestRoster.settings = settings(
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
