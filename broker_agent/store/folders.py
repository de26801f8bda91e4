# ruff: noqa: PTH102, PTH106, PTH108, PTH112, PTH114, PTH116
# Text and os, not Path: this runs for every task.
"""The folder of each task: `<state>/tasks/<command>.<attempt>/`, with what the task prints.

The task writes straight into the files, no byte passes through the agent. Nothing here follows a
symbolic link: what a task left in its folder is removed as names, never as what they point to.
"""

import os
import shutil
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

from broker_agent.store.holes import punch
from broker_agent.store.spares import Spares
from broker_client.runtime.files import open_regular
from schemas.faults import Refused, Unreachable
from schemas.subjects import STREAMS

_CREATE: Final = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
SPARES: Final = 64
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class TaskFolder:
    """One task's folder and the two files of its output, open until `close`."""

    __slots__ = ("_fds", "path")

    def __init__(self, path: str, fds: tuple[int, int]) -> None:
        self.path = path
        self._fds: tuple[int, int] | None = fds

    @property
    def stdout(self) -> int:
        return self._fds[0] if self._fds else -1

    @property
    def stderr(self) -> int:
        return self._fds[1] if self._fds else -1

    def sizes(self) -> tuple[int, int]:
        """Bytes of stdout and stderr so far."""
        if self._fds is None:
            return (0, 0)
        return os.fstat(self._fds[0]).st_size, os.fstat(self._fds[1]).st_size

    def read(self, stream: int, size: int, offset: int) -> bytes:
        """At most `size` bytes of stream 0 (stdout) or 1 (stderr)."""
        if self._fds is None:
            return b""
        return os.pread(self._fds[stream], size, offset)

    def punch(self, stream: int, start: int, end: int) -> bool:
        """Give the disk back what lies between, which is never read again; False if it cannot."""
        return self._fds is not None and punch(self._fds[stream], start, end)

    def close(self) -> None:
        """Let go of the files; they stay on the disk. Harmless if done twice."""
        fds, self._fds = self._fds, None
        for fd in fds or ():
            os.close(fd)


class Folders:
    """All task folders of an agent.

    Of those without output up to `spares` stay until they are used again, the rest vanish with
    their release; of the others the newest `keep` stay for a person to look at. owner: user and
    group that tasks run as, if not the agent's.
    """

    def __init__(
        self,
        root: Path,
        *,
        keep: int,
        spares: int = SPARES,
        owner: tuple[int, int] | None = None,
    ) -> None:
        self._root = str(root)
        self._owner = owner
        self._keep = keep
        self._kept: deque[str] = deque()
        self._spares = Spares(spares)

    def name(self, command: str, attempt: int) -> str:
        return f"{self._root}/{command}.{attempt}"

    def make(self, command: str, attempt: int) -> TaskFolder:
        """A new folder with two empty files.

        Raises Refused (`state_foreign`) if there is one already, Unreachable (`disk_full`).
        """
        path = self.name(command, attempt)
        try:
            fds, worn = self._spares.take(path)
            for each in worn:
                remove_folder(each)
            if fds is not None:
                return TaskFolder(path, fds)
            os.mkdir(path, 0o700)
            if self._owner is not None:
                os.chown(path, *self._owner, follow_symlinks=False)
            return TaskFolder(path, _open_both(path, _CREATE))
        except FileExistsError as error:
            raise Refused("state_foreign", f"{path} exists already") from error
        except OSError as error:
            raise Unreachable("disk_full", f"cannot make {path}: {error.strerror}") from error

    def reopen(self, command: str, attempt: int) -> TaskFolder | None:
        """The folder of a task of an earlier start, for reading; None if it is gone."""
        path = self.name(command, attempt)
        try:
            if not os.path.isdir(path) or os.path.islink(path):
                return None
            return TaskFolder(path, _open_both(path, _READ))
        except OSError:
            return None

    def reuse(self, path: str) -> bool:
        """The task has ended and printed nothing: whether its folder is kept for another."""
        return self._spares.put(path)

    def retire(self, path: str, *, empty: bool) -> None:
        """The task was released: keep its folder for a while, or remove it."""
        if empty or self._keep == 0:
            remove_folder(path)
            return
        self._kept.append(path)
        while len(self._kept) > self._keep:
            remove_folder(self._kept.popleft())

    def adopt(self, open_names: set[str]) -> None:
        """At start: what no open attempt needs counts as kept, oldest first."""
        with os.scandir(self._root) as found:
            loose = [
                (entry.stat(follow_symlinks=False).st_mtime, entry.path)
                for entry in found
                if entry.path not in open_names
            ]
        for _, path in sorted(loose):
            if _is_empty(path):
                remove_folder(path)
            else:
                self.retire(path, empty=False)

    def close(self) -> None:
        """Remove what was kept for use only. Nobody may use the folders any more."""
        for path in self._spares.clear():
            remove_folder(path)


def _is_empty(path: str) -> bool:
    """Whether the task printed nothing: then there is nothing for a person to look at."""
    try:
        return not any(
            os.stat(f"{path}/{stream}.log", follow_symlinks=False).st_size for stream in STREAMS
        )
    except OSError:
        return False


def _open_both(path: str, flags: int) -> tuple[int, int]:
    # What is made anew is a file; what a task could reach meanwhile may be a pipe by now.
    open_one = os.open if flags & os.O_EXCL else open_regular
    first = open_one(f"{path}/{STREAMS[0]}.log", flags, 0o600)
    try:
        return first, open_one(f"{path}/{STREAMS[1]}.log", flags, 0o600)
    except OSError:
        os.close(first)
        raise


def remove_folder(path: str) -> None:
    """Remove a folder and what a task left in it; what cannot be removed stays."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        with suppress(OSError):
            os.unlink(path)  # a link, or no folder at all
        return
    try:
        for stream in STREAMS:
            os.unlink(f"{stream}.log", dir_fd=folder)
    except OSError:
        pass  # rmtree gets what is there
    finally:
        os.close(folder)
    try:
        os.rmdir(path)
    except OSError:
        shutil.rmtree(path, ignore_errors=True)  # this does not follow links either
