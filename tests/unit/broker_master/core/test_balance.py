"""Policies of groups, tags, limits, priorities and fairness: what the dispatcher decides by."""

import time
from collections import Counter

import pytest

from broker_master.core.dispatch import LANES_MAX, Dispatcher, Wish
from broker_master.core.holds import FIRST_S, LONGEST_S, Holds
from schemas.messages.registry import Balance, Policy, Traits

CROWD = 5000
LOTS_WAITING = 100_000


def group(policy: Policy, **members: Traits) -> Dispatcher:
    made = Dispatcher()
    made.set_policy("web", policy)
    for agent, traits in members.items():
        made.set_member("web", agent, slots=10, ready=True, traits=traits)
    return made


def run_one(made: Dispatcher, wish: Wish) -> str:
    """Give one command to the agent of the policy's choice, and let it end at once."""
    choice = made.choose(wish)
    if choice is None:
        return ""
    made.take(choice.agent, shared=choice.shared)
    made.give_back(choice.agent)
    return choice.agent


def spread(made: Dispatcher, count: int) -> Counter[str]:
    return Counter(run_one(made, Wish("web")) for _ in range(count))


@pytest.mark.parametrize("balance", ["least_load", "round_robin", "priority"])
def test_equal_members_get_equal_parts(balance: Balance) -> None:
    made = group(Policy(balance=balance), a=Traits(), b=Traits(), c=Traits(), d=Traits())
    counts = spread(made, 1000)
    assert set(counts.values()) == {250}


def test_weights_are_kept_to_within_one_turn() -> None:
    made = group(Policy(balance="weighted"), a=Traits(weight=3), b=Traits(weight=1))
    counts = spread(made, 400)
    assert abs(counts["a"] - 300) <= 1


def test_round_robin_counts_commands_and_not_load() -> None:
    made = group(Policy(balance="round_robin"), a=Traits(), b=Traits(), c=Traits())
    counts: Counter[str] = Counter()
    for _ in range(15):
        choice = made.choose(Wish("web"))
        assert choice is not None
        made.take(choice.agent)
        counts[choice.agent] += 1
        if choice.agent != "a":
            made.give_back(choice.agent)
    assert counts == {"a": 5, "b": 5, "c": 5}


def test_lesser_priority_is_used_once_the_greater_is_full() -> None:
    made = group(Policy(balance="priority"), main=Traits(priority=3, limit=2), spare=Traits())
    chosen = []
    for _ in range(3):
        choice = made.choose(Wish("web"))
        assert choice is not None
        made.take(choice.agent)
        chosen.append(choice.agent)
    assert chosen == ["main", "main", "spare"]
    made.give_back("main")
    choice = made.choose(Wish("web"))
    assert choice is not None
    assert choice.agent == "main"
    assert choice.why == "priority 3, least loaded: 1 of 2 slots taken"


def test_sticky_key_keeps_its_agent_while_that_one_is_ready() -> None:
    policy = Policy(balance="sticky", sticky_label="customer")
    made = group(policy, **{f"a{n}": Traits() for n in range(5)})
    homes = {key: run_one(made, Wish("web", sticky=key)) for key in map(str, range(200))}
    assert len(set(homes.values())) == 5
    gone = homes["7"]
    made.set_member("web", gone, slots=10, ready=False)
    moved = {key: run_one(made, Wish("web", sticky=key)) for key in homes}
    assert all(moved[key] == home for key, home in homes.items() if home != gone)
    assert gone not in moved.values()
    made.set_member("web", gone, slots=10, ready=True)
    assert {key: run_one(made, Wish("web", sticky=key)) for key in homes} == homes


def test_waiting_sticky_commands_follow_their_key_to_another_agent() -> None:
    made = group(Policy(balance="sticky", sticky_label="customer"), a=Traits(), b=Traits())
    first = made.choose(Wish("web", sticky="x"))
    assert first is not None
    other = "b" if first.agent == "a" else "a"
    for _ in range(10):
        made.take(first.agent)
    made.enqueue(Wish("web", sticky="x"), "c1")
    assert made.next_for(other) is None
    made.set_member("web", first.agent, slots=10, ready=False)
    made.requeue_sticky()
    assert made.idle_agents_with_work() == [other]
    assert made.next_for(other) == "c1"
    made.set_member("web", other, slots=10, ready=False)
    made.enqueue(Wish("web", sticky="x"), "c2")
    assert made.idle_agents_with_work() == []
    made.set_member("web", other, slots=10, ready=True)
    made.requeue_sticky()
    made.withdraw("c2")
    assert made.waiting("web") == 0
    assert made.next_for(other) is None


def test_tags_choose_among_those_that_have_them_and_hold_nobody_else_up() -> None:
    gpu = (("gpu", "1"),)
    made = group(Policy(), plain=Traits(), strong=Traits(tags={"gpu": "1", "site": "b"}))
    assert {run_one(made, Wish("web", tags=gpu)) for _ in range(3)} == {"strong"}
    assert made.has_member("web", gpu)
    assert not made.has_member("web", (("gpu", "2"),))
    made.set_member("web", "strong", slots=10, ready=False, traits=Traits(tags={"gpu": "1"}))
    assert not made.has_ready("web", gpu)
    made.enqueue(Wish("web", tags=gpu), "c1")
    assert not made.is_waiting(Wish("web"))
    assert made.next_for("plain") is None
    made.set_member("web", "plain", slots=10, ready=True, traits=Traits(tags={"gpu": "1"}))
    assert made.idle_agents_with_work() == ["plain"]
    assert made.next_for("plain") == "c1"


def test_sets_of_tags_that_are_waited_with_are_bounded() -> None:
    tags = {f"t{n}": "1" for n in range(16)}
    made = group(Policy(), a=Traits(tags=tags))
    made.set_member("web", "a", slots=10, ready=False, traits=Traits(tags=tags))
    names = sorted(tags)
    sets = [
        tuple((name, "1") for bit, name in enumerate(names) if number >> bit & 1)
        for number in range(1, LANES_MAX + 2)
    ]
    for number, wanted in enumerate(sets[:LANES_MAX]):
        assert not made.is_crowded("web", wanted)
        made.enqueue(Wish("web", tags=wanted), f"c{number}")
    assert made.is_crowded("web", sets[-1])
    assert not made.is_crowded("web", sets[0])
    assert made.waiting("web") == LANES_MAX


def test_limits_of_agent_and_group_hold_and_open_again() -> None:
    made = group(Policy(limit=3), a=Traits(limit=1), b=Traits())
    for _ in range(3):
        choice = made.choose(Wish("web"))
        assert choice is not None
        made.take(choice.agent)
    assert (made.load("a"), made.load("b")) == (1, 2)
    assert made.choose(Wish("web")) is None
    made.enqueue(Wish("web"), "c1")
    assert made.next_for("b") is None
    made.give_back("a")
    made.set_member("web", "a", slots=10, ready=False, traits=Traits(limit=1))
    found = made.next_beside("a")
    assert found is not None
    assert (found[0], found[1].agent) == ("c1", "b")
    made.set_policy("web", Policy())
    assert made.choose(Wish("web")) is not None


def test_clients_take_turns_whatever_each_of_them_lets_wait() -> None:
    made = group(Policy(), a=Traits())
    for number in range(100):
        made.enqueue(Wish("web", client="greedy"), f"g{number}")
    for number in range(3):
        made.enqueue(Wish("web", client="modest"), f"m{number}")
    order = [made.next_for("a") for _ in range(8)]
    assert [each for each in order if each and each.startswith("m")] == ["m0", "m1", "m2"]
    assert order.index("m2") <= 6


def test_client_gains_nothing_by_asking_for_different_tags() -> None:
    tags = {"x": "1", "y": "1"}
    made = group(Policy(), a=Traits(tags=tags))
    for number in range(50):
        made.enqueue(Wish("web", client="greedy", tags=(("x", "1"),)), f"gx{number}")
        made.enqueue(Wish("web", client="greedy", tags=(("y", "1"),)), f"gy{number}")
        made.enqueue(Wish("web", client="modest"), f"m{number}")
    order = [str(made.next_for("a"))[0] for _ in range(60)]
    assert 29 <= order.count("m") <= 31


def test_greater_priority_goes_first_and_in_order() -> None:
    made = group(Policy(), a=Traits())
    for priority in (2, 0, 4, 1, 3, 4):
        made.enqueue(
            Wish("web", client="c", priority=priority), f"{priority}-{made.waiting('web')}"
        )
    order = [made.next_for("a") for _ in range(6)]
    assert order == ["4-2", "4-5", "3-4", "2-0", "1-3", "0-1"]


def test_agent_that_comes_and_goes_gets_half() -> None:
    made = group(Policy(), a=Traits(), b=Traits())
    made.set_member("web", "a", slots=10, ready=True, part=0.5)
    counts = spread(made, 300)
    assert abs(counts["a"] - 100) <= 1
    choice = made.choose(Wish("web"))
    while choice is not None and choice.agent != "a":
        run_one(made, Wish("web"))
        choice = made.choose(Wish("web"))
    assert choice is not None
    assert "half weight" in choice.why


def test_returned_agent_does_not_get_everything() -> None:
    made = group(Policy(balance="round_robin"), a=Traits(), b=Traits())
    made.set_member("web", "a", slots=10, ready=False)
    spread(made, 500)
    made.set_member("web", "a", slots=10, ready=True)
    counts = spread(made, 10)
    assert counts["a"] <= 6


def test_held_agent_gets_nothing_until_it_is_let_go() -> None:
    made = group(Policy(), a=Traits())
    made.hold("a", held=True)
    assert made.choose(Wish("web")) is None
    assert made.is_ready("a")
    made.enqueue(Wish("web"), "c1")
    assert made.idle_agents_with_work() == []
    made.hold("a", held=False)
    assert made.next_for("a") == "c1"


def test_hold_doubles_with_each_refusal_and_begins_anew_after_a_while() -> None:
    holds, now_s, lengths = Holds(), 0.0, []
    for _ in range(8):
        holds.refuse("a", now_s)
        holds.refuse("a", now_s)
        began_s = now_s
        while not holds.ended(now_s):
            now_s += FIRST_S / 2
        lengths.append(now_s - began_s)
    assert lengths[:4] == [FIRST_S, FIRST_S * 2, FIRST_S * 4, FIRST_S * 8]
    assert lengths[-1] == LONGEST_S
    now_s += LONGEST_S * 3
    assert holds.ended(now_s) == []
    holds.refuse("a", now_s)
    assert holds.ended(now_s + FIRST_S) == ["a"]


def test_spread_expects_of_each_what_was_meant_for_it_while_it_was_there() -> None:
    made = group(Policy(), a=Traits(), b=Traits())
    spread(made, 100)
    made.set_member("web", "b", slots=10, ready=False)
    spread(made, 50)
    rows = made.pool("web").spread
    assert rows.of("a") == pytest.approx((100.0, 100))
    assert rows.of("b") == pytest.approx((50.0, 50))
    for _ in range(12):
        made.rotate_spread()
    assert rows.of("a") == (0.0, 0)


def test_spread_by_priority_expects_everything_of_the_first() -> None:
    made = group(Policy(balance="priority"), main=Traits(priority=4), spare=Traits(priority=1))
    spread(made, 20)
    rows = made.pool("web").spread
    assert rows.of("main") == pytest.approx((20.0, 20))
    assert rows.of("spare") == (0.0, 0)


def test_cost_of_a_command_does_not_grow_with_members_and_queue() -> None:
    """Compared on one machine in one breath; linear growth would be a factor of a thousand."""

    def cost(members: int, waiting: int) -> float:
        made = Dispatcher()
        for number in range(members):
            made.set_member("web", f"a{number}", slots=4, ready=True)
        for number in range(waiting):
            made.enqueue(Wish("web", client=f"c{number % 7}"), f"w{number}")
        spent = []
        for _ in range(5):
            began = time.perf_counter()
            for number in range(200):
                assert run_one(made, Wish("web"))
                made.enqueue(Wish("web", client="x"), f"x{number}")
                made.withdraw(f"x{number}")
            spent.append(time.perf_counter() - began)
        return min(spent)

    assert cost(CROWD, LOTS_WAITING) < 20 * cost(5, 10)
