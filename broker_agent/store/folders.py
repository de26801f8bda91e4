# ruff: noqa: PTH102, PTH106, PTH108, PTH112, PTH114, PTH116
# Text and os, not Path: this runs for every task.
"""The folder of each task: `<state>/tasks/<command>.<attempt>/`.

    stdout.log, stderr.log    output of the task, copied from its pipes; private to the agent
    work/                     working directory of the task: empty at its start
    stdout.lost, stderr.lost  span of the bytes that the disk refused, if any

and `<state>/tasks/.removed/`: folders under removal.

No code here follows a symbolic link: links that a task left in its folder are removed, never their
targets.
"""

import errno
import fcntl
import os
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

from broker_agent.carrier.flow import Flows, is_marked, is_whole, read_span
from broker_agent.core.budget import NO_HOLE, Hole
from broker_agent.store.holes import punch
from broker_agent.store.remover import REMOVED, Remover
from broker_agent.store.spares import WORK, Spares
from broker_client.runtime.files import open_regular
from schemas.faults import Refused, Unreachable
from schemas.subjects import STREAMS

_CREATE: Final = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
SPARES: Final = 64
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
# A program may open its stdout pipe by name, also after it has changed its user.
_PIPE_MODE: Final = 0o622


class TaskFolder:
    """Folder of one task, with its two output files and their pipes, until `close`.

    is_cut: whether bytes of the pipes could not be copied into the files.
    """

    __slots__ = (
        "_fds",
        "_flows",
        "_is_marked",
        "_pipes",
        "_sizes",
        "is_cut",
        "number",
        "owner",
        "path",
    )

    def __init__(
        self, path: str, fds: tuple[int, int], owner: tuple[int, int] | None = None
    ) -> None:
        self.path = path
        self.owner = owner
        # The task's number at the carrier.
        self.number = 0
        self.is_cut = False
        self._fds: tuple[int, int] | None = fds
        self._pipes: tuple[()] | tuple[int, int] = ()
        self._flows: Flows | None = None
        self._is_marked = False
        self._sizes: tuple[int, int] | None = None

    @property
    def work(self) -> str:
        """Working directory of the task."""
        return f"{self.path}/{WORK}"

    @property
    def stdout(self) -> int:
        return self._fds[0] if self._fds else -1

    @property
    def stderr(self) -> int:
        return self._fds[1] if self._fds else -1

    def open_pipes(self) -> tuple[int, int]:
        """Make the pipes; returns the program's ends, which the caller closes. Raises OSError."""
        opened: list[int] = []
        try:
            for _ in STREAMS:
                opened += os.pipe()
                os.fchmod(opened[-1], _PIPE_MODE)
                if self.owner is not None:
                    os.fchown(opened[-1], *self.owner)
            if self._fds is None:
                raise OSError(errno.EBADF, "the task was given up")
            self._pipes = (opened[0], opened[2])
            self._flows = Flows(self._pipes, self._fds)
        except OSError:
            for fd in opened:
                os.close(fd)
            raise
        return opened[1], opened[3]

    @property
    def cargo(self) -> tuple[int, ...]:
        """Descriptors for the carrier: both pipes, both files; empty without pipes."""
        return () if self._fds is None else (*self._pipes, *self._fds)

    def drain(self) -> bool:
        """Copy the rest of the pipes into the files, after the task's end: they are complete then.

        False if the carrier holds the lock, or the disk is full.
        """
        if self._flows is not None and not self._flows.finish():
            return False
        self.fix_sizes()
        return True

    def fix_sizes(self) -> None:
        """Fix the files as the task's whole output, though a process may still hold its pipes."""
        self._sizes = self.sizes()

    @property
    def is_closed(self) -> bool:
        """Whether no process can write into it any more."""
        return self._flows is not None and self._flows.is_over

    @property
    def is_carried(self) -> bool:
        """Whether a carrier, of this or an earlier start of the agent, still has its files."""
        if self._fds is None:
            return False
        try:
            fcntl.flock(self._fds[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @property
    def was_left_whole(self) -> bool:
        """Whether the files hold all output that a task wrote while its agent was gone.

        Tasks of an agent of 0.1.0 wrote into the files themselves, and have no `work`.
        """
        if self._fds is None or not os.path.isdir(self.work):
            return True
        return is_whole(self._fds[0])

    def sizes(self) -> tuple[int, int]:
        """Present sizes of stdout and stderr, in bytes."""
        if self._sizes is not None:
            return self._sizes
        if self._fds is None:
            return (0, 0)
        facts = os.fstat(self._fds[0]), os.fstat(self._fds[1])
        self._is_marked = is_marked(facts[0]) or is_marked(facts[1])
        return facts[0].st_size, facts[1].st_size

    def lost(self, stream: int, size: int) -> Hole:
        """Span of the first `size` bytes of a stream that the disk refused; empty without."""
        if not self._is_marked or self._fds is None:
            return NO_HOLE
        span = read_span(self._fds[stream])
        if span is None:
            return NO_HOLE
        start, end = span
        end = size if end is None else min(end, size)
        return Hole(start, end) if 0 <= start < end else NO_HOLE

    @property
    def has_lost(self) -> bool:
        """Whether the disk refused bytes of it, by the last call of `sizes`."""
        return self._is_marked or self.is_cut

    def read(self, stream: int, size: int, offset: int) -> bytes:
        """Read at most `size` bytes of stream 0 (stdout) or 1 (stderr)."""
        if self._fds is None:
            return b""
        return os.pread(self._fds[stream], size, offset)

    def punch(self, stream: int, start: int, end: int) -> bool:
        """Free the disk space of a span that is never read again; False if unsupported."""
        return self._fds is not None and punch(self._fds[stream], start, end)

    def close(self) -> None:
        """Close the descriptors; the files stay on the disk. Idempotent."""
        fds, self._fds = self._fds, None
        for fd in (*self._pipes, *fds) if fds else ():
            os.close(fd)


class Folders:
    """All task folders of an agent.

    spares: number of folders without output that are kept for reuse; the rest are removed at their
    release. keep: number of released folders with output that stay for people, the newest ones.
    owner: user and group of tasks, who own the working directories; None: the agent's.
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
        self._keep = keep
        self._owner = owner
        self._kept: deque[str] = deque()
        self._spares = Spares(spares, owner)
        self._remover = Remover(self._root)

    def name(self, command: str, attempt: int) -> str:
        return f"{self._root}/{command}.{attempt}"

    def make(self, command: str, attempt: int) -> TaskFolder:
        """Make a folder with two empty files and an empty working directory.

        Raises Refused (`state_foreign`) if it exists already, Unreachable (`disk_full`).
        """
        path = self.name(command, attempt)
        try:
            fds, worn = self._spares.take(path)
            for each in worn:
                self.remove(each)
            if fds is None:
                fds = self._make(path)
            # A shared lock, which the carrier inherits: while it is held, files may still grow.
            with suppress(OSError):
                fcntl.flock(fds[0], fcntl.LOCK_SH | fcntl.LOCK_NB)
            return TaskFolder(path, fds, self._owner)
        except FileExistsError as error:
            raise Refused("state_foreign", f"{path} exists already") from error
        except OSError as error:
            raise Unreachable("disk_full", f"cannot make {path}: {error.strerror}") from error

    def _make(self, path: str) -> tuple[int, int]:
        os.mkdir(path, 0o700)
        if self._owner is not None:
            os.chmod(path, 0o711)  # noqa: PTH101, S103  (searchable, not listable)
        work = f"{path}/{WORK}"
        os.mkdir(work, 0o700)
        if self._owner is not None:
            os.chown(work, *self._owner, follow_symlinks=False)
        return _open_both(path, _CREATE)

    def reopen(self, command: str, attempt: int) -> TaskFolder | None:
        """Open the folder of a task of an earlier start, for reading; None if it is gone."""
        path = self.name(command, attempt)
        try:
            if not os.path.isdir(path) or os.path.islink(path):
                return None
            return TaskFolder(path, _open_both(path, _READ))
        except OSError:
            return None

    def reuse(self, path: str) -> bool:
        """Keep the folder of a task without output for reuse; False if it is not kept."""
        return self._spares.put(path)

    def retire(self, path: str, *, empty: bool) -> None:
        """Keep the folder of a released task for a while, or remove it."""
        if empty or self._keep == 0:
            self.remove(path)
            return
        self._kept.append(path)
        while len(self._kept) > self._keep:
            self.remove(self._kept.popleft())

    def remove(self, path: str) -> None:
        """Free the path at once, however much the folder holds."""
        if not remove_plain(path):
            self._remover.hand_over(path)

    def adopt(self, open_names: set[str]) -> None:
        """Count as kept, at start, the folders without an open attempt, oldest first.

        The removals of an earlier start go on.
        """
        self._remover.go_on()
        with os.scandir(self._root) as found:
            loose = [
                (entry.stat(follow_symlinks=False).st_mtime, entry.path)
                for entry in found
                if entry.path not in open_names and entry.name != REMOVED
            ]
        for _, path in sorted(loose):
            if _is_empty(path):
                self.remove(path)
            else:
                self.retire(path, empty=False)

    def close(self) -> None:
        """Remove the folders kept for reuse. No folder may be used after this."""
        for path in self._spares.clear():
            self.remove(path)
        self._remover.close()


def _is_empty(path: str) -> bool:
    """Whether the task has no output."""
    try:
        return not any(
            os.stat(f"{path}/{stream}.log", follow_symlinks=False).st_size for stream in STREAMS
        )
    except OSError:
        return False


def _open_both(path: str, flags: int) -> tuple[int, int]:
    # A new path is a file; a path that a task could reach may be a pipe by now.
    open_one = os.open if flags & os.O_EXCL else open_regular
    first = open_one(f"{path}/{STREAMS[0]}.log", flags, 0o600)
    try:
        return first, open_one(f"{path}/{STREAMS[1]}.log", flags, 0o600)
    except OSError:
        os.close(first)
        raise


def remove_plain(path: str) -> bool:
    """Remove a folder that holds the agent's own files only; False if it holds more."""
    try:
        folder = os.open(path, _FOLDER)
    except OSError:
        with suppress(OSError):
            os.unlink(path)  # a link, or no folder at all
        return not os.path.lexists(path)
    try:
        for name in (f"{stream}.{kind}" for stream in STREAMS for kind in ("log", "lost")):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
        with suppress(FileNotFoundError):
            os.rmdir(WORK, dir_fd=folder)
    except OSError:
        return False
    finally:
        os.close(folder)
    try:
        os.rmdir(path)
    except OSError:
        return False
    return True
