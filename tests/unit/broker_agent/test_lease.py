"""The lease: renewal by echoes, expiry, fencing, and stale masters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_agent.core.lease import BEATS_KEPT, EchoEffect, Lease, LeasePhase
from schemas.messages.liveness import Echo
from schemas.timers import Timers

TIMERS = Timers(beat_s=5, suspect_s=10, ack_s=5, resends=5)


def lease_at(now: float = 0.0) -> Lease:
    return Lease("inc", TIMERS, now=now)


def echo(seq: int, *, epoch: int = 1, incarnation: str = "inc", reconciled: bool = True) -> Echo:
    return Echo(epoch=epoch, incarnation=incarnation, seq=seq, reconciled=reconciled)


def linked(now: float = 0.0) -> Lease:
    lease = lease_at(now)
    lease.on_welcome(1, TIMERS)
    lease.on_done()
    assert lease.on_echo(echo(lease.beat(now)), now) is EchoEffect.RENEWED
    return lease


def test_new_agent_has_no_lease() -> None:
    lease = lease_at()
    assert (lease.phase, lease.is_linked, lease.fence_at()) == (LeasePhase.FENCED, False, None)
    assert lease.next_change_at() is None


def test_handshake_and_echo_link() -> None:
    lease = linked()
    assert (lease.phase, lease.is_linked, lease.epoch) == (LeasePhase.LINKED, True, 1)


def test_echo_without_handshake_admits_no_work() -> None:
    lease = lease_at()
    lease.on_echo(echo(lease.beat(0.0)), 0.1)
    assert (lease.phase, lease.is_linked) == (LeasePhase.LINKED, False)


def test_lease_counts_from_the_send_of_the_echoed_heartbeat() -> None:
    lease = linked(100.0)
    seq = lease.beat(105.0)
    lease.on_echo(echo(seq), 109.0)
    assert lease.age_s(110.0) == 5.0
    assert lease.next_change_at() == 115.0
    assert lease.fence_at() == 105.0 + 35.0


def test_silence_leads_to_suspect_then_fencing() -> None:
    lease = linked()
    assert lease.on_tick(9.9) is LeasePhase.LINKED
    assert lease.on_tick(10.0) is LeasePhase.SUSPECT
    assert not lease.is_linked
    assert lease.on_tick(34.9) is LeasePhase.SUSPECT
    assert lease.on_tick(35.0) is LeasePhase.FENCING


def test_echo_in_time_renews_the_lease_but_work_waits_for_a_handshake() -> None:
    lease = linked()
    lease.on_tick(12.0)
    assert lease.on_echo(echo(lease.beat(20.0)), 20.5) is EchoEffect.RENEWED
    assert (lease.phase, lease.is_linked) == (LeasePhase.LINKED, False)
    lease.on_done()
    assert lease.is_linked


def test_echo_after_expiry_undoes_no_fencing() -> None:
    """A host that wakes from suspend may read an echo first: the expired lease stays expired."""
    lease = linked()
    seq = lease.beat(1.0)
    lease.on_echo(echo(seq), 3600.0)
    assert lease.phase is LeasePhase.FENCING
    lease.on_echo(echo(lease.beat(3600.1)), 3600.2)
    assert lease.phase is LeasePhase.FENCING
    lease.on_fenced()
    lease.on_echo(echo(lease.beat(3601.0)), 3601.1)
    assert (lease.phase, lease.is_linked) == (LeasePhase.LINKED, False)


def test_handshake_is_void_after_the_lease_expires() -> None:
    lease = linked()
    lease.on_tick(12.0)
    lease.on_done()
    assert lease.on_tick(40.0) is LeasePhase.FENCING
    lease.on_fenced()
    lease.on_echo(echo(lease.beat(41.0)), 41.1)
    assert (lease.phase, lease.is_linked) == (LeasePhase.LINKED, False)


def test_longer_kill_after_moves_the_deadline_of_its_task_alone() -> None:
    lease = linked()
    assert [lease.fence_at(leave) for leave in (0.0, 20.0, 7200.0)] == [35.0, 35.0, 7200.0]
    assert not lease.has_run_out(7200.0, 7199.9)
    assert lease.has_run_out(7200.0, 7200.0)
    assert not lease_at().has_run_out(0.0, 1e9)


def test_echo_of_an_old_heartbeat_does_not_renew_the_lease() -> None:
    lease = linked()
    first, second = lease.beat(5.0), lease.beat(6.0)
    lease.on_echo(echo(second), 6.5)
    lease.on_echo(echo(first), 7.0)
    assert lease.age_s(7.0) == 1.0


@pytest.mark.parametrize(
    ("bad", "heard"),
    [
        (echo(1, epoch=0), EchoEffect.STALE_EPOCH),
        (echo(1, incarnation="other"), EchoEffect.OTHER_INCARNATION),
        (echo(99), EchoEffect.UNKNOWN_BEAT),
        (echo(0), EchoEffect.UNKNOWN_BEAT),
    ],
)
def test_echo_for_another_incarnation_renews_nothing(bad: Echo, heard: EchoEffect) -> None:
    lease = linked()
    assert lease.on_echo(bad, 9.0) is heard
    assert lease.age_s(9.0) == 9.0


def test_new_epoch_requires_a_handshake_and_fences_the_old_master() -> None:
    lease = linked()
    lease.on_echo(echo(lease.beat(1.0), epoch=2), 1.0)
    assert (lease.epoch, lease.is_linked) == (2, False)
    assert lease.on_echo(echo(lease.beat(2.0), epoch=1), 2.0) is EchoEffect.STALE_EPOCH
    assert not lease.on_welcome(1, TIMERS)


def test_echo_sent_before_the_end_of_a_handshake_begins_no_other() -> None:
    lease = lease_at()
    before = lease.beat(0.0)
    lease.on_welcome(1, TIMERS)
    lease.on_done()
    lease.on_echo(echo(before, reconciled=False), 0.1)
    assert lease.reconciled
    lease.on_echo(echo(lease.beat(0.2), reconciled=False), 0.3)
    assert not lease.reconciled


def test_remembered_heartbeats_are_bounded() -> None:
    lease = lease_at()
    for now in range(BEATS_KEPT + 10):
        lease.beat(float(now))
    assert lease.sent_at(1) is None
    assert lease.sent_at(BEATS_KEPT + 10) == BEATS_KEPT + 9.0
    assert len(lease._sent) == BEATS_KEPT


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["beat", "echo", "old_echo", "tick", "done", "fenced", "disconnect"]),
        st.floats(min_value=0.0, max_value=20.0),
    ),
    max_size=60,
)


@given(EVENTS)
def test_work_is_accepted_only_before_the_master_declares_the_agent_lost(
    events: list[tuple[str, float]],
) -> None:
    """The master receives a heartbeat after its send, and declares a loss `lost_s` later."""
    lease = lease_at()
    now, heard_at = 0.0, None
    sent: list[float] = []
    for event, pause in events:
        now += pause
        if event == "beat":
            lease.beat(now)
            sent.append(now)
        elif event in {"echo", "old_echo"} and sent:
            seq = len(sent) if event == "echo" else 1
            before = lease.on_tick(now)
            lease.on_echo(echo(seq), now)
            heard_at = max(sent[seq - 1], heard_at or 0.0)
            assert (lease.phase is LeasePhase.FENCING) >= (before is LeasePhase.FENCING)
        elif event == "done":
            lease.on_done()
        elif event == "fenced":
            lease.on_fenced()
        elif event == "disconnect":
            lease.on_disconnected()
        phase = lease.on_tick(now)
        if phase is LeasePhase.LINKED:
            assert heard_at is not None
            assert now - heard_at < TIMERS.suspect_s
        if phase is LeasePhase.SUSPECT:
            assert heard_at is not None
            assert now - heard_at < TIMERS.unrecoverable_s
        assert lease.is_linked <= (phase is LeasePhase.LINKED)
