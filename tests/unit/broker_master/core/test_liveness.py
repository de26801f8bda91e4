"""Silence, incarnations and the handshake; times are readings of one clock that the test moves."""

from typing import Any

import pytest

from broker_master.core.liveness import Change, Presence, Roster, Silence
from broker_master.core.standing import Cause, classify
from schemas.messages.liveness import Beat, Details, Hello
from schemas.messages.registry import AgentEntry
from schemas.states import AgentStatus, Liveness
from schemas.timers import Timers
from tests.fake_clock import FakeClock

TIMERS = Timers()
ENTRY = AgentEntry(name="web-1", group="web", created_at=1.0, connected=True)


class Watch:
    """A roster with one agent, `web-1`, and the clock that judges it."""

    def __init__(self, *, connected: bool = False) -> None:
        self.clock = FakeClock()
        self.roster = Roster(TIMERS, now_s=self.clock.elapsed())
        self.seq = 0
        self.add("web-1", connected=connected)

    def add(self, agent: str, *, connected: bool = False) -> Presence:
        at, now_s = self.clock.now(), self.clock.elapsed()
        return self.roster.add("web", agent, connected=connected, at=at, now_s=now_s)

    @property
    def agent(self) -> Presence:
        presence = self.roster.get("web-1")
        assert presence is not None
        return presence

    @property
    def takes_work(self) -> bool:
        return classify(ENTRY, self.agent, self.clock.now()).takes_work

    def _times(self) -> dict[str, float]:
        return {"now_s": self.clock.elapsed(), "at": self.clock.now()}

    def beat(self, incarnation: str = "i1", *, seq: int = 0, **fields: Any) -> list[str]:  # noqa: ANN401
        self.seq = seq or self.seq + 1
        beat = Beat(incarnation=incarnation, seq=self.seq, **{"slots": 4, **fields})
        return kinds(self.roster.on_beat("web-1", beat, **self._times()))

    def hello(self, incarnation: str = "i1", **fields: Any) -> list[str]:  # noqa: ANN401
        hello = Hello(incarnation=incarnation, **{"slots": 4, **fields})
        return kinds(self.roster.on_hello("web-1", hello, **self._times()))

    def done(self, incarnation: str = "i1") -> list[str]:
        return kinds(self.roster.on_done("web-1", incarnation, **self._times()))

    def handshake(self, incarnation: str = "i1") -> list[str]:
        return [*self.hello(incarnation), *self.done(incarnation)]

    def later(self, seconds: float) -> list[str]:
        """Let time pass, then judge."""
        self.clock.advance(seconds)
        return self.tick()

    def tick(self) -> list[str]:
        return kinds(self.roster.tick(**self._times()))

    def live_for(self, seconds: float, incarnation: str = "i1") -> None:
        for _ in range(int(seconds / TIMERS.beat_s)):
            self.clock.advance(TIMERS.beat_s)
            self.beat(incarnation)
            assert self.tick() == []


def kinds(changes: list[Change]) -> list[str]:
    assert all(change.agent == "web-1" for change in changes)
    return [change.event for change in changes]


def test_new_agent_was_never_heard_and_is_never_judged() -> None:
    watch = Watch()
    assert watch.later(10 * TIMERS.lost_s) == []
    assert watch.agent.liveness is Liveness.NEVER


def test_beats_alone_make_nobody_live() -> None:
    watch = Watch()
    watch.beat()
    watch.beat()
    assert watch.agent.liveness is Liveness.NEVER
    assert not watch.takes_work


def test_handshake_makes_an_agent_live_and_its_last_step_is_idempotent() -> None:
    watch = Watch()
    watch.beat()
    assert watch.hello(details=Details(host="h1", pid=7)) == []
    assert not watch.takes_work
    assert watch.done() == ["returned"]
    assert watch.done() == []
    assert watch.takes_work
    assert watch.agent.liveness is Liveness.LIVE
    assert (watch.agent.details.host, watch.agent.slots) == ("h1", 4)


def test_end_of_a_handshake_that_never_began_is_ignored() -> None:
    watch = Watch()
    watch.beat()
    assert watch.done() == []
    assert watch.done("i2") == []
    assert watch.agent.liveness is Liveness.NEVER


def test_silence_makes_suspect_then_lost_each_once() -> None:
    watch = Watch()
    watch.handshake()
    watch.live_for(100)
    assert watch.later(TIMERS.suspect_s - 0.1) == []
    assert watch.later(0.1) == ["suspected"]
    assert (watch.agent.silence, watch.agent.silent_for_s) == (Silence.NO_BEAT, 10)
    assert watch.agent.since == watch.clock.now()
    assert watch.later(TIMERS.lost_s - TIMERS.suspect_s - 0.1) == []
    assert watch.later(0.1) == ["given_up"]
    assert (watch.agent.silence, watch.agent.silent_for_s) == (Silence.LOST, 50)
    assert watch.later(1000) == []


def test_beat_before_the_deadline_keeps_an_agent_live() -> None:
    watch = Watch()
    watch.handshake()
    watch.clock.advance(TIMERS.suspect_s - 0.001)
    watch.beat()
    assert watch.later(TIMERS.suspect_s - 0.001) == []


def test_suspect_comes_back_only_by_a_handshake() -> None:
    watch = Watch()
    watch.handshake()
    assert watch.later(TIMERS.suspect_s) == ["suspected"]
    watch.beat()
    assert (watch.agent.liveness, watch.takes_work) == (Liveness.SILENT, False)
    assert watch.handshake() == ["returned"]
    assert (watch.agent.liveness, watch.takes_work) == (Liveness.LIVE, True)


def test_beats_of_a_suspect_keep_it_from_being_given_up() -> None:
    watch = Watch()
    watch.handshake()
    watch.live_for(100)
    assert watch.later(TIMERS.suspect_s) == ["suspected"]
    watch.live_for(2 * TIMERS.lost_s)
    assert not watch.agent.given_up


def test_given_up_agent_comes_back_and_may_be_given_up_again() -> None:
    watch = Watch()
    watch.handshake()
    watch.later(TIMERS.adopt_s + TIMERS.lost_s)
    assert watch.agent.given_up
    assert watch.handshake() == ["returned"]
    assert not watch.agent.given_up
    assert watch.later(TIMERS.lost_s) == ["suspected", "given_up"]


def test_agent_is_never_given_up_before_the_master_has_waited_adopt_s() -> None:
    watch = Watch(connected=True)
    assert watch.agent.silence is Silence.UNHEARD
    assert watch.later(TIMERS.adopt_s - 0.1) == []
    assert watch.roster.given_up_in_s(watch.agent, now_s=watch.clock.elapsed()) == pytest.approx(
        0.1
    )
    assert watch.later(0.1) == ["given_up"]


def test_agent_whose_silence_begins_late_has_its_own_deadline() -> None:
    """adopt_s protects from judging early; it does not make the judgement come early."""
    watch = Watch()
    watch.handshake()
    watch.live_for(40)
    assert watch.later(TIMERS.suspect_s) == ["suspected"]
    left_s = watch.roster.given_up_in_s(watch.agent, now_s=watch.clock.elapsed())
    assert left_s == TIMERS.lost_s - TIMERS.suspect_s
    assert watch.later(left_s - 0.1) == []
    assert watch.later(0.1) == ["given_up"]


def test_master_that_is_cut_off_judges_nobody() -> None:
    watch = Watch()
    watch.handshake()
    watch.live_for(100)
    watch.roster.on_cut_off()
    assert watch.later(1000) == []
    assert watch.agent.liveness is Liveness.LIVE
    watch.roster.on_rejoined(now_s=watch.clock.elapsed())
    assert watch.tick() == []
    assert watch.later(TIMERS.suspect_s) == ["suspected"]
    assert watch.later(TIMERS.adopt_s - TIMERS.suspect_s - 0.1) == []
    assert watch.later(0.1) == ["given_up"]


def test_silence_before_a_cut_is_forgiven() -> None:
    watch = Watch()
    watch.handshake()
    watch.clock.advance(TIMERS.suspect_s - 0.1)
    watch.roster.on_cut_off()
    watch.roster.on_rejoined(now_s=watch.clock.elapsed())
    assert watch.later(TIMERS.suspect_s - 0.1) == []


def test_new_incarnation_needs_a_handshake_of_its_own() -> None:
    watch = Watch()
    watch.handshake("i1")
    assert watch.beat("i2", seq=1) == ["incarnation"]
    assert not watch.takes_work
    assert watch.done("i1") == []
    assert watch.handshake("i2") == ["returned"]
    assert watch.takes_work


def test_first_incarnation_is_no_change() -> None:
    assert Watch().beat("i1") == []


def test_stale_incarnation_is_ignored_whatever_it_says() -> None:
    watch = Watch()
    watch.handshake("i1")
    watch.beat("i1", seq=50)
    watch.handshake("i2")
    watch.beat("i2", seq=1)
    heard_s = watch.agent.heard_s
    watch.clock.advance(3)
    assert watch.beat("i1", seq=51, goodbye=True) == []
    assert watch.hello("i1") == []
    assert watch.done("i1") == []
    assert (watch.agent.incarnation, watch.agent.beat_seq) == ("i2", 1)
    assert (watch.agent.liveness, watch.agent.heard_s) == (Liveness.LIVE, heard_s)


def test_older_and_repeated_beats_are_ignored() -> None:
    watch = Watch()
    watch.handshake()
    watch.beat(seq=9, slots=4)
    watch.clock.advance(1)
    for seq in (8, 9):
        watch.beat(seq=seq, slots=77)
    assert (watch.agent.beat_seq, watch.agent.slots) == (9, 4)
    assert watch.agent.heard_s == watch.clock.elapsed() - 1


def test_goodbye_ends_the_session_at_once_as_shut_down() -> None:
    watch = Watch()
    watch.handshake()
    assert watch.beat(goodbye=True) == ["goodbye"]
    assert (watch.agent.liveness, watch.agent.silence) == (Liveness.SILENT, Silence.SHUT_DOWN)
    assert not watch.takes_work
    assert watch.later(TIMERS.lost_s) == ["given_up"]
    assert watch.agent.silence is Silence.SHUT_DOWN


def test_agent_that_cannot_hear_the_master_gets_no_work_until_it_does() -> None:
    watch = Watch()
    watch.handshake()
    assert watch.beat(lease_age_s=TIMERS.suspect_s) == []
    assert watch.beat(lease_age_s=TIMERS.suspect_s + 0.1) == ["deaf"]
    assert watch.beat(lease_age_s=TIMERS.suspect_s + 5) == []
    assert (watch.agent.liveness, watch.takes_work) == (Liveness.LIVE, False)
    assert watch.beat(lease_age_s=0.5) == ["hears"]
    assert watch.takes_work


def test_live_agent_that_repeats_its_handshake_has_not_been_away() -> None:
    watch = Watch()
    watch.handshake()
    since, changes = watch.agent.since, watch.agent.changes
    watch.live_for(20)
    assert watch.hello() == []
    standing = classify(ENTRY, watch.agent, watch.clock.now())
    assert (standing.status, standing.cause) == (AgentStatus.ACTIVE, Cause.RESUMING)
    assert not watch.takes_work
    assert watch.hello() == [], "the answer was lost"
    assert watch.done() == ["returned"]
    assert watch.takes_work
    assert (watch.agent.since, watch.agent.changes) == (since, changes)


def test_handshake_that_a_live_agent_does_not_end_is_a_silence_in_the_end() -> None:
    watch = Watch()
    watch.handshake()
    watch.hello()
    for _ in range(int(TIMERS.suspect_s / TIMERS.beat_s)):
        assert classify(ENTRY, watch.agent, 0).cause is Cause.RESUMING
        watch.clock.advance(TIMERS.beat_s)
        watch.beat()
        watch.tick()
    assert classify(ENTRY, watch.agent, 0).cause is Cause.HANDSHAKE


def test_pause_of_the_master_is_no_silence_of_its_agents() -> None:
    watch = Watch()
    watch.handshake()
    watch.live_for(20)
    pause_s = TIMERS.suspect_s - 1
    watch.clock.advance(TIMERS.beat_s + pause_s)
    watch.roster.on_slept(pause_s, now_s=watch.clock.elapsed())
    assert watch.tick() == []
    assert watch.beat(lease_age_s=TIMERS.suspect_s + 2) == [], "it heard no master that stood still"
    assert watch.later(TIMERS.suspect_s) == ["suspected"], "from now on it counts"


def test_deafness_counts_again_once_the_master_has_answered_for_long_enough() -> None:
    watch = Watch()
    watch.handshake()
    watch.roster.on_rejoined(now_s=watch.clock.elapsed())
    assert watch.beat(lease_age_s=TIMERS.suspect_s + 2) == []
    watch.live_for(TIMERS.suspect_s + TIMERS.beat_s)
    assert watch.beat(lease_age_s=TIMERS.suspect_s + 2) == ["deaf"]


def test_last_message_of_an_agent_is_not_moved_by_pauses_of_the_master() -> None:
    watch = Watch()
    watch.handshake()
    spoke_s = watch.clock.elapsed()
    watch.clock.advance(30)
    watch.roster.on_rejoined(now_s=watch.clock.elapsed())
    assert (watch.agent.spoke_s, watch.agent.heard_s) == (spoke_s, spoke_s + 30)


@pytest.mark.parametrize("said", [{"draining": True}, {"lacks": {"disk": "none is left"}}])
def test_agent_that_wants_nothing_new_gets_nothing(said: dict[str, Any]) -> None:
    watch = Watch()
    watch.handshake()
    watch.beat("i1", **said)
    assert not watch.takes_work
    watch.beat()
    assert watch.takes_work


def test_taken_slots_are_no_lack_of_room() -> None:
    watch = Watch()
    watch.handshake()
    watch.beat(full=True, running=2, slots=2)
    assert watch.agent.lacks == {}
    assert watch.takes_work


def test_agent_of_an_older_version_lacks_what_it_does_not_name() -> None:
    watch = Watch()
    watch.handshake()
    watch.beat(full=True, running=1, slots=2)
    assert list(watch.agent.lacks) == ["other"]
    watch.beat(full=True, lacks={"disk": "a", "patience": "b"})
    assert watch.agent.lacks == {"disk": "a", "other": "b"}


def test_strangers_and_those_who_left_are_ignored() -> None:
    watch = Watch()
    watch.handshake()
    watch.roster.remove("web-1")
    watch.roster.remove("web-1")
    assert watch.beat() == []
    assert watch.handshake() == []
    assert watch.later(1000) == []
    assert list(watch.roster) == []


def test_several_agents_are_judged_apart() -> None:
    watch = Watch()
    watch.handshake()
    other = watch.add("web-2")
    hello = Hello(incarnation="x", slots=1)
    times = {"now_s": watch.clock.elapsed(), "at": watch.clock.now()}
    watch.roster.on_hello("web-2", hello, **times)
    watch.roster.on_done("web-2", "x", **times)
    watch.clock.advance(TIMERS.suspect_s)
    watch.beat()
    changes = watch.roster.tick(now_s=watch.clock.elapsed(), at=watch.clock.now())
    assert changes == [Change("web-2", "suspected")]
    assert other.liveness is Liveness.SILENT


def test_agent_that_comes_and_goes_is_unstable_and_one_that_is_moved_is_not() -> None:
    for moves, is_unstable in ((False, True), (True, False)):
        watch = Watch()
        for number in range(4):
            watch.agent.is_moving = moves
            watch.clock.advance(1)
            assert watch.handshake(f"i{number}")[-1] == "returned"
            assert not watch.agent.is_moving, "the next handshake counts again"
        assert watch.agent.is_unstable(watch.clock.now()) is is_unstable


def test_agent_whose_connection_has_ended_gets_nothing_until_it_is_heard() -> None:
    watch = Watch()
    assert kinds(watch.roster.on_closed("web-1")) == [], "it was never live"
    watch.handshake()
    assert watch.takes_work
    assert kinds(watch.roster.on_closed("web-1")) == ["closed"]
    assert not watch.takes_work
    assert kinds(watch.roster.on_closed("web-1")) == []
    assert watch.roster.on_closed("no agent") == []
    assert watch.agent.liveness is Liveness.LIVE, "its tasks are judged by its silence"
    assert watch.beat() == ["takes"]
    assert watch.takes_work
    watch.roster.on_closed("web-1")
    assert watch.later(TIMERS.suspect_s) == ["suspected"]
    assert watch.handshake() == ["returned"]
    assert watch.takes_work


def test_last_beat_of_an_agent_that_leaves_is_no_sign_that_it_takes_work() -> None:
    watch = Watch()
    watch.handshake()
    watch.roster.on_closed("web-1")
    assert watch.beat(goodbye=True) == ["goodbye"]
