"""Process groups: all that a task has started, also what its first process left behind."""

import os
import signal
import time
from contextlib import suppress
from typing import Final

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


def process_start(pid: int) -> int:
    """When `pid` was started, in ticks since the boot; 0 if there is no such process."""
    fields = _stat(str(pid))
    return int(fields[19]) if fields else 0


def _stat(pid: str) -> list[str]:
    """The fields of /proc/<pid>/stat after the name, which may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  (called for every process)
            text = file.read().decode("latin-1")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _pids() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208  (names alone)


class Sessions:
    """Which processes belong to which session, as /proc has it."""

    def __init__(self) -> None:
        self._looked_at = 0.0
        self._members: dict[int, list[int]] = {}

    def members(self, session: int, *, since: float = 0.0) -> list[int]:
        """Pids in `session`, zombies left out, as seen lately and not before `since`."""
        now = time.monotonic()
        if self._looked_at < max(since, now - _SHARED_S):
            self._members = self._look()
            self._looked_at = now
        return self._members.get(session, [])

    @staticmethod
    def _look() -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for name in _pids():
            fields = _stat(name)
            if fields and fields[0] not in {"Z", "X"}:
                found.setdefault(int(fields[3]), []).append(int(name))
        return found

    def kill(self, session: int, *, since: float = 0.0) -> int:
        """Kill all of a session, whatever group they moved to; how many there were."""
        members = self.members(session, since=since)
        for pid in members:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        return len(members)


def kill_orphans(command: str, attempt: int, pid: int, pid_start: int) -> int:
    """End what an earlier start of the agent left of an attempt; how many processes there were.

    They are known by the journalled leader (its pid and when it started), by its session and group,
    and by the two variables that every task has in its environment.
    """
    leader = pid if pid and _is_ours(pid, pid_start) else 0
    marks = {f"MESH_COMMAND={command}".encode(), f"MESH_ATTEMPT={attempt}".encode()}
    killed = 0
    for name in _pids():
        if int(name) != os.getpid() and _belongs(name, leader, marks):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(int(name), signal.SIGKILL)
                killed += 1
    return killed


def _is_ours(pid: int, pid_start: int) -> bool:
    """A leader that is gone still owns its number while anybody is in its group."""
    return process_start(pid) in {0, pid_start}


def _belongs(name: str, leader: int, marks: set[bytes]) -> bool:
    fields = _stat(name)
    if not fields or fields[0] in {"Z", "X"}:
        return False
    if leader and leader in {int(name), int(fields[2]), int(fields[3])}:
        return True
    try:
        with open(f"/proc/{name}/environ", "rb") as file:  # noqa: PTH123
            return marks <= set(file.read().split(b"\0"))
    except OSError:
        return False
