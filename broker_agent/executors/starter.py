"""Starts programs in worker threads: the loop goes on during exec.

start ─▶ orders ─▶ thread: spawn ─▶ results ─▶ loop: done
                                       └─ at once, or together with later ones within LOOK_S

A program on a dead disk blocks one thread; another thread replaces it.
"""

import asyncio
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

import structlog

from broker_agent.executors.spawn import CannotStart, SpawnOrder, spawn

# More threads would only compete for the processors, unless one is blocked.
THREADS: Final = 2
THREADS_MAX: Final = 16
STUCK_S: Final = 1.0
# Interval at which results are delivered while orders wait; a wake-up for each would starve the
# loop.
LOOK_S: Final = 0.005
_IDLE_LOOK_S: Final = 0.25
# Longest wait for starts under way when the agent ends.
CLOSE_S: Final = 5.0

OnSpawned = Callable[[int | CannotStart], None]

log = structlog.get_logger(__name__)


class _Start(NamedTuple):
    order: SpawnOrder
    done: OnSpawned
    is_wanted: Callable[[], bool]
    prepare: Callable[[SpawnOrder], SpawnOrder]


class Starter:
    """Starter of one loop; `close` it before the loop. Threads are made on demand.

    The agent's slots bound its queue.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        spawn_one: Callable[[SpawnOrder], int] = spawn,
        *,
        stuck_s: float = STUCK_S,
        close_s: float = CLOSE_S,
    ) -> None:
        self._loop = loop
        self._spawn = spawn_one
        self._stuck_s = stuck_s
        self._close_s = close_s
        self._threads: list[threading.Thread] = []
        # Start time of the program that each thread is blocked on.
        self._busy: dict[int, float] = {}
        self._orders: SimpleQueue[_Start | None] = SimpleQueue()
        self._results: deque[tuple[OnSpawned, int | CannotStart]] = deque()
        self._lock = threading.Lock()  # guards _is_over, after which nothing goes into _results
        self._is_over = False
        self._under_way = 0
        self._is_called = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def threads(self) -> int:
        return len(self._threads)

    @property
    def is_behind(self) -> bool:
        """Whether orders wait for a thread."""
        return not self._orders.empty()

    def start(
        self,
        order: SpawnOrder,
        done: OnSpawned,
        is_wanted: Callable[[], bool] = lambda: True,
        prepare: Callable[[SpawnOrder], SpawnOrder] = lambda order: order,
    ) -> None:
        """Queue a start. `done` gets the pid, or the failure, in the loop.

        is_wanted: called in a thread just before the start; False cancels the start. prepare:
        called there next, completes the order.
        """
        while len(self._threads) < THREADS:
            self._add_thread()
        self._under_way += 1
        self._orders.put(_Start(order, done, is_wanted, prepare))
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_S, self._look)

    def close(self) -> None:
        """Refuse new starts and deliver those under way; a program that hangs is killed later."""
        with suppress(Empty):
            while True:
                start = self._orders.get_nowait()
                if start is not None:
                    start.order.close_given()
                    self._results.append((start.done, CannotStart("the agent is ending")))
        for _ in self._threads:
            self._orders.put(None)
        until = time.monotonic() + self._close_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        with self._lock:
            self._is_over = True
        self._threads.clear()
        self._deliver()
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        self._deliver()
        if self._under_way:
            self._replace_stuck()
            pause_s = LOOK_S if self.is_behind else _IDLE_LOOK_S
            self._timer = self._loop.call_later(pause_s, self._look)

    def _replace_stuck(self) -> None:
        count = len(self._threads)
        if not self.is_behind or count >= THREADS_MAX or len(self._busy) < count:
            return
        before = time.monotonic() - self._stuck_s
        if all(since < before for since in list(self._busy.values())):
            log.warning("starts_stuck", threads=count)
            self._add_thread()

    def _add_thread(self) -> None:
        number = len(self._threads)
        thread = threading.Thread(
            target=self._work, args=(number,), name=f"starter-{number}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _work(self, number: int) -> None:
        while (start := self._orders.get()) is not None:
            self._busy[number] = time.monotonic()
            result = self._try(start)
            del self._busy[number]
            with self._lock:
                if self._is_over:
                    _end_unowned(result)
                    continue
                self._results.append((start.done, result))
                is_to_call = not self._is_called and self._orders.empty()
                self._is_called |= is_to_call
            if is_to_call:
                with suppress(RuntimeError):  # the loop is closed, after `close`
                    self._loop.call_soon_threadsafe(self._deliver)

    def _try(self, start: _Start) -> int | CannotStart:
        order = start.order
        try:
            if not start.is_wanted():
                return CannotStart("stopped before it began")
            order = start.prepare(order)
            return self._spawn(order)
        except CannotStart as fault:
            return fault
        except Exception as error:  # noqa: BLE001  it ends this task alone
            return CannotStart(f"cannot run {start.order.argv[0][:200]}: {error}")
        finally:
            order.close_given()

    def _deliver(self) -> None:
        self._is_called = False
        while self._results:
            done, result = self._results.popleft()
            self._under_way -= 1
            try:
                done(result)
            except Exception as error:  # noqa: BLE001  one task must not hide another's start
                context = {"message": "the start of a program went wrong", "exception": error}
                self._loop.call_exception_handler(context)
        if not self._under_way and self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _end_unowned(result: int | CannotStart) -> None:
    """Kill a program that was started after `close`: no other code would end it."""
    if isinstance(result, int):
        with suppress(OSError):
            os.killpg(result, signal.SIGKILL)
