# ruff: noqa: PTH104
# Text and os, not Path: this runs for every task.
"""Folders of tasks that printed nothing, kept to be used again.

Making and removing a folder with two files costs up to half a millisecond of a file system's time,
as much as starting the program; renaming one costs a hundredth of that. A folder is used again only
if it is as new: two empty private files that nobody else has open, and nothing else in it. That is
looked at when it is to be used again: what a task left behind had no later chance, and programs
that were just being loaded when the task ended have let go of their copies of its files. One in
which a task left anything is not kept in the first place.
"""

import fcntl
import os
import signal
import stat
from collections.abc import Iterable
from typing import Final

from schemas.subjects import STREAMS

# For reading and writing: a pipe in a file's place would not hold us up, and is no file.
_OPEN: Final = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_FILES: Final = {f"{stream}.log" for stream in STREAMS}
# How often a folder that somebody may still write into is tried; a program that is just being
# loaded holds a copy of all our files for a moment.
_TRIES: Final = 4
# So many folders are looked at before a new one is made.
_LOOKS: Final = 2


class _InUse(OSError):
    """Somebody else has it open."""


class Spares:
    """For one thread: system calls side by side with another would fight for the interpreter.

    They keep the names of their tasks until they get another. limit: how many are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # A queue in which one can be looked up: how often each was found in use.
        self._tries: dict[str, int] = {}

    def put(self, path: str) -> bool:
        """Keep the folder, whose files are closed; False if there are enough, or it is used up."""
        if len(self._tries) >= self._limit or not _holds_its_files(path):
            return False
        self._tries[path] = 0
        return True

    def take(self, path: str) -> tuple[tuple[int, int] | None, list[str]]:
        """The open files of a spare folder under its new name, if there is one.

        And what is not as new, to be removed by the caller. The oldest comes first.
        """
        worn: list[str] = []
        for _ in range(min(_LOOKS, len(self._tries))):
            spare = path if path in self._tries else next(iter(self._tries))
            tries = self._tries.pop(spare) + 1
            try:
                fds = _open_pristine(spare)
            except _InUse:
                if tries < _TRIES:
                    self._tries[spare] = tries
                    continue
                fds = None
            if fds is None:
                worn.append(spare)
            elif _has_moved(spare, path):
                return fds, worn
            else:
                self._tries[spare] = tries  # the new name is taken
                _close(fds)
                break
        return None, worn

    def clear(self) -> list[str]:
        """Let go of all; the caller removes the folders."""
        paths = list(self._tries)
        self._tries.clear()
        return paths


def _has_moved(path: str, new: str) -> bool:
    try:
        os.rename(path, new)
    except OSError:
        return False
    return True


def _open_pristine(path: str) -> tuple[int, int] | None:
    """The two files of a folder that is as new; None if it is not. Raises _InUse."""
    fds: list[int] = []
    try:
        if not _holds_its_files(path):
            return None
        for stream in STREAMS:
            fds.append(os.open(f"{path}/{stream}.log", _OPEN))
            if not _is_new(fds[-1]):
                _close(fds)
                return None
        for fd in fds:
            _check_unshared(fd)
    except _InUse:
        _close(fds)
        raise
    except OSError:
        _close(fds)
        return None
    return fds[0], fds[1]


def _holds_its_files(path: str) -> bool:
    """Whether it is a private folder with its two files, and nothing else, in it."""
    try:
        with os.scandir(path) as found:
            names = {entry.name for entry in found}
        mode = os.stat(path, follow_symlinks=False).st_mode  # noqa: PTH116
    except OSError:
        return False
    return names == _FILES and stat.S_ISDIR(mode) and stat.S_IMODE(mode) == 0o700


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def _is_new(fd: int) -> bool:
    """Whether it is an empty private file with one name."""
    facts = os.fstat(fd)
    return (
        facts.st_size == 0
        and facts.st_nlink == 1
        and stat.S_ISREG(facts.st_mode)
        and stat.S_IMODE(facts.st_mode) == 0o600
        and facts.st_uid == os.geteuid()
    )


def _check_unshared(fd: int) -> None:
    """Raise _InUse unless nobody else has this file open.

    The kernel grants a write lease to the only opener and to nobody else: a process that escaped
    its group and still holds its stdout would be found here. The lease is given back at once; who
    opens the file in between makes the kernel tell us, by a signal that does nothing.
    """
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        raise _InUse from error
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
