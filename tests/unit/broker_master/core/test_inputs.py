"""Staged inputs: room, completeness and claims."""

import pytest

from broker_master.core.inputs import InputTable
from schemas.faults import Refused
from schemas.limits import INPUT_PART_BYTES
from schemas.messages.actions import StagedInput

KEY = ("ann", "in-1")
PART = INPUT_PART_BYTES


def table(parts: int = 40, most: int = 8, kept_s: float = 100.0) -> InputTable:
    return InputTable(total_bytes=parts * PART, most_bytes=most * PART, kept_s=kept_s)


def staged(size: int) -> StagedInput:
    return StagedInput(id="in-1", size=size, sha256=bytes(32))


def filled(inputs: InputTable, key: tuple[str, str], parts: int, now_s: float = 0.0) -> None:
    for part in range(parts):
        inputs.check_room(key, part, PART, now_s=now_s)
        inputs.note(key, part, now_s=now_s)


def code_of(inputs: InputTable, key: tuple[str, str], part: int, now_s: float = 0.0) -> str:
    with pytest.raises(Refused) as caught:
        inputs.check_room(key, part, PART, now_s=now_s)
    return caught.value.code


def test_input_above_the_limit_of_one_is_too_large() -> None:
    assert code_of(table(), KEY, 8) == "too_large"
    table().check_room(KEY, 7, PART, now_s=0.0)


def test_client_has_a_quarter_of_the_room_and_takes_nothing_from_others() -> None:
    inputs = table(parts=40)
    filled(inputs, KEY, 8)
    filled(inputs, ("ann", "in-2"), 2)
    assert code_of(inputs, ("ann", "in-2"), 2) == "queue_full"
    inputs.check_room(("ann", "in-2"), 1, PART, now_s=0.0)  # the same part again
    inputs.check_room(("bob", "in-2"), 0, PART, now_s=0.0)
    assert inputs.drop(KEY)
    inputs.check_room(("ann", "in-2"), 2, PART, now_s=0.0)


def test_expired_input_takes_no_room() -> None:
    inputs = table(parts=4, kept_s=100.0)
    filled(inputs, KEY, 1)
    assert code_of(inputs, ("ann", "in-2"), 0, now_s=99.0) == "queue_full"
    inputs.check_room(("ann", "in-2"), 0, PART, now_s=101.0)


@pytest.mark.parametrize(("size", "parts"), [(1, 1), (PART, 1), (PART + 1, 2), (3 * PART, 3)])
def test_input_is_whole_with_its_last_part(size: int, parts: int) -> None:
    inputs = table()
    filled(inputs, KEY, parts - 1)
    with pytest.raises(Refused, match="1 of"):
        inputs.check_whole("ann", staged(size))
    filled(inputs, KEY, parts)
    inputs.check_whole("ann", staged(size))
    with pytest.raises(Refused):
        inputs.check_whole("bob", staged(size))


def test_only_inputs_without_a_command_are_idle() -> None:
    inputs = table()
    filled(inputs, KEY, 1)
    assert inputs.idle(10.0, 20.0) == []
    assert inputs.idle(21.0, 20.0) == [KEY]
    inputs.claim(KEY)
    assert inputs.idle(21.0, 20.0) == []
    inputs.release(KEY)
    assert inputs.idle(21.0, 20.0) == [KEY]
