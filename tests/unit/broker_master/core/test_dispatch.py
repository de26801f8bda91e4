from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_master.core.dispatch import Choice, Dispatcher, Wish, needs_of
from schemas.messages.actions import COMMON


def dispatcher(slots: dict[str, int], group: str = "web") -> Dispatcher:
    made = Dispatcher()
    for agent, count in slots.items():
        made.set_member(group, agent, slots=count, ready=True)
    return made


def taken(made: Dispatcher, group: str = "web", avoid: tuple[str, ...] = ()) -> str:
    choice = made.choose(Wish(group), avoid=avoid)
    if choice is None:
        return ""
    made.take(choice.agent)
    return choice.agent


@pytest.mark.parametrize("members", [2, 3, 7])
def test_thousand_equal_tasks_are_spread_within_one(members: int) -> None:
    made = dispatcher({f"web-{n}": 1000 for n in range(members)})
    counts = Counter(taken(made) for _ in range(1000))
    assert sum(counts.values()) == 1000
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("members", [2, 3, 7])
def test_tasks_that_end_at_once_take_turns_as_well(members: int) -> None:
    """No agent is ever loaded, so only the turn can spread the commands."""
    made = dispatcher({f"web-{n}": 4 for n in range(members)})
    counts: Counter[str] = Counter()
    for _ in range(1000):
        agent = taken(made)
        made.give_back(agent)
        counts[agent] += 1
    assert max(counts.values()) - min(counts.values()) <= 1


def test_load_counts_in_proportion_to_slots() -> None:
    made = dispatcher({"small": 2, "large": 8})
    counts = Counter(taken(made) for _ in range(10))
    assert counts == {"small": 2, "large": 8}
    assert made.choose(Wish("web")) is None


def test_least_loaded_member_is_chosen_and_the_reason_says_so() -> None:
    made = dispatcher({"web-1": 4, "web-2": 4})
    for _ in range(3):
        made.take("web-1")
    made.take("web-2")
    assert made.choose(Wish("web")) == Choice(
        "web-2", "least loaded: 1 of 4 slots taken", shared=True
    )


def test_member_that_is_not_ready_or_has_no_slot_gets_nothing() -> None:
    made = dispatcher({"web-1": 4, "web-2": 0})
    made.set_member("web", "web-1", slots=4, ready=False)
    assert made.choose(Wish("web")) is None
    assert made.choose(Wish("web", "web-1")) is None
    assert not made.has_ready("none")


def test_named_agent_is_the_only_target() -> None:
    made = dispatcher({"web-1": 1, "web-2": 9})
    assert made.choose(Wish("web", "web-1")) == Choice("web-1", "the only target")
    made.take("web-1")
    assert made.choose(Wish("web", "web-1")) is None
    assert made.choose(Wish("web", "stranger")) is None


def test_member_that_refused_is_not_chosen_even_if_no_other_is_free() -> None:
    made = dispatcher({"web-1": 4, "web-2": 4})
    made.take("web-2")
    assert taken(made, avoid=("web-1",)) == "web-2"
    made.set_member("web", "web-2", slots=4, ready=False)
    assert taken(made, avoid=("web-1",)) == ""
    assert taken(made) == "web-1"


def test_avoided_member_is_avoided_wherever_the_turn_stands() -> None:
    made = dispatcher({f"web-{n}": 100 for n in range(3)})
    assert {taken(made, avoid=("web-1",)) for _ in range(30)} == {"web-0", "web-2"}


def test_groups_do_not_meet() -> None:
    made = dispatcher({"web-1": 4})
    made.set_member("db", "db-1", slots=4, ready=True)
    assert {taken(made, "db") for _ in range(4)} == {"db-1"}
    assert (made.group_load("web"), made.group_load("db")) == (0, 4)


@given(st.lists(st.sampled_from(["take", "back", "silent", "ready"]), max_size=60))
def test_load_is_what_was_taken_less_what_was_given_back(moves: list[str]) -> None:
    made = dispatcher({"web-1": 5})
    expected, ready = 0, True
    for move in moves:
        if move == "take" and made.choose(Wish("web")) is not None:
            made.take("web-1")
            expected += 1
        elif move == "back":
            made.give_back("web-1")
            expected = max(0, expected - 1)
        elif move in ("silent", "ready"):
            ready = move == "ready"
            made.set_member("web", "web-1", slots=5, ready=ready)
        assert made.load("web-1") == expected <= 5
        assert (made.choose(Wish("web")) is not None) == (ready and expected < 5)


def test_removed_member_is_forgotten_and_given_back_without_harm() -> None:
    made = dispatcher({"web-1": 4, "web-2": 4})
    made.take("web-1")
    made.remove_member("web-1")
    made.remove_member("web-1")
    made.give_back("web-1")
    assert made.load("web-1") == 0
    assert {taken(made) for _ in range(3)} == {"web-2"}


def test_agent_that_changes_its_group_starts_there_without_load() -> None:
    made = dispatcher({"web-1": 4})
    made.take("web-1")
    made.set_member("db", "web-1", slots=4, ready=True)
    assert (made.choose(Wish("web")), made.load("web-1")) == (None, 0)
    assert made.choose(Wish("db")) is not None


def test_queue_keeps_its_order_and_lets_those_who_lost_their_agent_in_first() -> None:
    made = dispatcher({"web-1": 9})
    for command in ("a", "b", "c"):
        made.enqueue(Wish("web"), command)
    made.enqueue(Wish("web"), "again", first=True)
    assert [made.next_for("web-1") for _ in range(5)] == ["again", "a", "b", "c", None]


def test_command_for_one_agent_waits_for_that_agent_and_goes_before_the_group() -> None:
    made = dispatcher({"web-1": 9, "web-2": 9})
    made.enqueue(Wish("web"), "any")
    made.enqueue(Wish("web", "web-2"), "own")
    assert made.waiting("web") == 2
    assert made.next_for("web-2") == "own"
    assert made.next_for("web-1") == "any"
    assert made.next_for("web-1") is None


def test_own_queue_of_an_agent_does_not_hold_the_group_up() -> None:
    made = dispatcher({"web-1": 1, "web-2": 1})
    made.enqueue(Wish("web", "web-1"), "own")
    assert not made.is_waiting(Wish("web"))


def test_full_agent_takes_nothing_from_the_queue() -> None:
    made = dispatcher({"web-1": 1})
    made.take("web-1")
    made.enqueue(Wish("web"), "a")
    assert made.next_for("web-1") is None
    assert made.idle_agents_with_work() == []
    made.give_back("web-1")
    assert made.idle_agents_with_work() == ["web-1"]


def test_withdrawal_of_a_queued_command_is_idempotent() -> None:
    made = dispatcher({"web-1": 1})
    made.enqueue(Wish("web"), "a")
    made.enqueue(Wish("web", "web-1"), "b")
    for _ in range(2):
        made.withdraw("a")
        made.withdraw("b")
    assert made.waiting("web") == 0
    assert made.idle_agents_with_work() == []


def test_commands_queued_for_an_agent_move_with_it_to_another_group() -> None:
    made = dispatcher({"web-1": 1})
    made.take("web-1")
    made.enqueue(Wish("web", agent="web-1"), "own")
    made.enqueue(Wish("web"), "anybody")
    made.give_back("web-1")
    made.set_member("db", "web-1", slots=2, ready=True)
    assert (made.waiting("web"), made.waiting("db")) == (1, 1)
    # Of one accepted before the move, too, which is put back only now.
    made.enqueue(Wish("web", agent="web-1"), "late")
    assert (made.idle_agents_with_work(), made.next_for("web-1")) == (["web-1"], "own")
    assert (made.next_for("web-1"), made.next_for("web-1")) == ("late", None)
    assert (made.waiting("web"), made.waiting("db")) == (1, 0)


def test_agents_are_chosen_by_the_action_that_they_have() -> None:
    made = dispatcher({"old": 9, "new": 1})
    made.set_member("web", "new", slots=1, ready=True, actions=frozenset({"sleep"}))
    wish = Wish("web", tags=needs_of({}, "sleep"))
    choice = made.choose(wish)
    assert choice is not None
    assert choice.agent == "new"
    made.take("new")
    assert made.choose(wish) is None, "the other has room, and not the action"
    made.enqueue(wish, "c1")
    assert made.next_for("old") is None
    made.set_member("web", "old", slots=9, ready=True, actions=frozenset({"sleep", "wake"}))
    assert made.next_for("old") == "c1", "it was upgraded"
    made.set_member("web", "new", slots=1, ready=True)
    assert not made.has_ready("web", needs_of({"site": "a"}, "sleep"))


def test_action_of_every_agent_is_required_of_none() -> None:
    assert [needs_of({"site": "a"}, action) for action in COMMON] == [(("site", "a"),)] * 2


def test_sec_s11_commands_for_who_is_away_do_not_make_others_wait_for_company() -> None:
    made = dispatcher({"web-1": 1})
    made.set_member("bad", "bad-1", slots=1, ready=False)
    for number in range(64):
        made.enqueue(Wish("bad", "bad-1"), f"c{number}")
    assert not made.is_saturated(64)
    made.take("web-1")
    assert made.is_saturated(64)
    assert not made.is_saturated(65)
    made.give_back("web-1")
    assert not made.is_saturated(64)
    made.remove_member("web-1")
    assert made.is_saturated(64)
    made.set_member("bad", "bad-1", slots=1, ready=True)
    assert not made.is_saturated(64)
    made.hold("bad-1", held=True)
    assert made.is_saturated(64)
