"""The lease against a plain model, for events in any order."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker_agent.core.lease import EchoEffect, Lease, LeasePhase
from schemas.messages.liveness import Echo
from schemas.timers import Timers

pytestmark = pytest.mark.deep

USUAL = Timers()
LEAVES = (0.0, 20.0, 60.0, 7200.0)


class LeaseMachine(RuleBasedStateMachine):
    """sent: send time of each heartbeat. renewed: newest heartbeat named by an echo."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.lease = Lease("inc", USUAL, now=self.now, epoch=1)
        self.timers = USUAL
        self.epoch = 1
        self.sent = {0: self.now}
        self.renewed = 0
        self.agreed = False
        self.is_ending = False
        self.ended: set[float] = set()

    @rule(seconds=st.floats(0, 12))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.look()

    @rule(seconds=st.floats(30, 10_000))
    def host_sleeps(self, seconds: float) -> None:
        self.now += seconds
        self.look()

    def look(self) -> None:
        """Tick as the watchdog does, at each turn and before each message."""
        before = self.lease.phase
        phase = self.lease.on_tick(self.now)
        if phase is LeasePhase.FENCING and before is not LeasePhase.FENCING:
            self.is_ending = True
        if phase is not LeasePhase.LINKED:
            self.agreed = self.agreed and before is phase
        self.ended |= {leave for leave in LEAVES if self.lease.has_run_out(leave, self.now)}

    @rule()
    def beat(self) -> None:
        seq = self.lease.beat(self.now)
        assert seq == max(self.sent) + 1
        self.sent[seq] = self.now

    @rule(data=st.data(), reconciled=st.booleans())
    def echo(self, data: st.DataObject, *, reconciled: bool) -> None:
        self.look()
        seq = data.draw(st.sampled_from(sorted(self.sent)))
        echo = Echo(epoch=self.epoch, incarnation="inc", seq=seq, reconciled=reconciled)
        heard = self.lease.on_echo(echo, self.now)
        assert heard is (EchoEffect.RENEWED if seq else EchoEffect.UNKNOWN_BEAT)
        if seq > self.renewed:
            self.renewed = seq
            self.ended.clear()
        self.agreed = self.agreed and self.lease.reconciled

    @rule(bad=st.sampled_from(["epoch", "incarnation", "seq"]))
    def echo_that_is_not_for_us(self, bad: str) -> None:
        self.look()
        renewed = self.lease.renewed_at
        echo = Echo(
            epoch=self.epoch - (bad == "epoch"),
            incarnation="other" if bad == "incarnation" else "inc",
            seq=max(self.sent) + 1,
        )
        assert self.lease.on_echo(echo, self.now) is not EchoEffect.RENEWED
        assert self.lease.renewed_at == renewed

    @rule(strict=st.booleans())
    def welcome(self, *, strict: bool) -> None:
        if self.lease.phase is LeasePhase.FENCING:
            return  # the handshake waits for the end of fencing
        self.timers = Timers(strict=strict)
        assert self.lease.on_welcome(self.epoch, self.timers)
        self.look()

    @rule()
    def welcome_of_a_master_that_was_replaced(self) -> None:
        assert not self.lease.on_welcome(self.epoch - 1, Timers(beat_s=99))
        assert self.lease.timers is self.timers

    @rule()
    def new_master(self) -> None:
        self.look()
        self.epoch += 1
        seq = max(self.sent)
        self.lease.on_echo(Echo(epoch=self.epoch, incarnation="inc", seq=seq), self.now)
        if seq:
            assert not self.lease.reconciled
            self.agreed = False
            if seq > self.renewed:
                self.renewed = seq
                self.ended.clear()
        else:
            self.epoch -= 1

    @precondition(lambda self: self.lease.phase is not LeasePhase.FENCING)
    @rule()
    def handshake_ends(self) -> None:
        self.lease.on_done()
        self.agreed = True

    @rule()
    def connection_is_lost(self) -> None:
        self.lease.on_disconnected()
        self.agreed = False

    @rule()
    def tasks_have_ended(self) -> None:
        self.lease.on_fenced()
        self.is_ending = False

    @invariant()
    def work_is_taken_only_with_a_young_lease_and_an_agreement(self) -> None:
        if self.lease.is_linked:
            assert self.agreed
            assert self.renewed
            assert self.lease.on_tick(self.now) is LeasePhase.LINKED
            assert self.now - self.sent[self.renewed] < self.timers.suspect_s

    @invariant()
    def deadline_counts_from_when_the_echoed_beat_was_sent(self) -> None:
        for leave in LEAVES:
            fence_at = self.lease.fence_at(leave)
            if not self.renewed:
                assert fence_at is None
                continue
            usual_s = self.timers.suspect_s if self.timers.strict else 35.0
            assert fence_at == self.sent[self.renewed] + max(usual_s, leave)
            assert self.lease.has_run_out(leave, self.now) == (self.now >= fence_at)

    @invariant()
    def who_has_more_leave_never_ends_before_who_has_less(self) -> None:
        out = [self.lease.has_run_out(leave, self.now) for leave in LEAVES]
        assert out == sorted(out, reverse=True)

    @invariant()
    def an_ending_that_has_begun_is_not_undone(self) -> None:
        assert (self.lease.phase is LeasePhase.FENCING) == self.is_ending

    @invariant()
    def nobody_wakes_too_late(self) -> None:
        change_at = self.lease.next_change_at()
        if change_at is not None and self.lease.phase is LeasePhase.LINKED:
            assert change_at == self.sent[self.renewed] + self.timers.suspect_s
        if change_at is not None and self.lease.phase is LeasePhase.SUSPECT:
            assert change_at == self.lease.fence_at()


TestLease = LeaseMachine.TestCase
TestLease.settings = settings(
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
