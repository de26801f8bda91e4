# ruff: noqa: PTH104, PTH120
# Text and os, not Path: this runs for every task.
"""Folders of tasks that printed nothing, kept to be used again.

Making and removing a folder with two files costs up to half a millisecond of a file system's time,
as much as starting the program; renaming one costs a hundredth of that. A folder is used again only
if it is as new: two empty private files, nothing else in it, and nobody who could still write.
"""

import fcntl
import os
import signal
import stat
from collections import deque
from typing import Final, NamedTuple

from schemas.subjects import STREAMS

SPARES_MAX: Final = 64
# No task's folder begins like this: ids have no dot.
PREFIX: Final = ".spare-"
_OPEN: Final = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_FILES: Final = {f"{stream}.log" for stream in STREAMS}


class Spare(NamedTuple):
    path: str
    fds: tuple[int, int]


class Spares:
    """For one thread: system calls side by side with another would fight for the interpreter."""

    def __init__(self) -> None:
        self._spares: deque[Spare] = deque()
        self._count = 0

    def put(self, path: str) -> bool:
        """Keep the folder if it is as new; False if it has to be removed."""
        if len(self._spares) >= SPARES_MAX or not _is_pristine(path):
            return False
        self._count += 1
        spare = f"{os.path.dirname(path)}/{PREFIX}{self._count}"
        fds: list[int] = []
        try:
            for stream in STREAMS:
                fds.append(os.open(f"{path}/{stream}.log", _OPEN))
                _check_unshared(fds[-1])
            os.rename(path, spare)
        except OSError:
            for fd in fds:
                os.close(fd)
            return False
        self._spares.append(Spare(spare, (fds[0], fds[1])))
        return True

    def take(self, path: str) -> tuple[int, int] | None:
        """A spare folder under its new name, and its open files; None if there is none."""
        try:
            spare = self._spares.popleft()
        except IndexError:
            return None
        try:
            os.rename(spare.path, path)
        except OSError:
            self._spares.append(spare)  # the new name is taken
            return None
        return spare.fds

    def close(self) -> list[str]:
        """Let go of all; the caller removes the folders."""
        paths = [spare.path for spare in self._spares]
        for spare in self._spares:
            for fd in spare.fds:
                os.close(fd)
        self._spares.clear()
        return paths


def _is_pristine(path: str) -> bool:
    try:
        with os.scandir(path) as found:
            names = {entry.name for entry in found}
        mode = os.stat(path, follow_symlinks=False).st_mode  # noqa: PTH116
    except OSError:
        return False
    return names == _FILES and stat.S_ISDIR(mode) and stat.S_IMODE(mode) == 0o700


def _check_unshared(fd: int) -> None:
    """Raise OSError unless this is an empty private file that nobody else has open for writing.

    The kernel grants a write lease to the only opener and to nobody else: a process that escaped
    its group and still holds its stdout would be found here. The lease is given back at once; who
    opens the file in between makes the kernel tell us, by a signal that does nothing.
    """
    facts = os.fstat(fd)
    is_new = facts.st_size == 0 and facts.st_nlink == 1 and stat.S_IMODE(facts.st_mode) == 0o600
    if not is_new or not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
        raise OSError("not as new")
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
