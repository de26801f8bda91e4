"""Bounds of a worker process: memory, processes, and an end with its agent."""

import ctypes
import os
import resource
import signal
from contextlib import suppress
from typing import Final

MEMORY_BYTES: Final = 512 * 1024 * 1024
PROCESSES: Final = 64
# Source: prctl(2).
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_libc: Final = ctypes.CDLL(None, use_errno=True)


def confine(cell: str) -> None:
    """Bound this process and its children. cell: control group to enter, or empty.

    A host without control groups, or whose groups have no memory controller, bounds the data of
    each process; the number of processes is then bounded for users other than root.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_DATA, MEMORY_BYTES)
    if cell:
        with suppress(OSError):
            _write(f"{cell}/cgroup.procs", "0")
    if os.geteuid():
        _lower(resource.RLIMIT_NPROC, _own_threads() + PROCESSES)


def shut_process() -> None:
    """Keep the memory and the environment of this process from others of its user.

    No debugger can attach, /proc shows neither, and no crash file is written.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def make_cell(path: str) -> str:
    """Make the control group of a worker, in the agent; returns its path, or empty without one."""
    if not path:
        return ""
    try:
        os.mkdir(path)  # noqa: PTH102
    except OSError:
        return ""
    # The controllers may be missing: a group with processes of its own cannot hand them down.
    for name, value in (("memory.max", MEMORY_BYTES), ("pids.max", PROCESSES)):
        with suppress(OSError):
            _write(f"{path}/{name}", str(value))
    return path


def die_with_agent(*, at_once: bool) -> None:
    """Tie this process to its agent's life; during a call it interrupts the call first."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if at_once else 0, 0, 0, 0)


def _lower(kind: int, value: int) -> None:
    with suppress(OSError, ValueError):
        most = resource.getrlimit(kind)[1]
        bound = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (bound, bound))


def _own_threads() -> int:
    """Threads of this user, which the system counts for its limit of processes."""
    own, found = os.geteuid(), 0
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            with suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == own:  # noqa: PTH116
                    found += len(os.listdir(f"/proc/{name}/task"))  # noqa: PTH208
    return found


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:  # noqa: PTH123
        file.write(text)
