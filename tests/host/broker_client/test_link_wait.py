"""Waiting for a link: woken by what happens, never by looking again and again."""

import asyncio
from collections.abc import Callable

import pytest

from broker_client.runtime.link import Link, LinkIdentity
from schemas.faults import MeshError, Refused, Unreachable
from tests.waiting import eventually

TURNS = 20


def link_of(identity: Callable[[], LinkIdentity] = LinkIdentity) -> Link:
    """Not started: it has no connection, and begins none."""
    return Link(["nats://127.0.0.1:1"], identity, "a", "_INBOX_a")


async def test_wait_sets_one_timer_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    setters: list[object] = []
    call_at = loop.call_at

    def noted(*args: object, **named: object) -> object:
        setters.append(asyncio.current_task())
        return call_at(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "call_at", noted)
    waiting = asyncio.ensure_future(link_of().wait_connected(60))
    await eventually(lambda: len(setters) > TURNS)
    assert setters.count(waiting) == 1
    waiting.cancel()


@pytest.mark.parametrize("wait_s", [None, 60.0])
async def test_wait_ends_when_the_link_is_closed(wait_s: float | None) -> None:
    link = link_of()
    waiting = [asyncio.ensure_future(link.wait_connected(wait_s)) for _ in range(3)]
    await asyncio.sleep(0)
    await link.close(0)
    for each in waiting:
        with pytest.raises(Unreachable, match="not connected"):
            await each


async def test_wait_that_ends_in_time_raises_why_there_is_no_connection() -> None:
    with pytest.raises(Unreachable, match="no connection in time"):
        await link_of().wait_connected(0.01)


async def test_refusal_ends_all_waits_at_the_first_try() -> None:
    tries: list[int] = []

    def identity() -> LinkIdentity:
        tries.append(len(tries))
        raise Refused("credentials_rejected", "no such user")

    link = link_of(identity)
    waiting = [asyncio.ensure_future(link.wait_connected(60)) for _ in range(2)]
    link.start()
    for each in waiting:
        with pytest.raises(Refused, match="no such user"):
            await each
    assert len(tries) == 1
    await link.close(0)


async def test_fault_that_may_pass_is_raised_when_the_time_is_over() -> None:
    tries: list[int] = []

    def identity() -> LinkIdentity:
        tries.append(len(tries))
        raise MeshError("state_unreadable", "no such file")

    link = link_of(identity)
    waiting = asyncio.ensure_future(link.wait_connected(1))
    link.start()
    await eventually(lambda: tries)
    assert not waiting.done()
    with pytest.raises(MeshError, match="no such file"):
        await waiting
    await link.close(0)
