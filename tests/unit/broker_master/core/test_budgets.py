from broker_master.core.budgets import Budgets, Kind
from schemas.timers import Timers

TIMERS = Timers()
AGENTS = {"web-1", "web-2"}


def budgets() -> Budgets:
    return Budgets(TIMERS, AGENTS.__contains__)


def taken(of: Budgets, agent: str, kind: Kind, count: int, *, size: int = 100, s: float = 1) -> int:
    """How many of `count` messages, spread over `s` seconds, are looked at."""
    return sum(of.take(agent, kind, size, s * number / count) for number in range(count))


def test_sec_s11_flood_of_one_kind_takes_neither_from_other_kinds_nor_from_others() -> None:
    of = budgets()
    assert taken(of, "web-1", "beat", 20_000) < 40
    assert taken(of, "web-1", "hello", 1_500) < 20
    assert taken(of, "web-1", "work", 36_000, s=10) < 10_000
    assert of.take("web-1", "rest", 1, 10.0)
    for kind in ("beat", "hello", "work", "rest"):
        assert of.take("web-2", kind, 100, 10.0)


def test_agent_within_the_protocol_is_never_rate_limited() -> None:
    of = budgets()
    beats = [of.take("web-1", "beat", 200, TIMERS.beat_s / 2 * each) for each in range(10_000)]
    assert all(beats)
    rounds = [of.take("web-1", "hello", 9_000, TIMERS.handshake_s / 2 * each) for each in range(99)]
    assert all(rounds)
    for second in range(100):  # a thousand tasks a second, with all the output that they may have
        for number in range(1_000):
            of.earn("web-1")
            at = second + number / 1_000
            assert of.take("web-1", "work", 200, at)
            assert of.take("web-1", "work", 40 * 1024, at)


def test_size_counts_and_what_is_larger_than_the_burst_is_taken_once() -> None:
    of = budgets()
    assert taken(of, "web-1", "work", 1_000, size=256 * 1024, s=0.1) < 20
    assert of.take("web-2", "work", 10 * 1024 * 1024, 0.0)
    assert not of.take("web-2", "work", 1, 10.0)
    assert of.take("web-2", "work", 1, 100.0)


def test_strangers_share_one_budget_and_no_memory() -> None:
    of = budgets()
    for number in range(1_000):
        of.take(f"ghost-{number}", "beat", 1, 0.0)
    assert not of.take("ghost-x", "beat", 1, 0.0)
    assert len(of) == 0
    assert of.take("web-1", "beat", 1, 0.0)


def test_floods_are_reported_with_new_drops_and_gone_agents_are_forgotten() -> None:
    known = {"web-1"}
    of = Budgets(TIMERS, known.__contains__)
    taken(of, "web-1", "beat", 1_000, s=0)
    (flood,) = of.dropped()
    assert flood.agent == "web-1"
    assert flood.dropped == {"beat": 975}
    assert list(of.dropped()) == []
    known.clear()
    assert list(of.dropped()) == []
    assert len(of) == 0
