"""Process groups of tasks, and the descendants that outlive a task's first process."""

import os
import signal
import time
from contextlib import suppress
from typing import Final

from broker_agent.warden import cell
from broker_agent.warden.processes import (
    Process,
    look,
    process_start,
    see,
    send,
    task_processes,
)
from schemas.faults import Refused

__all__ = ["TaskProcesses", "group_lives", "kill_orphans", "process_start", "signal_group"]

# A scan of all processes of a host costs milliseconds; tasks that end at once share one.
_SHARED_S: Final = 0.05


def signal_group(pgid: int, number: int) -> bool:
    """Send a signal to a process group; False if the group is empty."""
    try:
        os.killpg(pgid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # a set-user-id program: it exists, but may not be signalled
    return True


def group_lives(pgid: int) -> bool:
    """Whether the group has members. Zombies count until they are reaped; own ones are, here."""
    if not signal_group(pgid, 0):
        return False
    with suppress(ChildProcessError):
        while os.waitpid(-pgid, os.WNOHANG)[0]:
            pass
    return signal_group(pgid, 0)


def adopt_orphans() -> bool:
    """Become the subreaper: the parent of orphans of tasks, in place of init; False if refused.

    Source: prctl(2), PR_SET_CHILD_SUBREAPER is 36.
    """
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0)
    except (OSError, ImportError, AttributeError):
        return False


def check_host() -> None:
    """Raise Refused (`host_unfit`) where the processes of a task cannot be found."""
    if not process_start(os.getpid()) or not os.path.isdir("/proc/self/fd"):  # noqa: PTH112
        raise Refused("host_unfit", "/proc is not mounted: the processes of tasks cannot be seen")


class TaskProcesses:
    """Finds the processes of each task in /proc.

    mark: variable in the environment of all tasks of this start of the agent, and of no others.
    Without it no process is found by its marks: another agent of the host may run the same command.
    """

    def __init__(
        self, mark: bytes = b"", *, others: set[int] | None = None, adopts: bool = False
    ) -> None:
        self._looked_at = 0.0
        self._seen: dict[int, Process] = {}
        self._mark = {mark} if mark else set()
        # Whether this process is the subreaper; pids of its children other than tasks.
        self.adopts = adopts
        self.others: set[int] = set() if others is None else others
        self._list: int | None = None

    def members(
        self, leader: int, start: int, marks: set[bytes], *, since: float = 0.0
    ) -> list[Process]:
        """Live processes of a task, by a scan of the last 50 ms that is not older than `since`."""
        now = time.monotonic()
        if self._looked_at < max(since, now - _SHARED_S):
            self._seen = look()
            self._looked_at = now
        known_by = marks | self._mark if self._mark else set()
        return task_processes(self._seen, leader, start, known_by, {os.getpid()})

    def strays(self, start: int) -> list[Process]:
        """Orphans without marks that this process has adopted since `start`, by the last scan.

        Where only one task runs, they are orphans of that task.
        """
        if not self.adopts:
            return []
        here = os.getpid()
        return [
            process
            for process in self._seen.values()
            if process.parent == here
            and process.start >= start
            and process.pid not in self.others
            and not process.marks
        ]

    def has_left(self, marks: set[bytes], leaders: set[int], *, is_last: bool) -> bool:
        """Whether a task whose first process is gone has left live orphans to this process.

        Costs one small read: all orphans become children of this process. is_last: no other task
        runs, so that orphans without marks are of this task.
        """
        if not self.adopts:
            return False
        has_died = True
        while has_died:
            # A process that died since the list was read has left its children to this one.
            has_died = False
            for pid in self._children():
                if pid in leaders or pid in self.others:
                    continue
                process = see(pid)
                if process is None or process.is_dead:
                    has_died |= _reap(pid)
                elif marks <= process.marks or (is_last and not process.marks):
                    return True
        return False

    def reap(self, leaders: set[int]) -> None:
        """Reap the orphans of tasks. `leaders` are reaped where their exit is noticed."""
        try:
            if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return  # no child has ended, the usual case
        except ChildProcessError:
            return
        for pid in self._children():
            if pid not in leaders and pid not in self.others:
                process = see(pid)
                if process is None or process.is_dead:
                    with suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)

    def _children(self) -> list[int]:
        """Children of this process, zombies included. The file stays open for the next call."""
        if self._list is None:
            pid = os.getpid()
            try:
                # Adopted orphans, and children of the first thread. Other threads start tasks, so
                # that a task is never treated as an orphan before its pid is known.
                self._list = os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return []  # no descriptor left, or a kernel without this list
        text, at = b"", 0
        while part := os.pread(self._list, 65_536, at):
            text += part
            at += len(part)
        return [int(word) for word in text.split()]

    def close(self) -> None:
        if self._list is not None:
            os.close(self._list)
            self._list = None


def _reap(pid: int) -> bool:
    """Reap a child of this process; False if it is alive or no child."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def kill_orphans(
    command: str, attempt: int, pid: int, pid_start: int, *, mark: bytes = b"", path: str = ""
) -> int:
    """Kill the orphans of an attempt of an earlier start of the agent; returns their number.

    They are found by the journalled leader (its pid and start time), its session and group, and
    the marks in the environment of every task. path: of its control group.
    """
    marks = {f"MESH_COMMAND={command}".encode(), f"MESH_ATTEMPT={attempt}".encode()}
    seen = look()
    marks |= {mark} - {b""}
    found = {each.pid: each for each in task_processes(seen, pid, pid_start, marks, {os.getpid()})}
    if path:
        found |= {each: seen[each] for each in cell.members(path) if each in seen}
        cell.kill(path)
    return sum(send(each, signal.SIGKILL) for each in found.values())
