"""Epochs only grow, whatever the clock says, and a restore leaves all earlier masters behind."""

from hypothesis import given
from hypothesis import strategies as st

from broker_master.core.epochs import EPOCH_MAX, MOMENTS, generation_of, next_epoch

NOW_S = 1_800_000_000.0
EPOCHS = st.integers(0, EPOCH_MAX - 1)
CLOCKS = st.floats(-1e12, 1e12)


@given(known=EPOCHS, now_s=CLOCKS, is_restored=st.booleans())
def test_epoch_grows_by_any_clock(known: int, now_s: float, is_restored: bool) -> None:
    assert known < next_epoch(known, now_s, is_restored=is_restored) <= EPOCH_MAX


@given(starts=st.integers(1, 50), saved=st.integers(0, 1000))
def test_copy_of_the_state_is_newer_than_the_masters_that_ran_since(
    starts: int, saved: int
) -> None:
    """Each start takes a second at least, or else its clock stands."""
    epoch = saved
    for second in range(starts):
        epoch = next_epoch(epoch, NOW_S + second)
    assert next_epoch(saved, NOW_S + starts) > epoch


@given(saved=EPOCHS.filter(lambda epoch: generation_of(epoch) < 2**20), later_s=st.floats(0, 1e9))
def test_old_master_that_starts_after_a_restore_is_behind_it(saved: int, later_s: float) -> None:
    restored = next_epoch(saved, NOW_S, is_restored=True)
    assert generation_of(restored) > generation_of(saved)
    assert next_epoch(saved, NOW_S + later_s) < restored


def test_second_restore_of_one_backup_is_ahead_of_the_first() -> None:
    first = next_epoch(7, NOW_S, is_restored=True)
    for _ in range(5):
        first = next_epoch(first, NOW_S + 60)
    assert next_epoch(7, NOW_S + 2 * 3600, is_restored=True) > first


def test_epoch_of_an_earlier_release_is_followed_by_the_time_of_day() -> None:
    assert next_epoch(3, NOW_S) == int(NOW_S) < MOMENTS
