"""A task's control group (cell): its processes cannot leave it, and one write kills them all.

Paths name cgroup v2 directories. A missing directory is no error: then the task has no cell, and
its processes are found through /proc.
"""

import os


def members(path: str) -> list[int]:
    try:
        with open(f"{path}/cgroup.procs", "rb") as file:  # noqa: PTH123  (no pathlib in the warden)
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def kill(path: str) -> bool:
    """Kill all processes of the cell, also those started meanwhile; False without a cell."""
    return _write(f"{path}/cgroup.kill", b"1")


def is_inhabited(path: str) -> bool:
    """Whether the cell has processes other than zombies."""
    try:
        with open(f"{path}/cgroup.events", "rb") as file:  # noqa: PTH123
            return b"populated 1" in file.read()
    except OSError:
        return False


def remove(path: str) -> bool:
    """Remove an empty cell; False if it still has processes."""
    try:
        os.rmdir(path)  # noqa: PTH106
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _write(path: str, data: bytes) -> bool:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, data)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
