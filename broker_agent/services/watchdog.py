"""Ends tasks whose time is over, whatever else the agent is doing.

The loop does it in the usual way (TERM, grace, KILL). A thread stands behind it for the case that
the loop itself hangs: it knows nothing but deadlines and which process groups there are. Behind
both stands the warden, a process of its own, for the case that the whole agent hangs or is gone.
"""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import structlog

from broker_agent.core.lease import Phase
from broker_agent.core.tasks import Entry, Key
from broker_agent.executors.groups import signal_group
from broker_agent.services.running import Running
from broker_agent.services.wire import Station

# How often the thread looks. It sees that a host has woken from suspend, which no timer tells.
LOOK_S: Final = 1.0
_NEVER: Final = float("inf")

log = structlog.get_logger(__name__)


class Watchdog:
    """Tells `station.standing` of each change of the lease's phase that time brought."""

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
        self._fenced: set[Key] = set()

    def nudge(self) -> None:
        """The lease or the tasks have changed."""
        self._wake.set()

    def on_free(self) -> None:
        """A task has ended: what may wait for that is the end of a fencing."""
        if self._lease.phase is Phase.FENCING:
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
        """Of the tasks that have leave to go on for longer than the lease."""
        for entry in self._book.active():
            fence_at = self._lease.fence_at(entry.kill_after_s)
            if entry.stop is None and entry.kill_after_s and fence_at is not None:
                yield fence_at

    def check(self) -> None:
        """Before anything else is done: is anybody's time over? Costs next to nothing if not."""
        fence_at = self._lease.fence_at()
        if fence_at is not None and self._clock.elapsed() >= fence_at:
            self.look()

    def look(self) -> None:
        """Let time pass, and end whose time is over."""
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
        if phase is Phase.FENCING and not overdue:
            self._lease.on_fenced()
            phase = self._lease.phase
        if phase is not self._phase:
            self._phase = phase
            self._standing()

    def _fence(self, entry: Entry, now: float) -> None:
        """Once for each. What is left of its grace counts from the deadline, not from now."""
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
            # The loop may change the book, or end, between one line and the next: then it lives.
            with suppress(RuntimeError):
                self._guard_once(self._clock.elapsed())

    def _guard_once(self, now: float) -> None:
        grace_s = self._lease.timers.grace_s
        for entry in self._book.active():
            if not self._lease.has_run_out(entry.kill_after_s, now):
                continue
            if self._lease.has_run_out(entry.kill_after_s, now - grace_s) and entry.pid:
                # The loop should long have done it. Its dead are not reaped: no number is reused.
                signal_group(entry.pid, signal.SIGKILL)
            else:
                self._loop.call_soon_threadsafe(self.nudge)
