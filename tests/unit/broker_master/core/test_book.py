from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_master.core.book import CommandBook
from broker_master.core.fold import fold
from broker_master.core.phases import Event
from schemas.faults import Misused
from schemas.states import TERMINAL, State
from tests.fake_clock import EPOCH
from tests.unit.broker_master.deeds import (
    Deed,
    accepted,
    assigned,
    cancel_asked,
    command_of,
    decided,
    ended,
    late,
    replayed,
    shape,
    started,
)

ENDS = sorted(TERMINAL - {State.REJECTED})


@st.composite
def lives(draw: st.DrawFn, command_id: str = "c1") -> list[Deed]:
    """The facts of one command as a master writes them, up to any moment of its life."""
    deeds = [accepted(command_id)]
    tries = draw(st.integers(0, 3))
    for number in range(1, tries + 1):
        deeds.append(assigned(command_id, number, f"web-{number}"))
        if draw(st.booleans()):
            deeds.append(started(command_id, number, f"web-{number}"))
        if draw(st.booleans()) and number == tries:
            deeds.append(cancel_asked(command_id))
        state = draw(st.sampled_from([State.REJECTED, State.LOST]))
        if number < tries:
            deeds.append(ended(command_id, number, state, final=False))
    if draw(st.booleans()):
        end = draw(st.sampled_from(ENDS)) if tries else State.EXPIRED
        deeds.append(ended(command_id, tries, end, exit_code=3 if tries else None))
        if end is State.LOST and draw(st.booleans()):
            deeds.append(late(command_id, tries))
    return deeds


@given(lives(), st.data())
def test_replay_of_any_prefix_is_idempotent(life: list[Deed], data: st.DataObject) -> None:
    prefix = life[: data.draw(st.integers(1, len(life)))]
    assert shape(command_of(*prefix, *prefix)) == shape(command_of(*prefix))


@given(lives(), st.data())
def test_facts_carried_forward_in_order_change_nothing(
    life: list[Deed], data: st.DataObject
) -> None:
    """After a crash while facts are carried forward, both copies of some stand in the stream."""
    copied = data.draw(st.integers(0, len(life)))
    assert shape(command_of(*life, *life[:copied])) == shape(command_of(*life))


@given(lives("a"), lives("b"), st.randoms(use_true_random=False))
def test_commands_do_not_meet(first: list[Deed], second: list[Deed], chance: object) -> None:
    mixed: list[Deed] = []
    left, right = list(first), list(second)
    while left or right:
        take_left = bool(left) and (not right or chance.random() < 0.5)  # type: ignore[attr-defined]
        mixed.append(left.pop(0) if take_left else right.pop(0))
    book = replayed(*mixed)
    for life in (first, second):
        command = book.get(life[0][0].command)
        assert command is not None
        assert shape(command) == shape(command_of(*life))


@given(lives())
def test_live_folding_equals_replay(life: list[Deed]) -> None:
    book = CommandBook()
    body = life[0][1]
    command = book.open(body)  # type: ignore[arg-type]
    for fact, each in life[1:]:
        fold(command, fact, each)
    assert shape(command) == shape(command_of(*life))


def test_whole_life_of_a_success() -> None:
    command = command_of(accepted(), assigned(), started(), ended(exit_code=0, ended_at=EPOCH + 8))
    attempt = command.attempts[0]
    assert (command.state, command.since) == (State.SUCCEEDED, EPOCH + 9)
    assert (attempt.agent, attempt.exit_code, attempt.ended_at) == ("web-1", 0, EPOCH + 8)
    assert (attempt.accepted_at, attempt.started_at) == (EPOCH + 2, EPOCH + 3)
    assert command.facts == {
        "mesh.v1.fact.c1.0.accepted": 1,
        "mesh.v1.fact.c1.1.assigned": 2,
        "mesh.v1.fact.c1.1.started": 3,
        "mesh.v1.fact.c1.1.outcome": 4,
    }


def test_outcome_that_is_not_final_queues_the_command_again() -> None:
    command = command_of(
        accepted(), assigned(), ended(state=State.REJECTED, final=False, reason="agent_full")
    )
    assert command.state is State.QUEUED
    assert command.reason == "agent_full"
    assert command.open_attempt is None
    assert command.attempts[0].state is State.REJECTED


def test_second_outcome_of_an_attempt_changes_nothing() -> None:
    once = command_of(accepted(), assigned(), ended(exit_code=0))
    twice = command_of(
        accepted(), assigned(), ended(exit_code=0), ended(state=State.FAILED, exit_code=1)
    )
    assert shape(twice) == shape(once)


def test_attempt_that_skips_a_number_is_not_believed() -> None:
    assert command_of(accepted(), assigned(attempt=2)).attempts == []


def test_start_of_an_ended_attempt_changes_nothing() -> None:
    assert command_of(accepted(), assigned(), ended(), started()).state is State.SUCCEEDED


def test_late_word_amends_a_verdict_of_lost() -> None:
    command = command_of(accepted(), assigned(), ended(state=State.LOST), late())
    assert command.state is State.SUCCEEDED
    assert command.attempts[0].late
    assert command.late is not None


def test_late_word_on_a_command_that_was_run_again_only_stands_beside_it() -> None:
    command = command_of(
        accepted(),
        assigned(),
        ended(state=State.LOST, final=False),
        assigned(attempt=2, agent="web-2"),
        ended(attempt=2, state=State.FAILED, exit_code=4),
        late(attempt=1),
    )
    assert command.state is State.FAILED
    assert [attempt.state for attempt in command.attempts] == [State.LOST, State.FAILED]
    assert command.attempts[0].late
    assert command.attempts[0].reason.startswith("late result: succeeded; before: ")


def test_first_cancel_is_the_one_that_counts() -> None:
    assert command_of(accepted(), cancel_asked(by="a"), cancel_asked(by="b")).cancel_by == "a"


def test_facts_without_their_command_are_left_out() -> None:
    book = replayed(assigned(), ended())
    assert len(book) == 0


def test_newest_copy_of_a_fact_is_the_one_remembered() -> None:
    assert command_of(accepted(), assigned(), accepted()).facts["mesh.v1.fact.c1.0.accepted"] == 3


def test_state_that_may_not_follow_is_refused_and_changes_nothing() -> None:
    command = command_of(accepted(), assigned(), started())
    before = shape(command)
    with pytest.raises(Misused, match="no move from running to expired"):
        command.enter(Event.CLOSED, EPOCH + 30, State.EXPIRED)
    assert shape(command) == before


@pytest.mark.parametrize(
    "deed",
    [
        ended(state=State.EXPIRED),
        ended(state=State.RUNNING),
        ended(state=cast("State", "of a later release")),
        ended(attempt=0, state=State.CANCELLED),
        assigned(attempt=2),
        decided(),
    ],
    ids=lambda deed: f"{deed[0].attempt}.{deed[0].kind}",
)
def test_stored_fact_without_a_move_in_the_table_changes_nothing(deed: Deed) -> None:
    """A replay goes through the table as all else, and does not fail."""
    life = [accepted(), assigned(), started()]
    assert shape(command_of(*life, deed)) == shape(command_of(*life))


def test_end_without_an_attempt_does_not_undo_the_attempt_that_followed() -> None:
    """The command was lost in a restored master before any agent had it, and was run again."""
    lost = ended(attempt=0, state=State.LOST, final=False)
    life = [accepted(on_lost="rerun"), lost, assigned(), started()]
    assert command_of(*life).state is State.RUNNING
    assert command_of(*life, ended(exit_code=0)).state is State.SUCCEEDED


def test_book_counts_what_is_open_in_each_group() -> None:
    book = replayed(accepted("a"), accepted("b"), accepted("c", group="db"))
    assert (book.open_in("web"), book.open_in("db"), book.open_in("none")) == (2, 1, 0)
    book.forget("a")
    book.forget("a")
    assert (book.open_in("web"), len(book)) == (1, 2)


def test_only_queued_commands_wait() -> None:
    expired = ended("c", 0, State.EXPIRED)
    book = replayed(accepted("a"), accepted("b"), assigned("b"), accepted("c"), expired)
    assert [command.id for command in book.waiting()] == ["a"]


def test_waits_until_its_own_time_to_live() -> None:
    assert command_of(accepted(queue_ttl_s=60.0)).expires_at == EPOCH + 60


@pytest.mark.parametrize("number", [-1, 0, 2, 10**9])
def test_attempt_that_is_not_there_is_not_found(number: int) -> None:
    assert command_of(accepted(), assigned()).find(number) is None


def test_book_may_change_while_it_is_walked() -> None:
    book = replayed(accepted("a"), accepted("b"))
    for command in book:
        book.forget(command.id)
    assert len(book) == 0


def test_commands_share_no_lists() -> None:
    book = replayed(accepted("a"), assigned("a"), accepted("b"))
    other = book.get("b")
    assert other is not None
    assert (other.attempts, len(other.facts)) == ([], 1)
    assert msgspec.structs.fields(other)
