"""Renewal of a certificate: due times, steps, and retries after failures."""

import pytest

from broker_agent.core.renewal_steps import RenewalStep, RenewalSteps

DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("life_s", "chance", "share"),
    [
        (90 * DAY_S, 0.5, 2 / 3),
        (90 * DAY_S, 0.0, 2 / 3 - 0.1),
        (90 * DAY_S, 1.0, 2 / 3 + 0.1),
        (60.0, 0.5, 1 / 2),
        (60.0, 1.0, 0.6),
    ],
)
def test_renewal_is_due_with_jitter_at_two_thirds_of_the_life_or_half_of_a_short_one(
    life_s: float, chance: float, share: float
) -> None:
    renewal = RenewalSteps(1000.0, 1000.0 + life_s, chance=chance)
    assert renewal.next_at() == pytest.approx(1000.0 + share * life_s)


def test_steps_of_a_renewal_follow_each_other_and_the_new_life_counts() -> None:
    renewal = RenewalSteps(0.0, 90.0, chance=0.5)
    assert renewal.begin() is RenewalStep.ASK
    renewal.on_answered()
    assert renewal.begin() is RenewalStep.MOVE
    renewal.on_moved(100.0, 190.0, chance=0.5)
    assert renewal.begin() is RenewalStep.CONFIRM
    renewal.on_confirmed()
    assert (renewal.step, renewal.next_at(), renewal.not_after) == (RenewalStep.REST, 145.0, 190.0)


@pytest.mark.parametrize(("life_s", "pause_s"), [(90 * DAY_S, 3600.0), (60.0, 3.0)])
def test_failed_step_is_retried_within_an_hour_or_a_part_of_a_short_life(
    life_s: float, pause_s: float
) -> None:
    renewal = RenewalSteps(0.0, life_s, chance=0.5)
    renewal.begin()
    renewal.on_failed("no answer", 100.0)
    assert (renewal.step, renewal.failed) == (RenewalStep.ASK, "no answer")
    assert renewal.next_at() == pytest.approx(100.0 + pause_s)


def test_unfit_candidate_is_replaced_and_an_unreachable_one_is_retried() -> None:
    renewal = RenewalSteps(0.0, 90.0, chance=0.5, step=RenewalStep.MOVE)
    renewal.on_failed("no answer", 10.0)
    steps = [renewal.step]
    renewal.on_failed("refused", 10.0, is_unfit=True)
    assert [*steps, renewal.step] == [RenewalStep.MOVE, RenewalStep.ASK]


def test_ordered_renewal_is_due_at_once_and_clears_the_failure() -> None:
    renewal = RenewalSteps(0.0, 90 * DAY_S, chance=0.5)
    renewal.begin()
    renewal.on_failed("no answer", 100.0)
    renewal.order()
    assert (renewal.next_at(), renewal.failed) == (0.0, "")


def test_step_interrupted_by_a_lost_connection_is_retried_soon_after_the_reconnect() -> None:
    renewal = RenewalSteps(0.0, 90 * DAY_S, chance=0.5)
    renewal.begin()
    renewal.on_failed("connection lost", 100.0)
    renewal.on_reconnected(101.0, chance=0.5)
    assert renewal.next_at() == pytest.approx(103.5)
    renewal.on_confirmed()
    renewal.on_reconnected(102.0, chance=0.5)
    assert renewal.next_at() == pytest.approx(60 * DAY_S)


def test_step_that_fails_after_the_reconnect_is_retried_soon_once() -> None:
    """Its request was sent before the reconnect, so the failure is not of the new connection."""
    renewal = RenewalSteps(0.0, 90 * DAY_S, chance=0.5)
    renewal.begin()
    renewal.on_reconnected(100.0, chance=0.5)
    renewal.on_failed("no answer", 101.0)
    assert renewal.next_at() == pytest.approx(103.5)
    renewal.begin()
    renewal.on_failed("no answer", 104.0)
    assert renewal.next_at() == pytest.approx(104.0 + 3600.0)
