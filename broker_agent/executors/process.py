"""The action `process`: one program in a process group of its own, ended with its descendants.

A task has ended when none of its processes is left, those outside its group and session included.
Where this process is the subreaper, no descendant stays unseen: an orphan becomes its child.

No coroutine per task: an epoll of pidfds wakes the loop when the program has exited.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, Protocol

import structlog

from broker_agent.core.program import Do, Ending, Program, ProgramEffect, ProgramPhase
from broker_agent.executors.base import (
    Carrying,
    Enclosure,
    Executor,
    Job,
    Mark,
    OnEnd,
    OnStart,
    OrphanedAttempt,
)
from broker_agent.executors.cells import Cells
from broker_agent.executors.conditions import StartConditions
from broker_agent.executors.exits import Exits
from broker_agent.executors.fenced import Fenced
from broker_agent.executors.launching import Launchers
from broker_agent.executors.process_groups import (
    TaskProcesses,
    adopt_orphans,
    group_lives,
    kill_orphans,
    process_start,
    signal_group,
)
from broker_agent.executors.spawn import CannotStart, Files, SpawnOrder, said, spawn
from broker_agent.executors.starter import Starter
from broker_agent.store.folders import TaskFolder
from broker_agent.warden import cell
from broker_agent.warden.processes import Process, see, send
from broker_agent.warden.table import WardenTable
from broker_client.runtime import tracing
from schemas.messages.actions import ProcessArgs
from schemas.states import State

log = structlog.get_logger(__name__)

_TRACE: Final = tracing.VARIABLE.encode()
_NAMES: Final = (b"MESH_COMMAND", b"MESH_ATTEMPT")
# Longest wait, and interval of looks, for the last output of a program: the carrier copies it.
DRAIN_S: Final = 5.0
DRAIN_POLL_S: Final = 0.005
# Number of calls of `reap` between sweeps for cells that a daemon outlived its task in.
SWEEP_TURNS: Final = 60


class ProcessPorts(Protocol):
    """The part of `ExecutorPorts` that programs need."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def grace_s(self) -> Callable[[], float]: ...
    @property
    def elapsed(self) -> Callable[[], float]: ...
    @property
    def marks(self) -> Mapping[str, str]: ...
    @property
    def carrier(self) -> Carrying: ...
    @property
    def table(self) -> WardenTable: ...
    @property
    def others(self) -> set[int]: ...
    @property
    def conditions(self) -> StartConditions: ...
    @property
    def cells(self) -> Cells: ...


class ProcessTask(Fenced):
    """A program and its descendants: performs the decisions of `core.program`."""

    def __init__(
        self, owner: "ProcessExecutor", job: Job, on_start: OnStart, on_end: OnEnd
    ) -> None:
        # 0 before the start; a stop may come earlier.
        self.pid = 0
        self.name = f"{job.command}.{job.attempt}"
        self._owner: ProcessExecutor = owner
        self._folder = job.folder
        self._marks = {
            f"MESH_COMMAND={job.command}".encode(),
            f"MESH_ATTEMPT={job.attempt}".encode(),
        }
        # Read on demand: no other process can have its pid until it is reaped.
        self._start = 0
        self._is_reaped = False
        # A missing cell is no error.
        self.cell = owner.cells.path(self.name) if owner.is_enclosing else ""
        self._place = owner.table.enter(self.name, job.outlives_s)
        self._loop = owner.loop
        self._on_start = on_start
        self._on_end = on_end
        timeout_s = job.args.timeout_s if isinstance(job.args, ProcessArgs) else None
        self._program = Program(owner.grace_s, timeout_s)
        self._timers: dict[Do, asyncio.TimerHandle] = {}
        self._checked_at = 0.0

    # What happens to it.

    def begin(self, started: int | CannotStart) -> None:
        """Take over the started process, or end the task after a failed start."""
        if self._program.phase is ProgramPhase.ENDED:
            _kill_and_reap(started)
            return
        if isinstance(started, CannotStart):
            self._perform(self._program.on_unstarted(started.exit_code, started.message))
            return
        try:
            self._owner.exits.watch(started, self._on_exit)
        except OSError as error:
            # No other code would notice its exit.
            _kill_and_reap(started)
            why = f"cannot watch it: {error.strerror}"
            self._perform(self._program.on_unstarted(None, why))
            return
        self._cancel(Do.ABANDON_AT)
        self.pid = started
        self._owner.table.note_process(self._place, started, 0)
        self._owner.leaders.add(started)
        effects = self._program.on_started(self._loop.time())
        self._on_start()
        self._perform(effects)

    def stop(self, state: State, reason: str, grace_s: float | None = None) -> None:
        self._perform(self._program.on_stop(state, reason, grace_s, self._loop.time()))

    def kill(self) -> None:
        self._perform(self._program.on_kill(self._loop.time()))

    @property
    def is_wanted(self) -> bool:
        """Whether no stop was requested."""
        return self._program.is_wanted

    def force(self) -> None:
        # The loop hangs. It reaps no zombies meanwhile, so no pid is reused.
        if self.pid:
            signal_group(self.pid, signal.SIGKILL)

    def identify(self) -> Mark:
        start = process_start(self.pid)
        self._owner.table.note_process(self._place, self.pid, start)
        return self.pid, start

    def _on_exit(self) -> None:
        if not self.is_wanted and not self._start:
            self._start = process_start(self.pid)
        self._is_reaped = True
        try:
            status = os.waitpid(self.pid, 0)[1]
        except ChildProcessError:
            status = 255 << 8  # reaped elsewhere; 255 as in the standard library
        code = os.waitstatus_to_exitcode(status)
        self._checked_at = time.monotonic()
        if code < 0:
            self._perform(self._program.on_exited(128 - code, _signal_name(-code)))
        else:
            self._perform(self._program.on_exited(code))

    # What is to be done about it.

    def _perform(self, effects: list[ProgramEffect]) -> None:
        for effect in effects:
            match effect.do:
                case Do.TERM:
                    self._terminate()
                case Do.KILL:
                    signal_group(self.pid, signal.SIGKILL)
                    self._kill_members()
                case Do.LOOK:
                    self._look()
                case Do.STOP_LIMIT:
                    self._cancel(Do.LIMIT_AT)
                case Do.END:
                    assert effect.ending is not None  # noqa: S101  (an END has one)
                    self._end(effect.ending)
                case timed:
                    self._cancel(timed)
                    self._timers[timed] = self._loop.call_at(effect.at, self._on_due, timed)

    def _on_due(self, timed: Do) -> None:
        del self._timers[timed]
        program, now = self._program, self._loop.time()
        if timed is Do.LOOK_AT:
            self._look()
        elif timed is Do.KILL_AT:
            self._perform(program.on_kill_due(now))
        elif timed is Do.LIMIT_AT:
            self._perform(program.on_limit(now))
        else:
            self._perform(program.on_abandoned())

    def _cancel(self, timed: Do) -> None:
        timer = self._timers.pop(timed, None)
        if timer is not None:
            timer.cancel()

    def _terminate(self) -> None:
        signal_group(self.pid, signal.SIGTERM)
        for process in self._members():
            if process.group != self.pid:
                send(process, signal.SIGTERM)

    def _look(self) -> None:
        """Look for live processes of the task; zombies do not count.

        A scan of all processes takes a while, and a parent that dies meanwhile hides its child from
        it, so processes adopted since are looked for again.
        """
        program, now = self._program, self._loop.time()
        lives = group_lives(self.pid)
        small = program.trusts_small_look(lives=lives)
        if program.gives_up(now) or (small and not self._has_left_behind()):
            found = False
        else:
            found = self._search(kill=program.kills_on_sight(lives=lives))
        self._perform(program.on_looked(found=found, now=now))

    def _search(self, *, kill: bool) -> bool:
        since, self._checked_at = self._checked_at, time.monotonic()
        found = self._kill_members(since=since) if kill else len(self._members(since=since))
        return found > 0 or self._has_left_behind()

    def _members(self, *, since: float = 0.0) -> list[Process]:
        """Live processes of the task."""
        if not self._is_reaped and not self._start:
            self._start = process_start(self.pid)
        owner, pid = self._owner, self.pid
        # Reaped before its start time was read: its pid is not reused while its group exists.
        found = owner.task_processes.members(pid, self._start or 1, self._marks, since=since)
        known = {process.pid for process in found}
        others = [] if len(owner.tasks) > 1 else owner.task_processes.strays(self._start)
        if self.cell:
            inside = [see(each) for each in cell.members(self.cell)]
            others += [process for process in inside if process and not process.is_dead]
        return [*found, *(process for process in others if process.pid not in known)]

    def _kill_members(self, *, since: float = 0.0) -> int:
        found = sum(send(process, signal.SIGKILL) for process in self._members(since=since))
        if self.cell and cell.is_inhabited(self.cell):
            cell.kill(self.cell)
            return found + 1
        return found

    def _has_left_behind(self) -> bool:
        owner = self._owner
        if self.cell and cell.is_inhabited(self.cell):
            return True
        return owner.task_processes.has_left(
            self._marks, owner.leaders, is_last=len(owner.tasks) == 1
        )

    def _end(self, ending: Ending) -> None:
        self._owner.table.clear(self._place)
        self._place = -1
        for timed in list(self._timers):
            self._cancel(timed)
        if self.cell:
            cell.remove(self.cell)  # one with a daemon left in it is removed by a later sweep
        self._owner.tasks.discard(self)
        self._owner.leaders.discard(self.pid)
        self._drain(ending, self._loop.time() + DRAIN_S)

    def _drain(self, ending: Ending, until: float) -> None:
        """Report the end once the output files are complete."""
        if not self._folder.drain():
            if self._loop.time() < until:
                self._loop.call_later(DRAIN_POLL_S, self._drain, ending, until)
                return
            self._folder.is_cut = True
            self._folder.fix_sizes()
        self._owner.carrier.leave(self._folder)
        self._on_end(ending)


def _kill_and_reap(started: int | CannotStart) -> None:
    """Kill and reap a program whose task has already ended."""
    if isinstance(started, int):
        signal_group(started, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(started, 0)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


class ProcessExecutor(Executor):
    """Starts programs, through a launcher where their conditions differ from this process's.

    adopts: whether this process is the subreaper of tasks.
    """

    def __init__(self, ports: ProcessPorts, *, adopts: bool = False) -> None:
        self.loop = loop = ports.loop
        self.exits = Exits(loop)
        self._is_ending = False
        self.grace_s = ports.grace_s
        self.elapsed = ports.elapsed
        self.table = ports.table
        self.carrier = ports.carrier
        self.cells = ports.cells
        mark = _mark(ports.marks.get("MESH_INCARNATION", ""))
        self.task_processes = TaskProcesses(mark, others=ports.others, adopts=adopts)
        self.is_enclosing = bool(self.cells.prefix)
        self._launchers = None
        if self.is_enclosing or not ports.conditions.is_ours:
            self._launchers = Launchers(ports.conditions, ports.others.add, self._on_uncelled)
        self._starter = Starter(loop, self._launchers.spawn if self._launchers else spawn)
        self.tasks: set[ProcessTask] = set()
        self.leaders: set[int] = set()
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._env = ports.conditions.env
        self._marks = {name.encode(): value.encode() for name, value in ports.marks.items()}
        self._looks = 0

    def start(self, job: Job, on_start: OnStart, on_end: OnEnd) -> ProcessTask:
        args = job.args
        if not isinstance(args, ProcessArgs):
            raise CannotStart("not the arguments of a process")
        if self._is_ending:
            raise CannotStart("the agent is ending")
        stdin = self._null if job.stdin < 0 else job.stdin
        if args.stdin:
            stdin = self._stdin(args.stdin)
        files = Files(stdin, self._null, self._null)
        given = () if stdin == self._null else (stdin,)
        # In the warden's table before its start; the warden could find it by its marks.
        task = ProcessTask(self, job, on_start, on_end)
        env = self._environment(job, args)
        order = SpawnOrder(args.argv, env, job.folder.work, args.cwd, files, task.cell, given)
        self.tasks.add(task)
        self._starter.start(
            order,
            task.begin,
            lambda: task.is_wanted,
            lambda order: self._connect(order, job.folder),
        )
        return task

    def _on_uncelled(self, order: SpawnOrder, error: OSError) -> None:
        """Report a task without a cell; called in the thread that has started it."""
        self.cells.note_missed(said(error))
        command, attempt = (order.env.get(name, b"").decode() for name in _NAMES)
        log.warning("task_without_cell", command_id=command, attempt=attempt, error=said(error))

    def _connect(self, order: SpawnOrder, folder: TaskFolder) -> SpawnOrder:
        """Make the pipes, in the thread that starts the program, as late as possible.

        Other programs under exec hold copies of all descriptors for a moment, and would keep the
        pipes open after this program has ended.
        """
        try:
            ends = folder.open_pipes()
        except OSError as error:
            raise CannotStart(f"no pipes for its output: {error.strerror}") from error
        self.carrier.take(folder)
        return order._replace(files=Files(order.files.stdin, *ends), given=(*order.given, *ends))

    def _environment(self, job: Job, args: ProcessArgs) -> dict[bytes, bytes]:
        """Build the environment, marks last: a command cannot set the marks of another."""
        own = {name.encode(): value.encode() for name, value in args.env.items()}
        marks = {b"MESH_COMMAND": job.command.encode(), b"MESH_ATTEMPT": b"%d" % job.attempt}
        if job.trace:
            marks[_TRACE] = job.trace.encode()
        return {**self._env, **own, **self._marks, **marks}

    @staticmethod
    def _stdin(data: bytes) -> int:
        """Make a file in memory with the program's input: closed with the program, on no disk."""
        try:
            fd = os.memfd_create("stdin")
        except OSError as error:
            raise CannotStart(f"no file for its stdin: {error.strerror}") from error
        try:
            os.write(fd, data)
            os.lseek(fd, 0, os.SEEK_SET)
        except BaseException:
            os.close(fd)
            raise
        return fd

    @property
    def is_behind(self) -> bool:
        return self._starter.is_behind

    @property
    def enclosure(self) -> Enclosure:
        return Enclosure(self.is_enclosing, self.cells.missed, self.cells.why)

    def end_orphans(self, left: OrphanedAttempt) -> int:
        path = self.cells.earlier_path(left.incarnation, f"{left.command}.{left.attempt}")
        mark = _mark(left.incarnation)
        return kill_orphans(left.command, left.attempt, *left.mark, mark=mark, path=path)

    def reap(self) -> None:
        """Reap orphans of tasks, and remove empty cells."""
        self.task_processes.reap(self.leaders)
        if self._looks % SWEEP_TURNS == 0:
            self.cells.sweep({task.cell for task in self.tasks})
        self._looks += 1

    def kill_all(self) -> None:
        self._is_ending = True
        for task in list(self.tasks):
            task.kill()

    def close(self) -> None:
        """Close all, and kill programs whose start is under way."""
        self._starter.close()
        if self._launchers is not None:
            self._launchers.close()
        self.exits.close()
        self.task_processes.close()
        self.cells.sweep()
        with suppress(OSError):
            os.close(self._null)


def build(ports: ProcessPorts) -> ProcessExecutor:
    return ProcessExecutor(ports, adopts=adopt_orphans())


def _mark(incarnation: str) -> bytes:
    return f"MESH_INCARNATION={incarnation}".encode() if incarnation else b""
