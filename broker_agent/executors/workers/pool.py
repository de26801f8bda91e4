"""The pool of worker processes: one for each call under way, idle ones for a while.

take ─▶ idle one of this profile and hash ─▶ call ─▶ idle again
     └▶ a new process, at once used

A worker whose call was stopped, whose profile has changed, or that has lived its time, is closed.
What a killed worker has left at the server is ended by another one.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import structlog

from broker_agent.connectors.confine import make_cell
from broker_agent.connectors.frames import Answered, EndSession, Hold, Setup, pair
from broker_agent.executors.cells import Cells
from broker_agent.executors.exits import Exits
from broker_agent.executors.spawn import CannotStart, Files, SpawnOrder, spawn
from broker_agent.executors.starter import Starter
from broker_agent.executors.workers.process import MARK, Worker

IDLE_S: Final = 60.0
LIFE_S: Final = 3600.0
# Longest time for the end of a session at the server, and of a worker that was closed.
END_S: Final = 10.0
HOLD_LOOK_S: Final = 0.25
_MODULE: Final = "broker_agent.connectors.worker"
# Variables of the agent that workers get, beside those that their profile refers to.
_PASSED: Final = ("PATH", "LANG", "TZ", "PYTHONPATH", "VIRTUAL_ENV", "CREDENTIALS_DIRECTORY")

log = structlog.get_logger(__name__)


class UsedProfile(Protocol):
    """The part of a profile in use that workers need."""

    @property
    def name(self) -> str: ...
    @property
    def hash(self) -> str: ...
    @property
    def variables(self) -> Sequence[str]: ...
    def order(self) -> bytes:
        """The order for a worker, for its `ready.take_up`."""


OnWorker = Callable[[Worker], None]
OnNone = Callable[[str], None]


class PoolPorts(Protocol):
    """The part of `ExecutorPorts` that workers need."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def marks(self) -> Mapping[str, str]: ...
    @property
    def others(self) -> set[int]: ...
    @property
    def cells(self) -> Cells: ...
    @property
    def is_spool_high(self) -> Callable[[], bool]: ...


class WorkerPool:
    """Workers of one agent. started, lost: numbers of processes, and of those that ended in a call.

    is_spool_high: whether so much output waits for the broker that no more may be written.
    """

    def __init__(self, ports: PoolPorts) -> None:
        self._loop = ports.loop
        self._marks = ports.marks
        self._others = ports.others
        self._cells = ports.cells
        self._is_spool_high = ports.is_spool_high
        self._exits = Exits(ports.loop)
        self._starter = Starter(ports.loop, spawn)
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._all: set[Worker] = set()
        self._idle: dict[tuple[str, str], list[Worker]] = {}
        self._hold_timer: asyncio.TimerHandle | None = None
        self._is_ending = False
        self._number = 0
        self.started = 0
        self.lost = 0

    @property
    def workers(self) -> Sequence[Worker]:
        return list(self._all)

    @property
    def is_behind(self) -> bool:
        return self._starter.is_behind

    def take(self, profile: UsedProfile, taken: OnWorker, failed: OnNone) -> None:
        """Give a worker to `taken`, now or later, or tell `failed` why there is none.

        The receiver sends a call to it, or gives it back with `give_back`.
        """
        key = (profile.name, profile.hash)
        idle = self._idle.get(key)
        if idle:
            taken(idle.pop())
            return
        if self._is_ending:
            failed("the agent is ending")
            return
        self._start(profile, taken, failed)

    def give_back(self, worker: Worker) -> None:
        """Keep a worker for the next call."""
        if worker.is_gone or worker.is_retired:
            return
        if worker.is_on_hold:
            # Of the call that has ended; the next one is held up only if the spool is still high.
            worker.is_on_hold = not worker.order(Hold(False))
        now = time.monotonic()
        worker.idle_since = now
        if self._is_ending or now - worker.born_at > LIFE_S:
            self.retire(worker)
        else:
            self._idle.setdefault(worker.profile, []).append(worker)

    def retire(self, worker: Worker) -> None:
        """Close a worker that is not used again; it is killed if it does not end."""
        if worker.is_retired or worker.is_gone:
            return
        idle = self._idle.get(worker.profile, [])
        if worker in idle:
            idle.remove(worker)
        self._loop.remove_reader(worker.fileno())
        worker.close()
        self._loop.call_later(END_S, worker.kill)

    def end_session(self, profile: UsedProfile, server_id: str) -> None:
        """End, by another worker, the session that a killed one has left at the server."""
        if not server_id or self._is_ending:
            return

        def taken(worker: Worker) -> None:
            worker.caller = _Ending(self, worker, self._loop.call_later(END_S, worker.kill))
            worker.order(EndSession(server_id=server_id))

        def failed(why: str) -> None:
            log.warning("session_not_ended", profile=profile.name, reason=why)

        self.take(profile, taken, failed)

    def keep(self, used: Callable[[str], str | None]) -> None:
        """Close workers that were idle for long, and those of profiles that have changed.

        used: returns the hash of a profile in use, or None.
        """
        now = time.monotonic()
        for (name, hash_), idle in list(self._idle.items()):
            is_used = used(name) == hash_
            for worker in list(idle):
                if not is_used or now - worker.idle_since > IDLE_S or now - worker.born_at > LIFE_S:
                    self.retire(worker)
            if not idle:
                self._idle.pop((name, hash_), None)

    def watch_spool(self) -> None:
        """Hold up workers in calls while the spool is high; called when one begins."""
        if self._hold_timer is None:
            self._hold_timer = self._loop.call_later(HOLD_LOOK_S, self._look_at_spool)

    def _look_at_spool(self) -> None:
        self._hold_timer = None
        is_high, is_any = self._is_spool_high(), False
        for worker in list(self._all):
            if worker.caller is None or worker.is_gone:
                continue
            is_any = True
            if worker.is_on_hold != is_high:
                worker.is_on_hold = is_high
                worker.order(Hold(is_high))
        if is_any:
            self.watch_spool()

    # Processes.

    def _start(self, profile: UsedProfile, taken: OnWorker, failed: OnNone) -> None:
        self._number += 1
        path = self._cells.path(f"worker.{self._number}")
        name = f"{self._marks.get('MESH_INCARNATION', '')}.{self._number}"
        try:
            ours, theirs = pair()
        except OSError as error:
            failed(f"no socket for a worker: {error.strerror}")
            return
        fd = os.dup(theirs.fileno())
        theirs.close()
        order = SpawnOrder(
            [sys.executable, "-B", "-m", _MODULE],
            self._environment(profile, name),
            "/",
            None,
            Files(fd, self._null, self._null),
            given=(fd,),
        )

        def done(born: int | CannotStart) -> None:
            if isinstance(born, CannotStart):
                ours.close()
                failed(born.message)
                return
            cell = make_cell(path)
            worker = Worker(born, ours, (profile.name, profile.hash), name, cell)
            try:
                self._enter(worker)
            except OSError as error:
                worker.kill()
                worker.reap()
                failed(f"the worker cannot be watched: {error.strerror}")
                return
            worker.order(Setup(order=profile.order(), profile=profile.hash, cell=cell))
            taken(worker)

        self._starter.start(order, done)

    def _enter(self, worker: Worker) -> None:
        self._exits.watch(worker.pid, lambda: self._on_exit(worker))
        worker.born_at = worker.idle_since = time.monotonic()
        self.started += 1
        self._all.add(worker)
        self._others.add(worker.pid)
        self._loop.add_reader(worker.fileno(), self._on_readable, worker)
        log.info("worker_started", profile=worker.profile[0], pid=worker.pid)

    def _on_readable(self, worker: Worker) -> None:
        if not worker.on_readable() and not worker.is_gone:
            self._loop.remove_reader(worker.fileno())

    def _environment(self, profile: UsedProfile, name: str) -> dict[bytes, bytes]:
        names = {*_PASSED, *profile.variables}
        found = {
            os.fsencode(each): os.fsencode(os.environ[each]) for each in names if each in os.environ
        }
        found.setdefault(b"PATH", os.defpath.encode())
        marks = {each.encode(): value.encode() for each, value in self._marks.items()}
        return {**found, **marks, MARK.encode(): name.encode()}

    def _on_exit(self, worker: Worker) -> None:
        self._loop.remove_reader(worker.fileno())
        worker.is_retired = True
        worker.read_rest()
        idle = self._idle.get(worker.profile, [])
        if worker in idle:
            idle.remove(worker)
        ended = worker.reap()
        self._all.discard(worker)
        self._others.discard(worker.pid)
        caller, worker.caller = worker.caller, None
        if caller is not None:
            self.lost += 1
            log.warning("worker_lost", profile=worker.profile[0], pid=worker.pid, end=ended)
            caller.on_gone(f"the worker process {ended}")
        else:
            log.info("worker_ended", profile=worker.profile[0], pid=worker.pid, end=ended)

    def kill_all(self) -> None:
        self._is_ending = True
        for worker in list(self._all):
            worker.kill()

    def close(self) -> None:
        """Release all, after `kill_all`."""
        self._starter.close()
        if self._hold_timer is not None:
            self._hold_timer.cancel()
        for worker in list(self._all):
            self._loop.remove_reader(worker.fileno())
            worker.kill()
            worker.reap()
        self._exits.close()
        os.close(self._null)


class _Ending:
    """The order to a worker to end a session at the server."""

    def __init__(self, pool: WorkerPool, worker: Worker, limit: asyncio.TimerHandle) -> None:
        self._pool = pool
        self._worker = worker
        self._limit = limit

    def on_answer(self, said: Answered) -> None:
        self._limit.cancel()
        if said.code:
            log.warning("session_not_ended", profile=self._worker.profile[0], reason=said.message)
        self._pool.give_back(self._worker)

    def on_gone(self, why: str) -> None:
        self._limit.cancel()
        log.warning("session_not_ended", profile=self._worker.profile[0], reason=why)
