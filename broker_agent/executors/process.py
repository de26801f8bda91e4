"""The action `process`: one program in a process group of its own, ended as a whole.

STARTING ──▶ STARTED ──exit──▶ group empty? ──yes──▶ ended
  │               │                │ no: TERM (once), then KILL after grace_s
  │               └─stop: TERM ────┴──▶ KILL after grace_s ──▶ ended, at the latest GIVE_UP_S later
  ├─stop: not begun, or TERM as soon as it has; ended without it GIVE_UP_S after its grace
  └─cannot be started ──▶ ended

A task has ended when nothing of it is left, also of what has left its group and its session. Where
this process inherits orphans, a program can leave nothing behind unseen: it would be our child now.

No coroutine per task: an epoll of pidfds wakes the loop when the program has ended.
"""

import asyncio
import os
import signal
import time
from contextlib import suppress
from typing import Final

from broker_agent.executors.base import Ending, Executor, Job, Left, OnEnd, OnStart, Ports
from broker_agent.executors.exits import Exits
from broker_agent.executors.groups import (
    Kinship,
    adopt_orphans,
    group_lives,
    kill_orphans,
    process_start,
    signal_group,
)
from broker_agent.executors.launching import Launchers
from broker_agent.executors.spawn import CannotStart, Files, Order, spawn
from broker_agent.executors.starter import Starter
from broker_agent.store.folders import TaskFolder
from broker_agent.warden import cell
from broker_agent.warden.kin import Process, see, send
from broker_client.runtime import tracing
from schemas.messages.actions import ProcessArgs
from schemas.states import State

_TRACE: Final = tracing.VARIABLE.encode()
# How often a group that outlived its leader is looked at while it is being ended.
POLL_S: Final = 0.02
POLL_MAX_S: Final = 0.25
# A killed process that the kernel does not let go of (a dead network disk) holds nobody up.
GIVE_UP_S: Final = 5.0
# How long, and how often, what a program printed last is waited for: somebody else is carrying it.
DRAIN_S: Final = 5.0
DRAIN_POLL_S: Final = 0.005
# Cells that a daemon still lived in when its task had ended are looked at again in so many turns.
SWEEP_TURNS: Final = 60


class ProcessTask:
    """A program and everything it started."""

    def __init__(
        self, owner: "ProcessExecutor", job: Job, on_start: OnStart, on_end: OnEnd
    ) -> None:
        # 0 until it has been started; by then it may be asked to stop.
        self.pid = 0
        self.name = f"{job.command}.{job.attempt}"
        self._owner = owner
        self._folder = job.folder
        self._marks = {
            f"MESH_COMMAND={job.command}".encode(),
            f"MESH_ATTEMPT={job.attempt}".encode(),
        }
        # Only known once it is needed: until it is reaped, nobody else can have its number.
        self._start = 0
        # Gone or never made is as good as none.
        self.cell = owner.cells.path(self.name) if owner.is_enclosing else ""
        self._has_ended = False
        self._loop = owner.loop
        self._on_start = on_start
        self._on_end = on_end
        self._stop: tuple[State, str] | None = None
        self._status: int | None = None
        self._checked_at = 0.0
        self._leftover = False
        self._poll_s = POLL_S
        self._timer: asyncio.TimerHandle | None = None
        self._killer: asyncio.TimerHandle | None = None
        self._killed_at: float | None = None
        # Until when it may use its grace, if it was asked to stop before it had begun.
        self._kill_by: float | None = None
        self._place = owner.table.enter(self.name, job.outlives_s)
        self._limit: asyncio.TimerHandle | None = None
        self._timeout_s = job.args.timeout_s if isinstance(job.args, ProcessArgs) else None
        self._is_reaped = False

    def begin(self, started: int | CannotStart) -> None:
        """It runs as this process, or never will."""
        if self._has_ended:
            _end_and_bury(started)
            return
        if isinstance(started, CannotStart):
            self._end(self._unstarted(started))
            return
        try:
            self._owner.exits.watch(started, self._on_exit)
        except OSError as error:
            # Nobody would ever know of its end.
            _end_and_bury(started)
            self._end(self._unstarted(CannotStart(f"cannot watch it: {error.strerror}")))
            return
        if self._killer is not None:
            self._killer.cancel()
            self._killer = None
        self.pid = started
        self._owner.table.note_process(self._place, started, 0)
        self._owner.leaders.add(started)
        if self._timeout_s is not None:
            reason = f"ran longer than timeout_s ({self._timeout_s:g})"
            self._limit = self._loop.call_later(self._timeout_s, self.stop, State.TIMED_OUT, reason)
        self._on_start(started)
        if self._stop is not None:
            left_s = None if self._kill_by is None else self._kill_by - self._loop.time()
            self._terminate(left_s)

    def _unstarted(self, fault: CannotStart) -> Ending:
        if self._stop is not None:
            return Ending(self._stop[0], None, self._stop[1])
        return Ending(State.FAILED, fault.exit_code, fault.message)

    def stop(self, state: State, reason: str, grace_s: float | None = None) -> None:
        if self._has_ended:
            return
        if not self.pid:
            self._stop = self._stop or (state, reason)
            self._note_grace(grace_s)
        elif self._stop is None:
            self._stop = (state, reason)
            self._terminate(grace_s)
        elif grace_s is not None:
            self._hasten(grace_s)

    def identify(self) -> tuple[int, int]:
        start = process_start(self.pid)
        self._owner.table.note_process(self._place, self.pid, start)
        return self.pid, start

    def fence(self, reason: str, grace_s: float) -> None:
        owner = self._owner
        owner.table.note_kill(self._place, owner.elapsed() + grace_s)
        self.stop(State.KILLED_FENCED, reason, grace_s)

    def outlive(self, after_s: float) -> None:
        self._owner.table.note_after(self._place, after_s)

    def kill(self) -> None:
        if self._has_ended:
            return
        if self._stop is None:
            self._stop = (State.CANCELLED, "killed")
        if self.pid:
            self._kill()
        else:
            self._note_grace(0.0)

    def _note_grace(self, grace_s: float | None) -> None:
        """Its time runs from the order on, however long the start takes; the shortest counts.

        A start that hangs for longer, as on a disk that does not answer, holds nobody up.
        """
        kill_by = self._loop.time() + (self._owner.grace_s() if grace_s is None else grace_s)
        if self._kill_by is None or kill_by < self._kill_by:
            self._kill_by = kill_by
            if self._killer is not None:
                self._killer.cancel()
            self._killer = self._loop.call_at(kill_by + GIVE_UP_S, self._abandon)

    def _abandon(self) -> None:
        self._end(self._unstarted(CannotStart("its start hangs")))

    @property
    def is_wanted(self) -> bool:
        """Whether nobody has asked it to stop."""
        return self._stop is None

    def _hasten(self, grace_s: float) -> None:
        when = self._loop.time() + grace_s
        if self._killer is not None and self._killer.when() > when:
            self._killer.cancel()
            self._killer = self._loop.call_later(max(0.0, grace_s), self._kill)

    def _terminate(self, grace_s: float | None = None) -> None:
        """TERM for all of it now, KILL for what is left of it after the grace.

        Who has no grace left, as on a host that has slept past the deadline, is not asked at all.
        """
        if grace_s is not None and grace_s <= 0:
            self._kill()
            return
        signal_group(self.pid, signal.SIGTERM)
        for process in self._members():
            if process.group != self.pid:
                send(process, signal.SIGTERM)
        if self._killer is None:
            wait_s = self._owner.grace_s() if grace_s is None else grace_s
            self._killer = self._loop.call_later(wait_s, self._kill)
        elif grace_s is not None:
            self._hasten(grace_s)

    def _kill(self) -> None:
        if self._killed_at is None:
            self._killed_at = time.monotonic()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = self._loop.call_later(POLL_S, self._check_group)
        signal_group(self.pid, signal.SIGKILL)
        self._kill_members()

    def _members(self, *, since: float = 0.0) -> list[Process]:
        """All that lives of it."""
        if not self._is_reaped and not self._start:
            self._start = process_start(self.pid)
        owner, pid = self._owner, self.pid
        # Reaped without a look at its start: its number is its own while a group bears it.
        found = owner.kinship.members(pid, self._start or 1, self._marks, since=since)
        known = {process.pid for process in found}
        others = [] if len(owner.tasks) > 1 else owner.kinship.strays(self._start)
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

    def _on_exit(self) -> None:
        if self._stop is not None and not self._start:
            self._start = process_start(self.pid)
        self._is_reaped = True
        try:
            self._status = os.waitpid(self.pid, 0)[1]
        except ChildProcessError:
            self._status = 255 << 8  # somebody else has reaped it; as the standard library has it
        if self._limit is not None:
            self._limit.cancel()
        self._checked_at = time.monotonic()
        self._check_group()

    def _check_group(self) -> None:
        """End only when nobody is left: a program's children must not outlive its report."""
        lives = group_lives(self.pid)
        if not lives and self._stop is None and not self._has_left_behind():
            self._end(self._ending())
            return
        if not self._lingers(lives=lives):
            self._end(self._ending())
            return
        if not self._leftover:
            self._leftover = True
            if self._stop is None:
                self._terminate()
        self._timer = self._loop.call_later(self._poll_s, self._check_group)
        # A look costs milliseconds, and a program may use all of its grace.
        self._poll_s = POLL_S if self._killed_at is not None else min(POLL_MAX_S, 2 * self._poll_s)

    def _has_left_behind(self) -> bool:
        owner = self._owner
        if self.cell and cell.is_inhabited(self.cell):
            return True
        return owner.kinship.has_left(self._marks, owner.leaders, is_last=len(owner.tasks) == 1)

    def _lingers(self, *, lives: bool) -> bool:
        """Whether there is still something to wait for; zombies that nobody reaps are not.

        Whoever left the group of a task that was stopped is killed here; all others have a grace.
        A look at all processes takes a while: a parent that dies meanwhile hides its child from it,
        so that what has become ours since is looked for again.
        """
        now = time.monotonic()
        if self._killed_at is not None and now - self._killed_at > GIVE_UP_S:
            return False
        since, self._checked_at = self._checked_at, now
        if lives or self._stop is None:
            found = bool(self._members(since=since))
        else:
            found = self._kill_members(since=since) > 0
        return found or self._has_left_behind()

    def _end(self, ending: Ending) -> None:
        self._has_ended = True
        self._owner.table.clear(self._place)
        self._place = -1
        for timer in (self._killer, self._timer):
            if timer is not None:
                timer.cancel()
        if self.cell:
            cell.remove(self.cell)  # where a daemon was left in it, it goes with a later sweep
        self._owner.tasks.discard(self)
        self._owner.leaders.discard(self.pid)
        self._drain(ending, self._loop.time() + DRAIN_S)

    def _drain(self, ending: Ending, until: float) -> None:
        """It is told when its files are whole."""
        if not self._folder.drain():
            if self._loop.time() < until:
                self._loop.call_later(DRAIN_POLL_S, self._drain, ending, until)
                return
            self._folder.is_cut = True
            self._folder.settle()
        self._owner.carrier.leave(self._folder)
        self._on_end(ending)

    def _ending(self) -> Ending:
        code = os.waitstatus_to_exitcode(self._status or 0)
        exit_code = code if code >= 0 else 128 - code
        if self._stop is not None:
            return Ending(self._stop[0], exit_code, self._stop[1])
        if code < 0:
            return Ending(State.FAILED, exit_code, f"ended by signal {_signal_name(-code)}")
        return Ending(State.SUCCEEDED if code == 0 else State.FAILED, exit_code, "")


def _end_and_bury(started: int | CannotStart) -> None:
    """A program that nobody waits for any more."""
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
    """Starts programs, in a launcher where they are to begin otherwise than this process would.

    adopts: whether orphans of tasks become children of this process.
    """

    def __init__(self, ports: Ports, *, adopts: bool = False) -> None:
        self.loop = loop = ports.loop
        self.exits = Exits(loop)
        self._is_ending = False
        self.grace_s = ports.grace_s
        self.elapsed = ports.elapsed
        self.table = ports.table
        self.carrier = ports.carrier
        self.cells = ports.cells
        mark = _mark(ports.marks.get("MESH_INCARNATION", ""))
        self.kinship = Kinship(mark, others=ports.others, adopts=adopts)
        self.is_enclosing = bool(self.cells.prefix)
        self._launchers = None
        if self.is_enclosing or not ports.manner.is_ours:
            self._launchers = Launchers(ports.manner, ports.others.add)
        self._starter = Starter(loop, self._launchers.spawn if self._launchers else spawn)
        self.tasks: set[ProcessTask] = set()
        self.leaders: set[int] = set()
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._env = ports.manner.env
        self._marks = {name.encode(): value.encode() for name, value in ports.marks.items()}
        self._looks = 0

    def start(self, job: Job, on_start: OnStart, on_end: OnEnd) -> ProcessTask:
        args = job.args
        if not isinstance(args, ProcessArgs):
            raise CannotStart("not the arguments of a process")
        if self._is_ending:
            raise CannotStart("the agent is ending")
        stdin = self._stdin(args.stdin) if args.stdin else self._null
        files = Files(stdin, self._null, self._null)
        given = () if stdin == self._null else (stdin,)
        # Entered for the warden before it runs, which would find it by its marks.
        task = ProcessTask(self, job, on_start, on_end)
        env = self._environment(job, args)
        order = Order(args.argv, env, job.folder.work, args.cwd, files, task.cell, given)
        self.tasks.add(task)
        self._starter.start(
            order,
            task.begin,
            lambda: task.is_wanted,
            lambda order: self._connect(order, job.folder),
        )
        return task

    def _connect(self, order: Order, folder: TaskFolder) -> Order:
        """Give it its pipes: in the thread that starts it, and no earlier.

        Other programs that are being loaded hold copies of all our descriptors for a moment, and
        its pipes would not seem closed when it has ended.
        """
        try:
            ends = folder.open_pipes()
        except OSError as error:
            raise CannotStart(f"no pipes for its output: {error.strerror}") from error
        self.carrier.take(folder)
        return order._replace(files=Files(order.files.stdin, *ends), given=(*order.given, *ends))

    def _environment(self, job: Job, args: ProcessArgs) -> dict[bytes, bytes]:
        """The marks come last: no command can pretend to be another."""
        own = {name.encode(): value.encode() for name, value in args.env.items()}
        marks = {b"MESH_COMMAND": job.command.encode(), b"MESH_ATTEMPT": b"%d" % job.attempt}
        if job.trace:
            marks[_TRACE] = job.trace.encode()
        return {**self._env, **own, **self._marks, **marks}

    @staticmethod
    def _stdin(data: bytes) -> int:
        """A file in memory: read to its end by the program, gone with it, never on a disk."""
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

    def end_left(self, left: Left) -> int:
        path = self.cells.earlier_path(left.incarnation, f"{left.command}.{left.attempt}")
        mark = _mark(left.incarnation)
        return kill_orphans(
            left.command, left.attempt, left.pid, left.pid_start, mark=mark, path=path
        )

    def reap(self) -> None:
        """Bury what tasks have left to this process, and remove cells that are empty by now."""
        self.kinship.reap(self.leaders)
        if self._looks % SWEEP_TURNS == 0:
            self.cells.sweep({task.cell for task in self.tasks})
        self._looks += 1

    def kill_all(self) -> None:
        self._is_ending = True
        for task in list(self.tasks):
            task.kill()

    def close(self) -> None:
        """What was just being started is ended as well."""
        self._starter.close()
        if self._launchers is not None:
            self._launchers.close()
        self.exits.close()
        self.kinship.close()
        self.cells.sweep()
        with suppress(OSError):
            os.close(self._null)


def build(ports: Ports) -> ProcessExecutor:
    return ProcessExecutor(ports, adopts=adopt_orphans())


def _mark(incarnation: str) -> bytes:
    return f"MESH_INCARNATION={incarnation}".encode() if incarnation else b""
