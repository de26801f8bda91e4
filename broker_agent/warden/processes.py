"""Processes of a task, found in /proc, and signals to exactly these.

A task consists of its first process, the members of that process's session and group, the processes
with the task's marks in their initial environment, and the descendants of all these.
"""

import os
import signal

_PROC = "/proc"
# Flag of kernel threads, which have no environment.
_KERNEL = 2


class Process:
    """One process of /proc. start: ticks since the boot, which tell apart pids that are reused."""

    __slots__ = ("_marks", "group", "is_dead", "parent", "pid", "session", "start")

    def __init__(self, pid: int, fields: list[str]) -> None:
        self.pid = pid
        self.is_dead = fields[0] in {"Z", "X"}
        self.parent = int(fields[1])
        self.group = int(fields[2])
        self.session = int(fields[3])
        self.start = int(fields[19])
        self._marks: set[bytes] | None = None

    @property
    def marks(self) -> set[bytes]:
        """Marks of the mesh in its initial environment. Read once, on demand."""
        if self._marks is None:
            self._marks = set() if self.parent == _KERNEL else read_marks(self.pid)
        return self._marks


def see(pid: int) -> Process | None:
    """Read one process; None if it does not exist, or ends meanwhile."""
    try:
        with open(f"{_PROC}/{pid}/stat", "rb") as file:  # noqa: PTH123  (called for every process)
            text = file.read().decode("latin-1")
    except OSError:
        return None
    # The second field, the name in brackets, may contain any character.
    fields = text.rpartition(")")[2].split()
    return Process(pid, fields) if len(fields) > 19 else None  # proc(5): the start is field 22


def process_start(pid: int) -> int:
    """Start time of `pid` in ticks since the boot; 0 if there is no such process."""
    process = see(pid)
    return process.start if process is not None else 0


def look() -> dict[int, Process]:
    """Read all processes except zombies."""
    found: dict[int, Process] = {}
    for name in os.listdir(_PROC):  # noqa: PTH208  (names alone)
        if name.isdigit():
            process = see(int(name))
            if process is not None and not process.is_dead:
                found[process.pid] = process
    return found


def read_marks(pid: int) -> set[bytes]:
    """Read the `MESH_NAME=value` in a process's environment; empty if it cannot be read."""
    try:
        with open(f"{_PROC}/{pid}/environ", "rb") as file:  # noqa: PTH123
            return {word for word in file.read().split(b"\0") if word.startswith(b"MESH_")}
    except OSError:
        return set()


def children(pid: int) -> list[int]:
    """Children of `pid`, adopted ones and zombies included, without a scan of all processes."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"{_PROC}/{pid}/task"):  # noqa: PTH208
            with open(f"{_PROC}/{pid}/task/{thread}/children", "rb") as file:  # noqa: PTH123
                found += [int(word) for word in file.read().split()]
    except OSError:
        return found  # gone meanwhile, or a kernel without this list
    return found


def task_processes(
    seen: dict[int, Process], leader: int, start: int, marks: set[bytes], spare: set[int]
) -> list[Process]:
    """All live processes of one task.

    start: start time of `leader` in ticks; 0: unknown, the leader is then found by its marks alone.
    spare: processes that are left out with their descendants, except the task's own.
    """
    own = start and (leader not in seen or seen[leader].start == start)
    members = {
        process.pid
        for process in seen.values()
        if process.pid not in spare
        and (
            (own and leader in {process.pid, process.group, process.session})
            or (marks and marks <= process.marks)
        )
    }
    if not own and leader in members:
        members |= {
            process.pid
            for process in seen.values()
            if leader in {process.group, process.session} and process.pid not in spare
        }
    _add_descendants(seen, members, spare)
    return [seen[pid] for pid in members]


def _add_descendants(seen: dict[int, Process], members: set[int], spare: set[int]) -> None:
    below: dict[int, list[int]] = {}
    for process in seen.values():
        below.setdefault(process.parent, []).append(process.pid)
    todo = list(members)
    while todo:
        for pid in below.get(todo.pop(), ()):
            if pid not in members and pid not in spare:
                members.add(pid)
                todo.append(pid)


def send(process: Process, number: int) -> bool:
    """Signal exactly this process, never one that reuses its pid; False if it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    except OSError:
        # No descriptor is free for a pidfd: keep the race between check and signal short.
        return process_start(process.pid) == process.start and _kill(process.pid, number)
    try:
        if process_start(process.pid) != process.start:
            return False
        signal.pidfd_send_signal(handle, number)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _kill(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True
