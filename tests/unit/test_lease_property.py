"""The promise of agent and master: a task that the master has given up does not run.

The agent's lease and the master's roster run side by side here. Between them is a line that delays
and loses what they say, and each has a clock of its own rate.
"""

import heapq
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker_agent.core.lease import Lease
from broker_master.core.liveness import Roster
from schemas.messages.liveness import Beat, Echo, Hello
from schemas.timers import Timers, check_timers

pytestmark = pytest.mark.deep

AGENT: Final = "a1"
HORIZON_S: Final = 400.0
# Each clock may be off by so much, in opposite directions.
DRIFT: Final = 0.05
# Adding up times costs the last digits.
ROUNDING_S: Final = 1e-6


class Clock(NamedTuple):
    """A clock that runs at its own rate."""

    rate: float
    offset: float

    def at(self, true_s: float) -> float:
        return self.offset + true_s * self.rate

    def true(self, reading: float) -> float:
        return (reading - self.offset) / self.rate


class Span(NamedTuple):
    start: float
    end: float

    def holds(self, true_s: float) -> bool:
        return self.start <= true_s < self.end


class Line(NamedTuple):
    """delays: of one message after the other. up, down: when nothing passes in that direction."""

    delays: list[float]
    up: list[Span]
    down: list[Span]


@dataclass
class Story:
    """One agent with one task, from a handshake on until the master gives the task up."""

    timers: Timers
    agent: Clock
    master: Clock
    line: Line
    sleeps: list[Span]
    jitter: list[float]
    kill_after_s: float = 0.0
    ended_at: float | None = None
    given_up_at: float | None = None
    _events: list[tuple[float, int, str, int]] = field(default_factory=list)
    _count: int = 0

    def run(self) -> None:
        self._begin()
        while self._events and self.given_up_at is None:
            true_s, _, kind, seq = heapq.heappop(self._events)
            if true_s > HORIZON_S:
                return
            getattr(self, f"_on_{kind}")(true_s, seq)

    def runs_at(self, true_s: float) -> bool:
        """Whether the task can do anything; one that would end the moment it wakes, cannot."""
        if self.ended_at is not None and self.ended_at <= true_s + ROUNDING_S:
            return False
        asleep = next((sleep for sleep in self.sleeps if sleep.holds(true_s)), None)
        return asleep is None or self._due_at() > asleep.end + ROUNDING_S

    def _begin(self) -> None:
        self.lease = Lease("inc", self.timers, now=self.agent.at(0))
        self.lease.on_welcome(1, self.timers)
        self.lease.on_done()
        now_s = self.master.at(0)
        self.roster = Roster(self.timers, now_s=now_s - self.timers.adopt_s)
        self.roster.add("g1", AGENT, connected=False, at=0.0, now_s=now_s)
        self.roster.on_hello(AGENT, Hello(incarnation="inc"), now_s=now_s, at=0.0)
        self.roster.on_done(AGENT, "inc", now_s=now_s, at=0.0)
        seq = self.lease.beat(self.agent.at(0))
        self.roster.on_beat(AGENT, Beat(incarnation="inc", seq=seq), now_s=now_s, at=0.0)
        self.lease.on_echo(Echo(epoch=1, incarnation="inc", seq=seq), self.agent.at(0))
        self._plan(self.timers.beat_s / self.agent.rate, "beat")
        self._plan_end()
        self._plan_verdict()

    def _plan(self, true_s: float, kind: str, seq: int = 0) -> None:
        self._count += 1
        heapq.heappush(self._events, (true_s, self._count, kind, seq))

    def _awake(self, true_s: float) -> float:
        """When what is due now is done: a host that sleeps does it first when it wakes."""
        for sleep in sorted(self.sleeps):
            if sleep.holds(true_s):
                true_s = sleep.end
        return true_s

    # The agent.

    def _due_at(self) -> float:
        """When the task has ended unless an echo comes: the deadline, and all of its grace."""
        fence_at = self.lease.fence_at(self.kill_after_s)
        assert fence_at is not None
        return self.agent.true(fence_at + self.timers.grace_s)

    def _plan_end(self) -> None:
        fence_at = self.lease.fence_at(self.kill_after_s)
        assert fence_at is not None
        self._plan(self._awake(self.agent.true(fence_at)), "fence")

    def _on_fence(self, true_s: float, _seq: int) -> None:
        # The wake-up may come a rounding too early; the service adds a millisecond for that.
        now = self.agent.at(true_s) + ROUNDING_S
        if self.ended_at is None and self.lease.has_run_out(self.kill_after_s, now):
            self.ended_at = max(true_s, self._due_at())

    def _on_beat(self, true_s: float, _seq: int) -> None:
        if (awake := self._awake(true_s)) > true_s:
            self._plan(awake, "beat")
            return
        seq = self.lease.beat(self.agent.at(true_s))
        if not any(cut.holds(true_s) for cut in self.line.up):
            self._plan(true_s + self._delay(seq), "heard", seq)
        period_s = self.timers.beat_s * self.jitter[seq % len(self.jitter)]
        self._plan(true_s + period_s / self.agent.rate, "beat")

    def _delay(self, number: int) -> float:
        return self.line.delays[number % len(self.line.delays)]

    def _on_echo(self, true_s: float, seq: int) -> None:
        if (awake := self._awake(true_s)) > true_s:
            self._plan(awake, "echo", seq)
            return
        self._on_fence(true_s, 0)  # what has run out, has run out before this is read
        self.lease.on_echo(Echo(epoch=1, incarnation="inc", seq=seq), self.agent.at(true_s))
        if self.ended_at is None:
            self._plan_end()

    # The master.

    def _on_heard(self, true_s: float, seq: int) -> None:
        now_s = self.master.at(true_s)
        self.roster.on_beat(AGENT, Beat(incarnation="inc", seq=seq), now_s=now_s, at=0.0)
        self._plan_verdict()
        presence = self.roster.get(AGENT)
        assert presence is not None
        if not any(cut.holds(true_s) for cut in self.line.down):
            self._plan(true_s + self._delay(seq + 1), "echo", presence.beat_seq)

    def _plan_verdict(self) -> None:
        self._plan(self.master.true(self._verdict_at()), "verdict")

    def _verdict_at(self) -> float:
        presence = self.roster.get(AGENT)
        assert presence is not None
        return presence.heard_s + self.timers.lost_after_s(self.kill_after_s)

    def _on_verdict(self, true_s: float, _seq: int) -> None:
        if self.master.at(true_s) + ROUNDING_S >= self._verdict_at():
            self.given_up_at = true_s


@st.composite
def timers(draw: st.DrawFn) -> Timers:
    """In the proportions of the defaults, or with more margin; `lost_s` no longer than needed."""
    beat_s = draw(st.sampled_from([0.5, 2.0, 5.0]))
    resends = draw(st.integers(0, 5))
    grace_s = beat_s * draw(st.floats(0.1, 2))
    return check_timers(
        Timers(
            beat_s=beat_s,
            suspect_s=2 * beat_s,
            ack_s=beat_s,
            resends=resends,
            grace_s=grace_s,
            lost_s=2 * beat_s + resends * beat_s + grace_s + beat_s,
            strict=draw(st.booleans()),
        )
    )


def spans(longest_s: float) -> st.SearchStrategy[list[Span]]:
    one = st.tuples(st.floats(0, 120), st.floats(0.1, longest_s))
    return st.lists(one, max_size=3).map(lambda all_: [Span(at, at + long) for at, long in all_])


@st.composite
def stories(draw: st.DrawFn, drift: float = DRIFT) -> Story:
    drift = draw(st.floats(0, drift)) * draw(st.sampled_from([-1, 1]))
    delays = draw(st.lists(st.floats(0, 4), min_size=1, max_size=6))
    return Story(
        timers=draw(timers()),
        agent=Clock(1 + drift, draw(st.floats(0, 1e5))),
        master=Clock(1 - drift, draw(st.floats(0, 1e5))),
        line=Line(delays, draw(spans(150)), draw(spans(150))),
        sleeps=draw(spans(150)),
        jitter=draw(st.lists(st.floats(0.9, 1.1), min_size=1, max_size=5)),
    )


def judge(story: Story) -> None:
    story.run()
    if story.given_up_at is not None:
        assert not story.runs_at(story.given_up_at), (story.given_up_at, story.ended_at)


property_of_stories = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@property_of_stories
@given(stories())
def test_task_does_not_run_when_the_master_gives_it_up(story: Story) -> None:
    """Delays, cuts one way or both, jitter, hosts that sleep, clocks 10 % apart."""
    judge(story)


@property_of_stories
@given(stories(drift=0.001), st.floats(0, 300))
def test_task_with_longer_leave_does_not_run_when_its_time_is_over(
    story: Story, kill_after_s: float
) -> None:
    """The margin is one beat here as well: enough for real clocks over hours, not for 5 %."""
    story.kill_after_s = kill_after_s
    judge(story)


@pytest.mark.parametrize(
    ("agent", "master"),
    [(1 - 2 * DRIFT, 1 + 2 * DRIFT)],
    ids=["clocks too far apart"],
)
def test_simulation_detects_a_broken_promise(agent: float, master: float) -> None:
    timers = Timers()
    cut = [Span(1.0, 1000.0)]
    line = Line([0.0], cut, cut)
    story = Story(timers, Clock(agent, 0.0), Clock(master, 0.0), line, [], [1.0])
    story.run()
    assert story.given_up_at is not None
    assert story.runs_at(story.given_up_at)


@property_of_stories
@given(stories(), st.floats(0, 24))
def test_loss_shorter_than_the_window_costs_nothing(story: Story, loss_s: float) -> None:
    """With the default timers, quick answers and true clocks."""
    story.timers = Timers()
    story.agent = story.master = Clock(1.0, 0.0)
    story.line = Line([0.05], [Span(50, 50 + loss_s)], [Span(50, 50 + loss_s)])
    story.sleeps = []
    story.run()
    assert story.ended_at is None
    assert story.given_up_at is None
