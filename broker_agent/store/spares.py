# ruff: noqa: PTH104, PTH116
# Text and os, not Path: this runs for every task.
"""Spare folders: folders of tasks without output, kept for reuse.

Making and removing a folder with two files costs up to half a millisecond of a file system's time,
as much as starting the program; a rename costs a hundredth of that. A folder is reused only if it
is pristine: two empty private files, an empty working directory, and nothing else. The check comes
at the reuse, after any change by processes that outlived their task. Folders with files of a task,
or with pipes that are still open, are not kept at all.
"""

import os
import stat
import time
from collections.abc import Iterable
from typing import Final

from schemas.subjects import STREAMS

# Read and write: opening a pipe in a file's place would not block, and the check then finds it.
_OPEN: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
# Name of the working directory in a task's folder.
WORK: Final = "work"
_NAMES: Final = {f"{stream}.log" for stream in STREAMS} | {WORK}
# Longest tick of the clock that file systems take times of changes from.
_SETTLED_NS: Final = 50_000_000
# Number of spare folders that are tried before a new one is made.
_LOOKS: Final = 2


class Spares:
    """Spare folders, for one thread: more threads would contend for the interpreter's lock.

    Each keeps its task's name until its reuse. limit: number of folders. owner: user and group of
    the working directories; None: the agent's.
    """

    def __init__(self, limit: int, owner: tuple[int, int] | None = None) -> None:
        self._limit = limit
        self._user = os.geteuid() if owner is None else owner[0]
        self._mode = 0o700 if owner is None else 0o711
        # A queue with look-up by path.
        self._paths: dict[str, None] = {}
        # Times of the last change of empty folders, by the inode of the working directory.
        self._known: dict[int, tuple[int, int]] = {}

    def put(self, path: str) -> bool:
        """Keep the folder, whose files are closed; False if it is dirty, or at the limit."""
        if len(self._paths) >= self._limit or not self._is_clean(path):
            return False
        self._paths[path] = None
        return True

    def take(self, path: str) -> tuple[tuple[int, int] | None, list[str]]:
        """Rename the oldest pristine folder to `path`; returns its open files, or None.

        Also returns the folders that are not pristine, for the caller to remove.
        """
        worn: list[str] = []
        for _ in range(min(_LOOKS, len(self._paths))):
            spare = path if path in self._paths else next(iter(self._paths))
            del self._paths[spare]
            fds = self._open_pristine(spare)
            if fds is None:
                worn.append(spare)
            elif _has_moved(spare, path):
                return fds, worn
            else:
                self._paths[spare] = None  # the new name is taken
                _close(fds)
                break
        return None, worn

    def clear(self) -> list[str]:
        """Forget all folders; the caller removes them."""
        paths = list(self._paths)
        self._paths.clear()
        return paths

    def _open_pristine(self, path: str) -> tuple[int, int] | None:
        """Open the two files of a pristine folder; None if it is not pristine."""
        if not self._is_clean(path):
            return None
        fds: list[int] = []
        try:
            for stream in STREAMS:
                fds.append(os.open(f"{path}/{stream}.log", _OPEN))
                if not _is_new(fds[-1]):
                    _close(fds)
                    return None
        except OSError:
            _close(fds)
            return None
        return fds[0], fds[1]

    def _is_clean(self, path: str) -> bool:
        """Whether it is a private folder with its two files and an empty working directory."""
        work = f"{path}/{WORK}"
        try:
            own, its = os.stat(path, follow_symlinks=False), os.stat(work, follow_symlinks=False)
            if not (_is_own(own, os.geteuid(), self._mode) and _is_own(its, self._user, 0o700)):
                return False
            changed = (its.st_ctime_ns, own.st_mtime_ns)
            if self._known.get(its.st_ino) == changed:
                return True
            if set(os.listdir(path)) != _NAMES or os.listdir(work):  # noqa: PTH208  (names alone)
                return False
        except OSError:
            return False
        self._note(its.st_ino, changed)
        return True

    def _note(self, inode: int, changed: tuple[int, int]) -> None:
        """Note the times of a clean folder: comparing times is ten times cheaper than a listing."""
        if time.time_ns() - max(changed) < _SETTLED_NS:
            return  # a later change might not change the times
        if len(self._known) > 4 * self._limit:
            self._known.clear()
        self._known[inode] = changed


def _is_own(facts: os.stat_result, user: int, wanted: int) -> bool:
    mode = facts.st_mode
    return stat.S_ISDIR(mode) and stat.S_IMODE(mode) == wanted and facts.st_uid == user


def _has_moved(path: str, new: str) -> bool:
    try:
        os.rename(path, new)
    except OSError:
        return False
    return True


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def _is_new(fd: int) -> bool:
    """Whether it is an empty private file without further links."""
    facts = os.fstat(fd)
    return (
        facts.st_size == 0
        and facts.st_nlink == 1
        and stat.S_ISREG(facts.st_mode)
        and stat.S_IMODE(facts.st_mode) == 0o600
        and facts.st_uid == os.geteuid()
    )
