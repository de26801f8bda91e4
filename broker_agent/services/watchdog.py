"""The watchdog: ends tasks whose deadline has passed, even if the agent's loop hangs.

The loop stops them with TERM, grace and KILL. A thread is the fallback for a loop that hangs: it
knows only deadlines and process groups. The warden, a process of its own, is the fallback for an
agent that hangs or is gone.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import structlog

from broker_agent.core.lease import LeasePhase
from broker_agent.core.tasks import AttemptKey, TaskEntry
from broker_agent.services.running import Running
from broker_agent.services.wire import Station

# Interval of the thread's looks. They notice a wake-up from suspend, which timers do not.
LOOK_S: Final = 1.0
_NEVER: Final = float("inf")

log = structlog.get_logger(__name__)


class Watchdog:
    """Watchdog. Calls `station.standing` after each change of the lease's phase by time."""

    name = "watchdog"

    def __init__(self, station: Station, running: Running) -> None:
        self._lease = station.lease
        self._clock = station.clock
        self._book = station.book
        self._running = running
        self._standing = station.standing
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._ended = threading.Event()
        self._phase = station.lease.phase
        self._fenced: set[AttemptKey] = set()

    def nudge(self) -> None:
        """Compute the deadlines again, after a change of the lease or the tasks."""
        self._wake.set()

    def on_free(self) -> None:
        """Look again after the end of a task, which may complete a fencing."""
        if self._lease.phase is LeasePhase.FENCING:
            self.nudge()

    async def run(self, ready: asyncio.Event) -> None:
        guard = threading.Thread(target=self._guard, name="guard", daemon=True)
        guard.start()
        ready.set()
        try:
            while True:
                self.look()
                self._wake.clear()
                try:
                    async with asyncio.timeout(self._pause_s()):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            self._ended.set()
            guard.join(LOOK_S)

    def _pause_s(self) -> float | None:
        next_at = min(self._deadlines(), default=_NEVER)
        change_at = self._lease.next_change_at()
        if change_at is not None:
            next_at = min(next_at, change_at)
        return None if next_at == _NEVER else max(0.0, next_at - self._clock.elapsed()) + 0.001

    def _deadlines(self) -> Iterator[float]:
        """Deadlines of the tasks that may outlive the lease."""
        for entry in self._book.active():
            fence_at = self._lease.fence_at(entry.kill_after_s)
            if entry.stop is None and entry.kill_after_s and fence_at is not None:
                yield fence_at

    def check(self) -> None:
        """End tasks whose deadline has passed, before other work; cheap if there are none."""
        fence_at = self._lease.fence_at()
        if fence_at is not None and self._clock.elapsed() >= fence_at:
            self.look()

    def look(self) -> None:
        """Advance the lease, and end tasks whose deadline has passed."""
        now = self._clock.elapsed()
        phase = self._lease.on_tick(now)
        overdue = [
            entry
            for entry in self._book.active()
            if self._lease.has_run_out(entry.kill_after_s, now)
        ]
        for entry in overdue:
            if entry.key not in self._fenced:
                self._fence(entry, now)
        self._fenced &= {entry.key for entry in overdue}
        if phase is LeasePhase.FENCING and not overdue:
            self._lease.on_fenced()
            phase = self._lease.phase
        if phase is not self._phase:
            self._phase = phase
            self._standing()

    def _fence(self, entry: TaskEntry, now: float) -> None:
        """Fence a task once. Its grace counts from the deadline, not from now."""
        self._fenced.add(entry.key)
        timers = self._lease.timers
        left_s = timers.fence_after_s(entry.kill_after_s) + timers.grace_s - self._lease.age_s(now)
        reason = f"the master was silent for {self._lease.age_s(now):.0f} s"
        log.error("fencing", command_id=entry.command, attempt=entry.attempt, reason=reason)
        self._running.fence(entry, reason, max(0.0, left_s))

    # The thread.

    def _guard(self) -> None:
        while not self._ended.wait(LOOK_S):
            if not self._book.running:
                continue
            # The loop may change the book concurrently, or end: then it does not hang.
            with suppress(RuntimeError):
                self._guard_once(self._clock.elapsed())

    def _guard_once(self, now: float) -> None:
        grace_s = self._lease.timers.grace_s
        for entry in self._book.active():
            if not self._lease.has_run_out(entry.kill_after_s, now):
                continue
            is_hung = self._lease.has_run_out(entry.kill_after_s, now - grace_s)
            if not (is_hung and self._running.force(entry)):
                self._loop.call_soon_threadsafe(self.nudge)
