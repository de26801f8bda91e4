"""A task's control group: who is in it cannot leave it, and all of it is killed at one stroke.

Paths are those of cgroup v2 directories. A directory that is not there is no error: then the task
has no cell, and its processes are found one by one.
"""

import os


def members(path: str) -> list[int]:
    try:
        with open(f"{path}/cgroup.procs", "rb") as file:  # noqa: PTH123  (no pathlib in the warden)
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def kill(path: str) -> bool:
    """Kill all that is in it and below, also what it starts meanwhile; False without a cell."""
    return _write(f"{path}/cgroup.kill", b"1")


def is_inhabited(path: str) -> bool:
    """Whether anybody lives in it; zombies do not."""
    try:
        with open(f"{path}/cgroup.events", "rb") as file:  # noqa: PTH123
            return b"populated 1" in file.read()
    except OSError:
        return False


def remove(path: str) -> bool:
    """True if it is gone; one that is inhabited stays."""
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
