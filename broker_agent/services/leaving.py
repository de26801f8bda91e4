"""Shutdown of an agent: drains, stops tasks and sends their reports, each with a timeout."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from broker_agent.services.heartbeats import Heartbeats
from broker_agent.services.reporter import Reporter
from broker_agent.services.runner import Runner
from broker_agent.services.running import Running
from broker_agent.services.wire import Station
from broker_client.runtime.notify import ServiceManager
from schemas.faults import MeshError
from schemas.states import State

# Longest wait for the master to store the reports; the rest waits on the disk.
REPORT_S: Final = 10.0
# Longest wait for the record and the report of ends, which take milliseconds.
TOLD_S: Final = 3.0
FLUSH_S: Final = 1.0
_WHY: Final = "the agent was stopped"

log = structlog.get_logger(__name__)


class Leaving:
    """Shutdown. drain_s: seconds that tasks may go on. manager: notified that the agent stops.

    flush: waits until the broker has all sent messages.
    """

    def __init__(
        self,
        station: Station,
        *,
        running: Running,
        runner: Runner,
        reporter: Reporter,
        heartbeats: Heartbeats,
        manager: ServiceManager,
        flush: Callable[[float], Awaitable[None]],
        drain_s: float,
    ) -> None:
        self._station = station
        self._running = running
        self._runner = runner
        self._reporter = reporter
        self._heartbeats = heartbeats
        self._manager = manager
        self._flush = flush
        self._drain_s = drain_s

    @property
    def standing(self) -> str:
        """Status line for the service manager."""
        running = f"{self._station.book.running} tasks running"
        if self._running.is_draining:
            return f"stopping, {running}"
        return f"{self._station.lease.phase.lower()}, {running}"

    async def leave(self, stop_now: asyncio.Event) -> None:
        """Wait for the tasks and their reports, then send `goodbye`. stop_now: ends the wait."""
        self._running.drain()
        self._manager.tell("STOPPING=1", f"STATUS={self.standing}")
        self._station.fitness()
        log.info("draining", running=self._station.book.running)
        await self._end_tasks(stop_now)
        # Before the goodbye, after which the master expects no reports.
        with suppress(TimeoutError):
            async with asyncio.timeout(TOLD_S):
                await self._runner.wait_told()
        self._reporter.say_last()
        with suppress(TimeoutError):
            async with asyncio.timeout(0 if stop_now.is_set() else REPORT_S):
                await self._runner.wait_released()
        self._heartbeats.send(goodbye=True)
        with suppress(MeshError):
            await self._flush(FLUSH_S)
        log.info("stopped", unreported=len(self._station.book))

    async def _end_tasks(self, stop_now: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            hurry = group.create_task(self._hurry(stop_now))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._drain_s):
                    await self._runner.wait_idle()
            self._running.stop_all(State.CANCELLED, _WHY)
            await self._runner.wait_idle()
            hurry.cancel()

    async def _hurry(self, stop_now: asyncio.Event) -> None:
        await stop_now.wait()
        self._running.stop_all(State.CANCELLED, _WHY)
        self._running.kill_all()
