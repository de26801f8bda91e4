"""Which processes a task consists of, and how to end exactly those. /proc is all it asks.

A task is its first process, whoever shares its session or group, whoever carries its marks in the
environment it was started with, and what any of these has started.
"""

import os
import signal

_PROC = "/proc"
# Kernel threads have no environment and belong to nobody.
_KERNEL = 2


class Process:
    """One line of /proc. start: in ticks since the boot, so that a number used again is noticed."""

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
        """What the environment it was started with says of the mesh. Read once, when needed."""
        if self._marks is None:
            self._marks = set() if self.parent == _KERNEL else read_marks(self.pid)
        return self._marks


def see(pid: int) -> Process | None:
    """A process as it is now; None if there is none, or it is gone while it is looked at."""
    try:
        with open(f"{_PROC}/{pid}/stat", "rb") as file:  # noqa: PTH123  (called for every process)
            text = file.read().decode("latin-1")
    except OSError:
        return None
    # The name, which comes second and in brackets, may hold anything.
    fields = text.rpartition(")")[2].split()
    return Process(pid, fields) if len(fields) > 19 else None  # proc(5): the start is field 22


def process_start(pid: int) -> int:
    """When `pid` was started, in ticks since the boot; 0 if there is no such process."""
    process = see(pid)
    return process.start if process is not None else 0


def look() -> dict[int, Process]:
    """All processes that live, zombies left out."""
    found: dict[int, Process] = {}
    for name in os.listdir(_PROC):  # noqa: PTH208  (names alone)
        if name.isdigit():
            process = see(int(name))
            if process is not None and not process.is_dead:
                found[process.pid] = process
    return found


def read_marks(pid: int) -> set[bytes]:
    """The `MESH_NAME=value` in the environment of a process; none if it cannot be asked."""
    try:
        with open(f"{_PROC}/{pid}/environ", "rb") as file:  # noqa: PTH123
            return {word for word in file.read().split(b"\0") if word.startswith(b"MESH_")}
    except OSError:
        return set()


def children(pid: int) -> list[int]:
    """What `pid` has started or inherited, without a look at all processes; its dead as well."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"{_PROC}/{pid}/task"):  # noqa: PTH208
            with open(f"{_PROC}/{pid}/task/{thread}/children", "rb") as file:  # noqa: PTH123
                found += [int(word) for word in file.read().split()]
    except OSError:
        return found  # gone meanwhile, or a kernel without this list
    return found


def kin(
    seen: dict[int, Process], leader: int, start: int, marks: set[bytes], spare: set[int]
) -> list[Process]:
    """All living processes of one task.

    start: when `leader` was started; 0 if that is not known, and then the leader is known by its
    marks alone. spare: never among them, nor what they started, unless it is a task's own.
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
    """Signal exactly this process, not one that has got its number since; False if it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    except OSError:
        # No descriptor is left: the gap between look and blow is as short as it can be made.
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
