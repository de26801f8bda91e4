"""What agent and master promise together: when the master gives a task up, it has ended.

Both cores run here side by side, with nothing between them but what the test does to their words.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from broker_agent.core.lease import Heard, Lease, Phase
from broker_master.core.liveness import Roster
from schemas.messages.liveness import Beat, Echo, Hello
from schemas.timers import Timers, check_timers

AGENT: Final = "a1"
STEP_S: Final = 0.25


@dataclass
class Host:
    """One side's clock: it runs at its own rate, and knows nothing of the true time."""

    rate: float
    offset: float

    def reads(self, true_s: float) -> float:
        return self.offset + true_s * self.rate


@dataclass
class Task:
    """ended_s: the true time at which nothing of it was left."""

    kill_after_s: float
    ended_s: float | None = None
    kill_due: float | None = None


@dataclass
class World:
    """An agent, a master, and a line between them; `true_s` is a time that neither of them sees."""

    timers: Timers
    agent_clock: Host
    master_clock: Host
    tasks: list[Task]
    true_s: float = 0.0
    lines: dict[str, deque[tuple[float, object]]] = field(default_factory=dict)
    is_asleep: bool = False
    next_beat: float = 0.0
    given_up: dict[float, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lines = {"up": deque(), "down": deque()}
        self.lease = Lease("inc", self.timers, now=self.agent_clock.reads(0))
        self.roster = Roster(self.timers, now_s=self.master_clock.reads(0) - self.timers.adopt_s)
        self.roster.add("g1", AGENT, connected=False, at=0.0, now_s=self.master_clock.reads(0))
        now_s = self.master_clock.reads(0)
        self.lease.on_welcome(1, self.timers)
        self.roster.on_hello(AGENT, Hello(incarnation="inc"), now_s=now_s, at=0.0)
        self.roster.on_done(AGENT, "inc", now_s=now_s, at=0.0)
        self.lease.on_done()
        seq = self.lease.beat(self.agent_clock.reads(0))
        self.hear_beat(Beat(incarnation="inc", seq=seq))
        self.hear_echo(Echo(epoch=1, incarnation="inc", seq=seq))

    def hear_beat(self, beat: Beat) -> Echo:
        now_s = self.master_clock.reads(self.true_s)
        self.roster.on_beat(AGENT, beat, now_s=now_s, at=0.0)
        presence = self.roster.get(AGENT)
        assert presence is not None
        return Echo(epoch=1, incarnation="inc", seq=presence.beat_seq)

    def hear_echo(self, echo: Echo) -> None:
        now = self.agent_clock.reads(self.true_s)
        self.run_tasks(now)  # before anything that has come is read
        self.lease.on_echo(echo, now)

    def run_tasks(self, now: float) -> None:
        """What the watchdog does. A program may use all of its grace."""
        phase = self.lease.on_tick(now)
        for task in self.tasks:
            if task.kill_due is None and self.lease.has_run_out(task.kill_after_s, now):
                fence_at = self.lease.fence_at(task.kill_after_s)
                assert fence_at is not None
                # A timer counts from the moment it is set; a host that slept sets it late.
                task.kill_due = now + self.timers.grace_s
            if task.kill_due is not None and task.ended_s is None and now >= task.kill_due:
                task.ended_s = self.true_s
        if phase is Phase.FENCING and all(t.kill_after_s or t.ended_s for t in self.tasks):
            self.lease.on_fenced()

    def judge(self) -> None:
        """What the master does, and what must be true at that moment."""
        now_s = self.master_clock.reads(self.true_s)
        self.roster.tick(now_s=now_s, at=0.0)
        presence = self.roster.get(AGENT)
        assert presence is not None
        silence_s = now_s - presence.heard_s
        for task in self.tasks:
            if silence_s >= self.timers.lost_after_s(task.kill_after_s):
                self.given_up.setdefault(task.kill_after_s, self.true_s)


# What the clock's drift and one look of the simulation may cost, of the margin of one beat.
DRIFT: Final = 0.05


@st.composite
def timers(draw: st.DrawFn) -> Timers:
    """In the proportions of the defaults, which allow for clocks 5 % apart, or wider ones."""
    beat_s = draw(st.sampled_from([1.0, 2.0, 5.0]))
    found = Timers(
        beat_s=beat_s,
        suspect_s=2 * beat_s * draw(st.floats(1, 1.25)),
        ack_s=beat_s,
        resends=draw(st.integers(0, 5)),
        grace_s=draw(st.floats(0.2, 2)) * beat_s,
        lost_s=10_000,
        strict=draw(st.booleans()),
    )
    needed = found.patient_s + found.grace_s
    # The margin covers both clocks over the whole silence, and two steps of the simulation.
    margin_s = max(beat_s, 2.2 * DRIFT * needed) + 3 * STEP_S
    return check_timers(
        Timers(
            beat_s=beat_s,
            suspect_s=found.suspect_s,
            ack_s=found.ack_s,
            resends=found.resends,
            grace_s=found.grace_s,
            lost_s=needed + margin_s,
            strict=found.strict,
        )
    )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    drift = draw(st.floats(0, DRIFT / 2))
    faster = draw(st.sampled_from([-1, 1]))
    return World(
        timers=draw(timers()),
        agent_clock=Host(1 + faster * drift, draw(st.floats(0, 1e6))),
        master_clock=Host(1 - faster * drift, draw(st.floats(0, 1e6))),
        tasks=[Task(0.0)],
    )


Cut = tuple[float, float, frozenset[str]]  # from, how long, which directions


@st.composite
def cuts(draw: st.DrawFn) -> list[Cut]:
    ways = st.sampled_from([frozenset({"up"}), frozenset({"down"}), frozenset({"up", "down"})])
    return draw(st.lists(st.tuples(st.floats(0, 60), st.floats(1, 120), ways), max_size=3))


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(world=worlds(), cut=cuts(), data=st.data())
def test_task_has_ended_when_the_master_gives_it_up(
    world: World, cut: list[Cut], data: st.DataObject
) -> None:
    """Random delays, one-way cuts, beats with jitter, clocks that drift apart."""
    delay_s = data.draw(st.floats(0, 3), "delay")
    jitter = data.draw(st.lists(st.floats(0.9, 1.1), min_size=1, max_size=8), "jitter")
    beats = 0
    while world.true_s < 200 and not world.given_up:
        down = {way for at, length, ways in cut if at <= world.true_s < at + length for way in ways}
        now = world.agent_clock.reads(world.true_s)
        world.run_tasks(now)
        if now >= world.next_beat:
            seq = world.lease.beat(now)
            if "up" not in down:
                beat = Beat(incarnation="inc", seq=seq)
                world.lines["up"].append((world.true_s + delay_s, beat))
            world.next_beat = now + world.timers.beat_s * jitter[beats % len(jitter)]
            beats += 1
        while world.lines["up"] and world.lines["up"][0][0] <= world.true_s:
            _, beat_heard = world.lines["up"].popleft()
            assert isinstance(beat_heard, Beat)
            echo = world.hear_beat(beat_heard)
            if "down" not in down:
                world.lines["down"].append((world.true_s + delay_s, echo))
        while world.lines["down"] and world.lines["down"][0][0] <= world.true_s:
            _, echo_heard = world.lines["down"].popleft()
            assert isinstance(echo_heard, Echo)
            world.hear_echo(echo_heard)
        world.judge()
        world.true_s += STEP_S
    if world.given_up:
        assert world.tasks[0].ended_s is not None
        assert world.tasks[0].ended_s <= world.given_up[0.0]
