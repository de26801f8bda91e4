# ruff: noqa: PTH104, PTH116
# Text and os, not Path: this runs for every task.
"""Folders of tasks that printed nothing, kept to be used again.

Making and removing a folder with two files costs up to half a millisecond of a file system's time,
as much as starting the program; renaming one costs a hundredth of that. A folder is used again only
if it is as new: two empty private files, an empty folder to work in, and nothing else. That is
looked at when it is to be used again: what a task left behind had no later chance. One in which a
task left anything is not kept in the first place, nor one whose pipes anybody still holds.
"""

import os
import stat
import time
from collections.abc import Iterable
from typing import Final

from schemas.subjects import STREAMS

# For reading and writing: a pipe in a file's place would not hold us up, and is no file.
_OPEN: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
# The folder in a task's folder where the task starts.
WORK: Final = "work"
_NAMES: Final = {f"{stream}.log" for stream in STREAMS} | {WORK}
# File systems note when a folder changed by a clock that ticks this often at the least.
_SETTLED_NS: Final = 50_000_000
# So many folders are looked at before a new one is made.
_LOOKS: Final = 2


class Spares:
    """For one thread: system calls side by side with another would fight for the interpreter.

    They keep the names of their tasks until they get another. limit: how many are kept. owner: user
    and group of the folders that tasks work in, if not the agent's.
    """

    def __init__(self, limit: int, owner: tuple[int, int] | None = None) -> None:
        self._limit = limit
        self._user = os.geteuid() if owner is None else owner[0]
        self._mode = 0o700 if owner is None else 0o711
        # A queue in which one can be looked up.
        self._paths: dict[str, None] = {}
        # When those that held nothing had changed last, by the inode of the folder to work in.
        self._known: dict[int, tuple[int, int]] = {}

    def put(self, path: str) -> bool:
        """Keep the folder, whose files are closed; False if there are enough, or it is used up."""
        if len(self._paths) >= self._limit or not self._is_clean(path):
            return False
        self._paths[path] = None
        return True

    def take(self, path: str) -> tuple[tuple[int, int] | None, list[str]]:
        """The open files of a spare folder under its new name, if there is one.

        And what is not as new, to be removed by the caller. The oldest comes first.
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
        """Let go of all; the caller removes the folders."""
        paths = list(self._paths)
        self._paths.clear()
        return paths

    def _open_pristine(self, path: str) -> tuple[int, int] | None:
        """The two files of a folder that is as new; None if it is not."""
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
        """Whether it is a private folder with its two files and an empty folder in it."""
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
        """Listing folders costs ten times as much as looking whether they have changed."""
        if time.time_ns() - max(changed) < _SETTLED_NS:
            return  # a change that follows might leave the times as they are
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
    """Whether it is an empty private file with one name."""
    facts = os.fstat(fd)
    return (
        facts.st_size == 0
        and facts.st_nlink == 1
        and stat.S_ISREG(facts.st_mode)
        and stat.S_IMODE(facts.st_mode) == 0o600
        and facts.st_uid == os.geteuid()
    )
