import math
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.faults import Refused
from schemas.timers import Timers, check_timers
from tests.unit.schemas.strategies import messages, quick, refusal_of

# Quarters of a second are exact in binary, so that the edge of the inequality can be hit.
QUARTERS = st.integers(min_value=1, max_value=400).map(lambda count: count / 4)


@dataclass(frozen=True)
class Refusals:
    lost: bool
    suspect: bool


def refusals(timers: Timers) -> Refusals:
    """The two promises, spelt out."""
    silent_for = timers.suspect_s + timers.resends * timers.ack_s
    return Refusals(
        lost=timers.lost_s < silent_for + timers.grace_s + timers.beat_s,
        suspect=timers.suspect_s < timers.beat_s * 2,
    )


def accepts(timers: Timers) -> bool:
    refusal = refusal_of(lambda: check_timers(timers))
    if refusal is None:
        return check_timers(timers) is timers
    assert refusal.code == "settings_invalid"
    return False


def test_defaults_are_accepted() -> None:
    assert accepts(Timers())


def test_defaults_leave_no_margin_beyond_the_beat() -> None:
    assert not accepts(Timers(lost_s=math.nextafter(50.0, 0.0)))


@quick(300)
@given(QUARTERS, QUARTERS, QUARTERS, QUARTERS, st.integers(0, 20), st.integers(-2, 2))
@example(beat=5.0, suspect=10.0, ack=5.0, grace=10.0, resends=5, off_by=-1)
def test_accepts_exactly_the_sets_that_keep_the_promise(
    beat: float, suspect: float, ack: float, grace: float, resends: int, off_by: int
) -> None:
    """`off_by` quarters of a second beside the edge: most sets lie on it or next to it."""
    lost = suspect + resends * ack + grace + beat + off_by / 4
    timers = Timers(
        beat_s=beat, suspect_s=suspect, ack_s=ack, resends=resends, grace_s=grace, lost_s=lost
    )
    assert accepts(timers) == (off_by >= 0 and suspect >= 2 * beat)


@quick(200)
@given(messages(Timers))
def test_accepts_exactly_the_sets_that_keep_the_promise_at_any_scale(timers: Timers) -> None:
    found = refusals(timers)
    assert accepts(timers) == (not found.lost and not found.suspect)


@pytest.mark.parametrize("name", ["beat_s", "suspect_s", "ack_s", "grace_s", "lost_s"])
def test_number_that_is_none_is_never_accepted(name: str) -> None:
    """Settings are built by code as well, where no decoder has looked at them."""
    assert not accepts(msgspec.structs.replace(Timers(), **{name: math.nan}))


def test_refusal_names_the_setting_and_what_it_needs_to_be() -> None:
    with pytest.raises(Refused, match=r"timers\.lost_s is 49, .* is 50"):
        check_timers(Timers(lost_s=49.0))
    with pytest.raises(Refused, match=r"timers\.suspect_s is 9, .* \(5\)"):
        check_timers(Timers(suspect_s=9.0))
