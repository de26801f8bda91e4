"""When a group commit waits for company."""

import pytest

from broker_client.runtime.rates import Gathering


def steady(per_s: float, *, until: float = 1.0) -> Gathering:
    gathering = Gathering(wait_s=0.008, patient_s=0.06)
    now = 0.0
    while now < until:
        gathering.note_write(int(per_s * 0.02), now)
        now += 0.02
    return gathering


def test_batch_does_not_wait_for_a_trickle() -> None:
    assert steady(250).wait_s(1, 1.0, patient=False) == 0


def test_steady_stream_is_waited_for() -> None:
    assert steady(1000).wait_s(1, 1.0, patient=False) == pytest.approx(0.008)


def test_full_batch_goes_at_once() -> None:
    assert steady(1000).wait_s(32, 1.0, patient=False) == 0


def test_vain_wait_is_the_last_for_a_second() -> None:
    gathering = steady(1000)
    assert gathering.wait_s(1, 1.0, patient=False)
    gathering.note_wait(0, 1.01)
    assert gathering.wait_s(1, 1.9, patient=False) == 0
    assert gathering.wait_s(1, 2.02, patient=False)


def test_wait_that_brought_much_is_repeated() -> None:
    gathering = steady(1000)
    assert gathering.wait_s(1, 1.0, patient=False)
    gathering.note_wait(8, 1.01)
    assert gathering.wait_s(1, 1.02, patient=False)


def test_backlog_makes_longer_waits_for_more() -> None:
    gathering = steady(1000)
    assert gathering.wait_s(40, 1.0, patient=True) == pytest.approx(0.06)
    assert gathering.enough == 240


def test_rate_falls_when_nothing_comes() -> None:
    gathering = steady(1000)
    gathering.note_write(1, 3.0)
    assert gathering.wait_s(1, 3.0, patient=False) == 0
