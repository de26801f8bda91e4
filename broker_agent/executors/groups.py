"""Process groups: all that a task has started, also what its first process left behind."""

import os
import signal
import time
from contextlib import suppress
from typing import Final

from broker_agent.warden import cell
from broker_agent.warden.kin import (
    Process,
    kin,
    look,
    process_start,
    see,
    send,
)
from schemas.faults import Refused

__all__ = ["Kinship", "group_lives", "kill_orphans", "process_start", "signal_group"]

# A look at all processes of a host costs milliseconds; many tasks that end at once share one.
_SHARED_S: Final = 0.05


def signal_group(pgid: int, number: int) -> bool:
    """Send a signal to all of a group; False if nobody is in it."""
    try:
        os.killpg(pgid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # a set-user-id program: it is there, but out of our reach
    return True


def group_lives(pgid: int) -> bool:
    """Whether somebody is in the group. Its dead count until they are reaped; ours are, here."""
    if not signal_group(pgid, 0):
        return False
    with suppress(ChildProcessError):
        while os.waitpid(-pgid, os.WNOHANG)[0]:
            pass
    return signal_group(pgid, 0)


def adopt_orphans() -> bool:
    """Become the parent of all that tasks leave behind, in place of init; False if that is refused.

    Source: prctl(2), PR_SET_CHILD_SUBREAPER is 36.
    """
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0)
    except (OSError, ImportError, AttributeError):
        return False


def check_host() -> None:
    """Raise Refused (`host_unfit`) where it cannot be seen which processes a task consists of."""
    if not process_start(os.getpid()) or not os.path.isdir("/proc/self/fd"):  # noqa: PTH112
        raise Refused("host_unfit", "/proc is not mounted: the processes of tasks cannot be seen")


class Kinship:
    """Who belongs to which task, as /proc has it.

    mark: what the environment of all tasks of this start of the agent holds, and of no others.
    Without it nobody is known by marks: another agent of the host may run the same command.
    """

    def __init__(
        self, mark: bytes = b"", *, others: set[int] | None = None, adopts: bool = False
    ) -> None:
        self._looked_at = 0.0
        self._seen: dict[int, Process] = {}
        self._mark = {mark} if mark else set()
        # Whether orphans of tasks become ours, and which of our children are no tasks.
        self.adopts = adopts
        self.others: set[int] = set() if others is None else others
        self._list: int | None = None

    def members(
        self, leader: int, start: int, marks: set[bytes], *, since: float = 0.0
    ) -> list[Process]:
        """The living processes of a task, as seen lately and not before `since`."""
        now = time.monotonic()
        if self._looked_at < max(since, now - _SHARED_S):
            self._seen = look()
            self._looked_at = now
        known_by = marks | self._mark if self._mark else set()
        return kin(self._seen, leader, start, known_by, {os.getpid()})

    def strays(self, start: int) -> list[Process]:
        """Who was left to us since `start` without anything that tells whose it was.

        As seen by the last look. Where only one task runs, it was that one's.
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
        """Whether a task whose first process is gone has left anything to us that lives.

        Costs one small read: nothing else of it can live, as orphans become our children. is_last:
        no other task runs, so that what tells nothing of itself was this one's.
        """
        if not self.adopts:
            return False
        has_died = True
        while has_died:
            # Whoever has died since the list was read has left its children to us meanwhile.
            has_died = False
            for pid in self._children():
                if pid in leaders or pid in self.others:
                    continue
                process = see(pid)
                if process is None or process.is_dead:
                    has_died |= _bury(pid)
                elif marks <= process.marks or (is_last and not process.marks):
                    return True
        return False

    def reap(self, leaders: set[int]) -> None:
        """Bury what tasks have left to us. `leaders` are buried where their end is noticed."""
        try:
            if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return  # nobody has ended, which is nearly always so
        except ChildProcessError:
            return
        for pid in self._children():
            if pid not in leaders and pid not in self.others:
                process = see(pid)
                if process is None or process.is_dead:
                    with suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)

    def _children(self) -> list[int]:
        """Ours, the dead as well. The file stays open: this is read at the end of every task."""
        if self._list is None:
            pid = os.getpid()
            try:
                # All that we inherit, and whom the first thread has started: tasks are started by
                # others, so that none is taken for left behind before its pid is known.
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


def _bury(pid: int) -> bool:
    """Whether this was a child of ours that is dead, and now is gone."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def kill_orphans(
    command: str, attempt: int, pid: int, pid_start: int, *, mark: bytes = b"", path: str = ""
) -> int:
    """End what an earlier start of the agent left of an attempt; how many processes there were.

    They are known by the journalled leader (its pid and when it started), by its session and group,
    and by the variables that every task has in its environment. path: of its control group.
    """
    marks = {f"MESH_COMMAND={command}".encode(), f"MESH_ATTEMPT={attempt}".encode()}
    seen = look()
    marks |= {mark} - {b""}
    found = {each.pid: each for each in kin(seen, pid, pid_start, marks, {os.getpid()})}
    if path:
        found |= {each: seen[each] for each in cell.members(path) if each in seen}
        cell.kill(path)
    return sum(send(each, signal.SIGKILL) for each in found.values())
