"""Owners of asyncio tasks: services for the life of the process, and sets of short tasks."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol, TypeVar

import structlog

from broker_client.runtime.rates import Shares
from schemas.faults import Refused

log = structlog.get_logger(__name__)
T = TypeVar("T")


class Service(Protocol):
    """A long-lived part of a process, which runs until it is cancelled.

    `run` sets `ready` when other services may use it. Returning is a failure.
    """

    @property
    def name(self) -> str: ...

    async def run(self, ready: asyncio.Event) -> None: ...


class ServiceEnded(Exception):
    """A service returned without a cancellation."""


async def supervise(
    services: Sequence[Service], stop: asyncio.Event, *, start_timeout_s: float
) -> None:
    """Start `services` in order, stop them in reverse once `stop` is set, also during the start.

    Each is ready before the next is started, and has ended before the one before it is cancelled.
    If any fails or returns early, all are cancelled at once and an ExceptionGroup with the failure
    is raised; durable state must be on disk already. A service that is not ready in
    `start_timeout_s` is a failure, too (TimeoutError).
    """
    async with asyncio.TaskGroup() as group:
        running: list[asyncio.Task[None]] = []
        for service in services:
            if stop.is_set():
                break
            ready = asyncio.Event()
            running.append(group.create_task(_until_cancelled(service, ready), name=service.name))
            async with asyncio.timeout(start_timeout_s):
                await _first_of(ready, stop)
        await stop.wait()
        for task in reversed(running):
            task.cancel()
            await asyncio.wait({task})


async def _first_of(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waiters = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()


async def _until_cancelled(service: Service, ready: asyncio.Event) -> None:
    await service.run(ready)
    raise ServiceEnded(service.name)


class TaskSet:
    """Owner of short tasks: at most `limit` at a time, all referenced, failures logged.

    A failure ends its task only; for the outcome keep the task that `spawn` returns. share: limit
    of tasks for one owner; a quarter of the places is reserved for tasks without an owner.
    """

    def __init__(self, name: str, *, limit: int, share: int | None = None) -> None:
        self._name = name
        self._limit = limit
        self._shares = Shares(limit - limit // 4, share or limit)
        self._tasks: set[asyncio.Task[object]] = set()
        self._is_closed = False
        self.failures = 0

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, coro: Coroutine[Any, Any, T], owner: str = "") -> "asyncio.Task[T]":
        """Run `coro` as a task. Raises Refused (`queue_full`) above the limit, without running it.

        owner: peer that caused the task, if it is one of many.
        """
        if self._is_closed or len(self._tasks) >= self._limit:
            coro.close()
            raise Refused("queue_full", f"{self._name}: {len(self._tasks)} tasks are running")
        if owner and not self._shares.take(owner):
            coro.close()
            raise Refused("queue_full", f"{self._name}: {owner} has its share of tasks running")
        task = asyncio.get_running_loop().create_task(coro, name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        if owner:
            task.add_done_callback(lambda _: self._shares.give_back(owner))
        return task

    async def serve(self, ready: asyncio.Event) -> None:
        """Own the tasks as a service; its cancellation cancels all of them."""
        ready.set()
        try:
            await asyncio.Event().wait()
        finally:
            await self.aclose(0)

    async def aclose(self, timeout_s: float) -> None:
        """Wait for the tasks for `timeout_s`, then cancel them; none is left after this."""
        self._is_closed = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _forget(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self.failures += 1
            log.error("task_failed", owner=self._name, exc_info=error)
