"""Pools of which everybody has a share, and lines of a log of which nobody has more than his."""

import asyncio

import pytest
import structlog

from broker_client.runtime.logs import LineLimits
from broker_client.runtime.rates import Shares, TokenBucket
from broker_client.runtime.supervise import TaskSet
from schemas.faults import Refused


def test_sec_s11_one_owner_never_gets_more_than_a_share() -> None:
    shares = Shares(10, 4)
    assert [shares.take("a") for _ in range(6)] == [True] * 4 + [False] * 2
    assert shares.take("b", 4)
    assert not shares.take("c", 3)
    assert shares.take("c", 2)
    shares.give_back("a", 4)
    assert shares.held_by("a") == 0
    assert shares.taken == 6
    assert shares.take("b") is False
    assert shares.take("d", 4)


async def test_sec_s11_tasks_of_one_owner_leave_room_for_others_and_for_nobodys() -> None:
    tasks = TaskSet("t", limit=8, share=3)

    async def wait() -> None:
        await asyncio.Event().wait()

    for _ in range(3):
        _ = tasks.spawn(wait(), "a")
    with pytest.raises(Refused, match="share"):
        _ = tasks.spawn(wait(), "a")
    for owner in ("b", "c", "d"):
        _ = tasks.spawn(wait(), owner)
    with pytest.raises(Refused):
        _ = tasks.spawn(wait(), "e")
    _ = tasks.spawn(wait())
    _ = tasks.spawn(wait())
    with pytest.raises(Refused):
        _ = tasks.spawn(wait())
    await tasks.aclose(0)


async def test_share_comes_back_when_a_task_ends() -> None:
    tasks = TaskSet("t", limit=8, share=1)

    async def work() -> None:
        return

    for _ in range(5):
        await tasks.spawn(work(), "a")
        await asyncio.sleep(0)
    await tasks.aclose(0)


def test_bucket_takes_what_costs_more_than_it_holds_and_is_in_debt_then() -> None:
    bucket = TokenBucket(per_s=10, burst=10)
    assert bucket.take(0.0, 30)
    assert not bucket.take(1.0)
    assert not bucket.take(2.0)
    assert bucket.take(2.2)
    bucket.add(100, most=50)
    assert [bucket.take(2.2, 10) for _ in range(6)] == [True] * 5 + [False]


def test_sec_s11_lines_of_one_speaker_are_bounded_and_counted() -> None:
    now = 0.0
    limits = LineLimits(lambda: now)

    def written(event: str, agent: str) -> dict[str, object] | None:
        try:
            return dict(limits(None, "warning", {"event": event, "agent": agent}))
        except structlog.DropEvent:
            return None

    lines = [written("message_refused", "loud") for _ in range(1_000)]
    assert sum(line is not None for line in lines) == 30
    assert written("message_refused", "quiet") is not None
    assert written("other_kind", "loud") is not None
    assert all(written("audit_lost", "loud") for _ in range(100))
    now = 10.0
    assert (written("message_refused", "loud") or {})["left_out"] == 970
    for number in range(10_000):
        written("message_refused", f"a-{number}")
    assert len(limits._budgets) <= 4096
