"""Actions through connections: each call is made by a worker process, never by the agent.

start ─▶ worker ─▶ call, with the task's file for its output ─▶ answer ─▶ end
             stop ─▶ cancel ─▶ TERM ─▶ KILL ─▶ another worker ends what is left at the server
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from broker_agent.connectors.frames import Answered, CallOrder, Cancel
from broker_agent.core.calls import Act, Answer, CallEffect, CallPhase, CallState
from broker_agent.core.program import Ending
from broker_agent.executors.base import Executor, Job, Mark, OnEnd, OnStart, Way
from broker_agent.executors.fenced import Fenced
from broker_agent.executors.spawn import CannotStart
from broker_agent.executors.workers.pool import PoolPorts, UsedProfile, WorkerPool
from broker_agent.executors.workers.process import Worker
from broker_agent.warden.table import WardenTable
from schemas import codec
from schemas.faults import MeshError, Refused
from schemas.messages.actions import ActionArgs, action_of
from schemas.messages.actions.http import READING, HttpRequestArgs
from schemas.states import State

# Longest time of a call whose master names none.
TIMEOUT_S: Final = 60.0
# Codes after which a worker is not used again.
SPENT: Final = frozenset({"connector_missing", "worker_lost"})


class ConnectionPorts(PoolPorts, Protocol):
    """The part of `ExecutorPorts` that calls need."""

    @property
    def grace_s(self) -> Callable[[], float]: ...
    @property
    def elapsed(self) -> Callable[[], float]: ...
    @property
    def table(self) -> WardenTable: ...
    @property
    def find_profile(self) -> Callable[[str], UsedProfile]: ...


class ConnectionTask(Fenced):
    """One call: performs the decisions of `core.calls`."""

    def __init__(
        self,
        owner: "ConnectionExecutor",
        job: Job,
        profile: UsedProfile,
        on_start: OnStart,
        on_end: OnEnd,
    ) -> None:
        self.pid = 0
        self._owner: ConnectionExecutor = owner
        self._job = job
        self._profile = profile
        self._on_start = on_start
        self._on_end = on_end
        self._loop = owner.loop
        self._state = CallState(owner.grace_s, reads=reads(job.args))
        self._timeout_s = job.way.timeout_s or TIMEOUT_S
        self._worker: Worker | None = None
        self._timers: dict[Act, asyncio.TimerHandle] = {}
        # The time for the start of a worker counts.
        self._until = self._loop.time() + self._timeout_s
        self._limit = self._loop.call_at(self._until, self._on_limit)
        self._place = owner.table.enter(f"{job.command}.{job.attempt}", job.outlives_s)

    # Its worker.

    def begin(self, worker: Worker) -> None:
        """Make the call, or give the worker back if it is no longer wanted."""
        if self._state.phase is CallPhase.ENDED:
            self._owner.pool.give_back(worker)
            return
        job = self._job
        worker.caller = self
        self._worker = worker
        self.pid = worker.pid
        self._owner.table.note_process(self._place, worker.pid, worker.start)
        self._state.on_sent()
        order = CallOrder(
            id=job.command,
            key=job.way.key or job.command,
            action=action_of(job.args).name,
            args=codec.encode(job.args),
            timeout_s=max(0.0, self._until - self._loop.time()),
            output_bytes=job.output_bytes,
        )
        if worker.order(order, [job.folder.stdout]):
            self._on_start()
        self._owner.pool.watch_spool()

    def on_no_worker(self, why: str) -> None:
        self._perform(self._state.on_gone("worker_lost", why))

    def on_answer(self, said: Answered) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            pool = self._owner.pool
            is_spent = self._state.is_stopped or said.code in SPENT
            (pool.retire if is_spent else pool.give_back)(worker)
        self._perform(
            self._state.on_answer(Answer(said.result, said.code, said.message, said.effect))
        )

    def on_gone(self, why: str) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            self._owner.pool.end_session(self._profile, worker.server_id)
        self._perform(self._state.on_gone("worker_lost", why))

    # Its stop.

    def _on_limit(self) -> None:
        self._perform(self._state.on_limit(self._timeout_s, self._loop.time()))

    def stop(self, state: State, reason: str, grace_s: float | None = None) -> None:
        self._perform(self._state.on_stop(state, reason, grace_s, self._loop.time()))

    def kill(self) -> None:
        self._perform(self._state.on_kill(self._loop.time()))

    def force(self) -> None:
        worker = self._worker
        if worker is not None:
            worker.kill()

    def identify(self) -> Mark:
        worker = self._worker
        return (worker.pid, worker.start) if worker is not None else (0, 0)

    def _perform(self, effects: list[CallEffect]) -> None:
        worker = self._worker
        for effect in effects:
            match effect.act:
                case Act.END:
                    assert effect.ending is not None  # noqa: S101  (an END has one)
                    self._end(effect.ending)
                case Act.CANCEL:
                    if worker is not None:
                        worker.order(Cancel())
                case Act.TERM:
                    if worker is not None:
                        worker.terminate()
                case Act.KILL:
                    if worker is not None:
                        worker.kill()
                case timed:
                    self._cancel(timed)
                    self._timers[timed] = self._loop.call_at(effect.at, self._on_due, timed)

    def _on_due(self, timed: Act) -> None:
        del self._timers[timed]
        if timed is Act.GIVE_UP_AT:
            self.on_gone("the worker process cannot be killed")
        else:
            self._perform([CallEffect(Act.TERM if timed is Act.TERM_AT else Act.KILL)])

    def _cancel(self, timed: Act) -> None:
        timer = self._timers.pop(timed, None)
        if timer is not None:
            timer.cancel()

    def _end(self, ending: Ending) -> None:
        self._owner.table.clear(self._place)
        self._place = -1
        self._limit.cancel()
        for timed in list(self._timers):
            self._cancel(timed)
        self._owner.tasks.discard(self)
        self._job.folder.fix_sizes()
        # Never within `start`, whose caller has no task yet.
        self._loop.call_soon(self._on_end, ending)


class ConnectionExecutor(Executor):
    """Makes calls through connections."""

    def __init__(self, ports: ConnectionPorts) -> None:
        self.loop = ports.loop
        self.grace_s = ports.grace_s
        self.elapsed = ports.elapsed
        self.table = ports.table
        self.pool = WorkerPool(ports)
        self.tasks: set[ConnectionTask] = set()
        self._find_profile = ports.find_profile

    def admit(self, args: ActionArgs, way: Way) -> None:
        if not way.connection:
            action = action_of(args).name
            raise Refused("connection_needed", f"{action} works through a connection")
        self._find_profile(way.connection)

    def is_repeatable(self, args: ActionArgs) -> bool:
        return reads(args)

    def start(self, job: Job, on_start: OnStart, on_end: OnEnd) -> ConnectionTask:
        if not job.way.connection:
            raise CannotStart("the command names no connection")
        # Looked for again: the file may be gone since the command was admitted.
        profile = self._find_profile(job.way.connection)
        task = ConnectionTask(self, job, profile, on_start, on_end)
        self.tasks.add(task)
        self.loop.call_soon(self.pool.take, profile, task.begin, task.on_no_worker)
        return task

    @property
    def is_behind(self) -> bool:
        return self.pool.is_behind

    def reap(self) -> None:
        self.pool.keep(self._hash_of)

    def _hash_of(self, name: str) -> str | None:
        try:
            return self._find_profile(name).hash
        except MeshError:
            return None

    def kill_all(self) -> None:
        for task in list(self.tasks):
            task.kill()
        self.pool.kill_all()

    def close(self) -> None:
        self.pool.close()


def reads(args: ActionArgs) -> bool:
    """Whether the call changes nothing, so that it may be repeated safely."""
    if isinstance(args, HttpRequestArgs):
        return args.method in READING
    return action_of(args).effect == "none"


def build(ports: ConnectionPorts) -> ConnectionExecutor:
    return ConnectionExecutor(ports)
