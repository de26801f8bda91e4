"""Owners of tasks: order of start and stop, and no failure that nobody hears of."""

import asyncio
from collections.abc import Callable

import pytest

from broker_client.runtime.supervise import ServiceEnded, TaskSet, supervise
from schemas.faults import Refused

START_S = 5.0


class Recorder:
    """A service that notes what happens to it; `body` runs after it is ready."""

    def __init__(
        self,
        name: str,
        events: list[str],
        *,
        body: Callable[[], None] | None = None,
        never_ready: bool = False,
    ) -> None:
        self.name = name
        self._events = events
        self._body = body
        self._never_ready = never_ready

    async def run(self, ready: asyncio.Event) -> None:
        self._events.append(f"{self.name} starts")
        try:
            if not self._never_ready:
                ready.set()
            if self._body is not None:
                self._body()
                return
            await asyncio.Event().wait()
        finally:
            self._events.append(f"{self.name} ends")


async def run_until_stopped(services: list[Recorder]) -> None:
    stop = asyncio.Event()
    task = asyncio.create_task(supervise(services, stop, start_timeout_s=START_S))
    for _ in range(20):
        await asyncio.sleep(0)
    stop.set()
    await task


async def test_services_start_in_order_and_stop_in_reverse() -> None:
    events: list[str] = []
    await run_until_stopped([Recorder(name, events) for name in "abc"])
    assert events == ["a starts", "b starts", "c starts", "c ends", "b ends", "a ends"]


def fail() -> None:
    raise ValueError("broken")


async def test_failure_of_one_ends_all_and_is_raised() -> None:
    events: list[str] = []
    services = [Recorder("a", events), Recorder("b", events, body=fail), Recorder("c", events)]
    with pytest.raises(ExceptionGroup) as caught:
        await supervise(services, asyncio.Event(), start_timeout_s=START_S)
    assert caught.group_contains(ValueError, match="broken")
    assert "a ends" in events


async def test_early_return_is_a_failure() -> None:
    events: list[str] = []
    services = [Recorder("a", events), Recorder("b", events, body=lambda: None)]
    with pytest.raises(ExceptionGroup) as caught:
        await supervise(services, asyncio.Event(), start_timeout_s=START_S)
    assert caught.group_contains(ServiceEnded, match="b")
    assert "a ends" in events


async def test_service_that_fails_before_it_is_ready_is_no_hang() -> None:
    events: list[str] = []
    services = [Recorder("a", events, body=fail, never_ready=True), Recorder("b", events)]
    with pytest.raises(ExceptionGroup) as caught:
        await supervise(services, asyncio.Event(), start_timeout_s=START_S)
    assert caught.group_contains(ValueError)
    assert events == ["a starts", "a ends"]


async def test_service_that_is_too_slow_to_start_is_a_failure() -> None:
    events: list[str] = []
    services = [Recorder("a", events), Recorder("b", events, never_ready=True)]
    with pytest.raises(ExceptionGroup) as caught:
        await supervise(services, asyncio.Event(), start_timeout_s=0.05)
    assert caught.group_contains(TimeoutError)
    assert events == ["a starts", "b starts", "b ends", "a ends"] or set(events[2:]) == {
        "a ends",
        "b ends",
    }


async def test_stop_during_the_start_starts_no_more() -> None:
    events: list[str] = []
    stop = asyncio.Event()

    class Stopper(Recorder):
        async def run(self, ready: asyncio.Event) -> None:
            stop.set()
            await super().run(ready)

    await supervise(
        [Recorder("a", events), Stopper("b", events), Recorder("c", events)],
        stop,
        start_timeout_s=START_S,
    )
    assert events == ["a starts", "b starts", "b ends", "a ends"]


async def test_stop_ends_a_start_that_does_not_come_to_an_end() -> None:
    """A master that waits for its broker, and is told to stop."""
    events: list[str] = []
    stop = asyncio.Event()

    class Stopper(Recorder):
        async def run(self, ready: asyncio.Event) -> None:
            asyncio.get_running_loop().call_soon(stop.set)
            await super().run(ready)

    waiting = Stopper("b", events, never_ready=True)
    await supervise([Recorder("a", events), waiting], stop, start_timeout_s=START_S)
    assert events == ["a starts", "b starts", "b ends", "a ends"]


async def test_outer_cancel_ends_all_services() -> None:
    events: list[str] = []
    services = [Recorder("a", events), Recorder("b", events)]
    task = asyncio.create_task(supervise(services, asyncio.Event(), start_timeout_s=START_S))
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(events[2:]) == ["a ends", "b ends"]


async def test_failure_while_stopping_is_raised_after_all_are_gone() -> None:
    events: list[str] = []

    class FailsAtTheEnd(Recorder):
        async def run(self, ready: asyncio.Event) -> None:
            try:
                await super().run(ready)
            finally:
                fail()

    with pytest.raises(ExceptionGroup) as caught:
        await run_until_stopped([Recorder("a", events), FailsAtTheEnd("b", events)])
    assert caught.group_contains(ValueError)
    assert events[-1] == "a ends"


# short tasks


async def test_task_set_is_bounded_and_a_refused_task_never_runs() -> None:
    ran: list[int] = []

    async def work(number: int) -> int:
        ran.append(number)
        await asyncio.sleep(0)
        return number

    tasks = TaskSet("work", limit=2)
    kept = [tasks.spawn(work(1)), tasks.spawn(work(2))]
    with pytest.raises(Refused) as caught:
        _ = tasks.spawn(work(3))
    assert caught.value.code == "queue_full"
    assert await asyncio.gather(*kept) == [1, 2]
    await asyncio.sleep(0)
    assert len(tasks) == 0
    assert await tasks.spawn(work(4)) == 4
    assert ran == [1, 2, 4]


async def test_failure_of_a_task_is_counted_and_stops_nothing() -> None:
    async def broken() -> None:
        fail()

    tasks = TaskSet("work", limit=2)
    task = tasks.spawn(broken())
    await asyncio.wait({task})
    await asyncio.sleep(0)
    assert (tasks.failures, len(tasks)) == (1, 0)


async def test_closed_task_set_lets_tasks_end_and_then_cancels_them() -> None:
    ended: list[str] = []
    release = asyncio.Event()

    async def work(name: str, wait: asyncio.Event) -> None:
        try:
            await wait.wait()
            ended.append(f"{name} done")
        except asyncio.CancelledError:
            ended.append(f"{name} cancelled")
            raise

    tasks = TaskSet("work", limit=5)
    _ = tasks.spawn(work("quick", release))
    _ = tasks.spawn(work("stuck", asyncio.Event()))
    asyncio.get_running_loop().call_later(0.01, release.set)
    await tasks.aclose(0.1)
    assert ended == ["quick done", "stuck cancelled"]
    with pytest.raises(Refused):
        _ = tasks.spawn(work("late", release))
