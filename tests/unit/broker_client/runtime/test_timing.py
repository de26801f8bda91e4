"""Clock, back-off and rates: decisions about time, without any passing."""

import re
import time

import pytest

from broker_client.runtime.backoff import Backoff
from broker_client.runtime.clock import Clock, SystemClock
from broker_client.runtime.rates import TokenBucket
from schemas.moments import rfc3339
from tests.fake_clock import FakeClock


@pytest.mark.parametrize("clock", [SystemClock(), FakeClock()], ids=["system", "fake"])
def test_clock_never_goes_back(clock: Clock) -> None:
    readings = [clock.elapsed() for _ in range(100)]
    assert readings == sorted(readings)
    assert clock.now() > 1.5e9


def test_system_clock_counts_time_in_suspension() -> None:
    """The monotonic clock stands still meanwhile, so on Linux it is not the one to take."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    read = SystemClock().elapsed()
    assert before <= read <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_fake_clock_moves_only_on_request_and_its_deadlines_ignore_the_wall() -> None:
    clock = FakeClock(elapsed=10, now=100)
    clock.advance(2.5)
    assert (clock.elapsed(), clock.now()) == (12.5, 102.5)
    clock.set_wall(5)
    assert (clock.elapsed(), clock.now()) == (12.5, 5)
    with pytest.raises(ValueError, match="go back"):
        clock.advance(-1)


@pytest.mark.parametrize(
    ("unix", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_800_000_000.9999, "2027-01-15T08:00:00.999Z"),
        (951_782_400.05, "2000-02-29T00:00:00.050Z"),
    ],
)
def test_time_is_shown_in_milliseconds_of_utc(unix: float, text: str) -> None:
    assert rfc3339(unix) == text
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)


def test_waits_double_up_to_the_cap_and_begin_anew_after_a_reset() -> None:
    backoff = Backoff(lambda: 1.0)
    assert [backoff.next_s() for _ in range(9)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0]
    assert backoff.next_s() == 30.0
    backoff.reset()
    assert backoff.next_s() == 0.2


def test_waits_are_spread_over_the_whole_bound() -> None:
    chances = iter([0.0, 0.5, 0.25])
    backoff = Backoff(lambda: next(chances), first_s=1, cap_s=8)
    assert [backoff.next_s() for _ in range(3)] == [0.0, 1.0, 1.0]


def test_bucket_allows_a_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(per_s=2, burst=3)
    assert [bucket.take(0) for _ in range(5)] == [True, True, True, False, False]
    assert bucket.refused == 2
    assert [bucket.take(0.5), bucket.take(0.5)] == [True, False]
    assert [bucket.take(100) for _ in range(4)] == [True, True, True, False]
