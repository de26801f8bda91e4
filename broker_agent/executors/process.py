"""The action `process`: one program in a process group of its own, ended as a whole.

STARTED ──exit──▶ group empty? ──yes──▶ ended
   │                  │ no: TERM (once), then KILL after grace_s
   └─stop: TERM ──────┴──▶ KILL after grace_s ──▶ ended, at the latest GIVE_UP_S later

No coroutine per task: a pidfd wakes the loop when the program has ended.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from broker_agent.executors.base import Ending, Job, OnEnd
from broker_agent.executors.groups import Sessions, group_lives, signal_group
from broker_agent.executors.spawn import CannotStart, Files, spawn
from schemas.messages.actions import ProcessArgs
from schemas.states import State

# How often a group that outlived its leader is looked at while it is being ended.
POLL_S: Final = 0.02
# A killed process that the kernel does not let go of (a dead network disk) holds nobody up.
GIVE_UP_S: Final = 5.0
# What tasks see of the agent's own environment.
PASSED_ON: Final = (b"PATH", b"HOME", b"LANG", b"TZ", b"USER", b"LOGNAME")


class ProcessTask:
    """A program and everything it started."""

    def __init__(self, owner: "ProcessExecutor", job: Job, pid: int, on_end: OnEnd) -> None:
        self.pid = pid
        self._owner = owner
        self._loop = owner.loop
        self._on_end = on_end
        self._stop: tuple[State, str] | None = None
        self._status: int | None = None
        self._checked_at = 0.0
        self._leftover = False
        self._timer: asyncio.TimerHandle | None = None
        self._killer: asyncio.TimerHandle | None = None
        self._killed_at: float | None = None
        self._limit: asyncio.TimerHandle | None = None
        args = job.args
        if isinstance(args, ProcessArgs) and args.timeout_s is not None:
            reason = f"ran longer than timeout_s ({args.timeout_s:g})"
            self._limit = self._loop.call_later(args.timeout_s, self.stop, State.TIMED_OUT, reason)
        self._pidfd = os.pidfd_open(pid)
        self._loop.add_reader(self._pidfd, self._on_exit)

    def stop(self, state: State, reason: str) -> None:
        if self._stop is None and self._on_end is not None:
            self._stop = (state, reason)
            self._terminate()

    def kill(self) -> None:
        if self._stop is None:
            self._stop = (State.CANCELLED, "killed")
        self._kill()

    def _terminate(self) -> None:
        """TERM for the group now, KILL for what is left of it after the grace."""
        signal_group(self.pid, signal.SIGTERM)
        if self._killer is None:
            self._killer = self._loop.call_later(self._owner.grace_s(), self._kill)

    def _kill(self) -> None:
        if self._killed_at is None:
            self._killed_at = time.monotonic()
        signal_group(self.pid, signal.SIGKILL)
        self._owner.sessions.kill(self.pid)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
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
        if (not lives and self._stop is None) or not self._lingers(lives=lives):
            self._end()
            return
        if not self._leftover:
            self._leftover = True
            if self._stop is None:
                self._terminate()
        self._timer = self._loop.call_later(POLL_S, self._check_group)

    def _lingers(self, *, lives: bool) -> bool:
        """Whether there is still something to wait for; zombies that nobody reaps are not.

        Whoever left the group, but not the session, of a task that was stopped is killed here.
        """
        now = time.monotonic()
        if self._killed_at is not None and now - self._killed_at > GIVE_UP_S:
            return False
        sessions, since = self._owner.sessions, self._checked_at
        self._checked_at = now
        if lives:
            return bool(sessions.members(self.pid, since=since))
        return sessions.kill(self.pid, since=since) > 0

    def _end(self) -> None:
        for timer in (self._killer, self._timer):
            if timer is not None:
                timer.cancel()
        self._owner.tasks.discard(self)
        self._on_end(self._ending())

    def _ending(self) -> Ending:
        code = os.waitstatus_to_exitcode(self._status or 0)
        exit_code = code if code >= 0 else 128 - code
        if self._stop is not None:
            return Ending(self._stop[0], exit_code, self._stop[1])
        if code < 0:
            return Ending(State.FAILED, exit_code, f"ended by signal {_signal_name(-code)}")
        return Ending(State.SUCCEEDED if code == 0 else State.FAILED, exit_code, "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


class ProcessExecutor:
    """Starts programs.

    grace_s: asked each time, as the master may announce another. marks: added to the environment of
    each program, beside the id of its command.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        grace_s: Callable[[], float],
        marks: Mapping[str, str],
    ) -> None:
        self.loop = loop
        self.grace_s = grace_s
        self.sessions = Sessions()
        self.tasks: set[ProcessTask] = set()
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        passed_on = {name: os.environb[name] for name in PASSED_ON if name in os.environb}
        passed_on.setdefault(b"PATH", os.defpath.encode())
        self._passed_on = passed_on
        self._marks = {name.encode(): value.encode() for name, value in marks.items()}

    def start(self, job: Job, on_end: OnEnd) -> ProcessTask:
        args = job.args
        if not isinstance(args, ProcessArgs):
            raise CannotStart("not the arguments of a process")
        stdin = self._stdin(args.stdin) if args.stdin else self._null
        try:
            files = Files(stdin, job.folder.stdout, job.folder.stderr)
            env = self._environment(job, args)
            pid = spawn(args.argv, env, job.folder.path, args.cwd, files)
        finally:
            if stdin != self._null:
                os.close(stdin)
        task = ProcessTask(self, job, pid, on_end)
        self.tasks.add(task)
        return task

    def _environment(self, job: Job, args: ProcessArgs) -> dict[bytes, bytes]:
        """The marks come last: no command can pretend to be another."""
        own = {name.encode(): value.encode() for name, value in args.env.items()}
        marks = {b"MESH_COMMAND": job.command.encode(), b"MESH_ATTEMPT": b"%d" % job.attempt}
        return {**self._passed_on, **own, **self._marks, **marks}

    @staticmethod
    def _stdin(data: bytes) -> int:
        """A file in memory: read to its end by the program, gone with it, never on a disk."""
        fd = os.memfd_create("stdin")
        try:
            os.write(fd, data)
            os.lseek(fd, 0, os.SEEK_SET)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def kill_all(self) -> None:
        """End everything at once, without waiting: the agent itself is ending."""
        for task in list(self.tasks):
            task.kill()

    def close(self) -> None:
        with suppress(OSError):
            os.close(self._null)
