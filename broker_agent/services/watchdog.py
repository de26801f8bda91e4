"""Ends all tasks when the lease has run out, whatever else the agent is doing.

The loop does it in the usual way (TERM, grace, KILL). A thread stands behind it for the case that
the loop itself hangs: it knows nothing but a deadline and which process groups there are.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

import structlog

from broker_agent.core.lease import Phase
from broker_agent.executors.groups import signal_group
from broker_agent.services.runner import Runner
from broker_agent.services.wire import Station
from schemas.states import State

REASON: Final = "the master was silent for too long"
# How often the thread looks. It sees that a host has woken from suspend, which no timer tells.
LOOK_S: Final = 1.0

log = structlog.get_logger(__name__)


class Watchdog:
    """groups: the process groups that run now; read by the thread as well.

    on_phase: called after each change of the lease's phase that time brought.
    """

    name = "watchdog"

    def __init__(
        self, station: Station, runner: Runner, groups: Callable[[], Iterable[int]]
    ) -> None:
        self._lease = station.lease
        self._clock = station.clock
        self._book = station.book
        self._runner = runner
        self._groups = groups
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._ended = threading.Event()
        self._phase = station.lease.phase
        self.on_phase: Callable[[Phase], None] = lambda _: None

    def nudge(self) -> None:
        """The lease or the tasks have changed."""
        self._wake.set()

    async def run(self, ready: asyncio.Event) -> None:
        guard = threading.Thread(target=self._guard, name="guard", daemon=True)
        guard.start()
        ready.set()
        try:
            while True:
                self._look()
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
        change_at = self._lease.next_change_at()
        return None if change_at is None else max(0.0, change_at - self._clock.elapsed()) + 0.001

    def _look(self) -> None:
        phase = self._lease.on_tick(self._clock.elapsed())
        if phase is Phase.FENCING:
            if self._phase is not Phase.FENCING:
                log.error("fencing", running=self._book.running, reason=REASON)
            self._runner.stop_all(State.KILLED_FENCED, REASON)
            if not self._book.active():
                self._lease.on_fenced()
                phase = self._lease.phase
        if phase is not self._phase:
            self._phase = phase
            self.on_phase(phase)

    # The thread.

    def _guard(self) -> None:
        while not self._ended.wait(LOOK_S):
            fence_at = self._lease.fence_at()
            if fence_at is None or not self._book.running:
                continue
            now = self._clock.elapsed()
            if now >= fence_at + self._lease.timers.grace_s:
                self._kill()
            elif now >= fence_at:
                # The loop may end between this line and the next: then there is nothing to do.
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self.nudge)

    def _kill(self) -> None:
        """The loop should long have done it. Its dead are not reaped, so no number is reused."""
        try:
            groups = list(self._groups())
        except RuntimeError:
            return  # the set changed while it was read, so the loop does not hang
        for pgid in groups:
            signal_group(pgid, signal.SIGKILL)
