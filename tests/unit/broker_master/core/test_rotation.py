import pytest

from broker_master.core.rotation import STEPS, Rotation, advance, is_again
from schemas.faults import Refused


def walked(*steps: str) -> Rotation:
    rotation = Rotation()
    for at, step in enumerate(steps):
        rotation = advance(rotation, step, at=float(at))
    return rotation


def test_four_steps_replace_the_key_and_the_next_time_counts_on() -> None:
    once = walked(*STEPS)
    assert (once.stage, once.active, once.other, once.newest) == ("settled", 2, 0, 2)
    twice = walked(*STEPS, "prepare")
    assert (twice.active, twice.other, twice.trusted) == (2, 3, (2, 3))


@pytest.mark.parametrize(
    ("count", "active", "trusted"),
    [(0, 1, (1,)), (1, 1, (1, 2)), (2, 2, (1, 2)), (3, 2, (1, 2)), (4, 2, (2,))],
)
def test_the_old_one_signs_until_activate_and_is_trusted_until_revoke(
    count: int, active: int, trusted: tuple[int, ...]
) -> None:
    rotation = walked(*STEPS[:count])
    assert rotation.active == active
    assert rotation.trusted == trusted


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_step_of_a_rotation_is_idempotent(count: int) -> None:
    rotation = walked(*STEPS[:count])
    assert is_again(rotation, STEPS[count - 1])
    assert advance(rotation, STEPS[count - 1], at=99.0) is rotation


def test_every_other_step_is_refused_with_the_one_that_is_due() -> None:
    for count, due in enumerate([*STEPS, "prepare"]):
        rotation = walked(*STEPS[:count])
        assert rotation.next_step == due
        again = STEPS[count - 1] if count else ""
        for step in set(STEPS) - {due, again}:
            with pytest.raises(Refused) as caught:
                advance(rotation, step, at=9.0)
            assert caught.value.code == "step_refused"
            assert due in caught.value.message
