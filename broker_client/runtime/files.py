"""Atomic writes of the files of a process's identity and state.

A write goes to a temporary file beside it, is synced and renamed, so that after a crash at any
moment the old content or the new one is there. Private files are 0600 from the first byte on.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from schemas.faults import Corrupt, MeshError, Refused

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644
LOCK_NAME: Final = "lock"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def write_private(path: Path, data: bytes) -> None:
    """Write `data` to `path`, readable by the owner alone; durable when this returns.

    Raises Refused (`disk_full`, `state_missing`, `state_unreadable`); the old content stays then.
    """
    _write(path, data, PRIVATE)


def write_public(path: Path, data: bytes) -> None:
    """As `write_private`, readable by everyone."""
    _write(path, data, PUBLIC)


def write_passing(path: Path, data: bytes) -> None:
    """As `write_public` without a sync: for files that are written again soon anyway."""
    _write(path, data, PUBLIC, durable=False)


def open_regular(path: Path | str, flags: int, mode: int = PRIVATE) -> int:
    """Open a regular file; anything else, such as a pipe, raises OSError without blocking.

    Pass O_NOFOLLOW to refuse links.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor


def read_bytes(path: Path) -> bytes:
    """Read a file of a state directory; only a regular one, as any other could block."""
    with os_errors(path, "read"), os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
        return file.read()


def read_text(path: Path) -> str:
    return _text(read_bytes(path), path)


def read_given(path: Path) -> str:
    """Read a file named by a person, which may be a pipe."""
    with os_errors(path, "read"):
        return _text(path.read_bytes(), path)


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Corrupt("state_corrupt", f"{path} is not UTF-8 text") from error


def make_private_directory(path: Path) -> None:
    """Make `path` and its missing parents, each readable by the owner alone."""
    with os_errors(path, "create"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)
            sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames, creations and deletions in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def os_errors(path: Path, verb: str) -> Iterator[None]:
    """Raise the fault of an OSError in the block: `cannot <verb> <path>: <reason>`."""
    try:
        yield
    except OSError as error:
        raise _fault(error, path, verb) from error


def _fault(error: OSError, path: Path, verb: str) -> MeshError:
    reason = error.strerror or type(error).__name__
    if error.errno in _FULL:
        return Refused("disk_full", f"cannot {verb} {path}: {reason.lower()}")
    if error.errno == errno.ENOENT:
        is_new = verb in ("make", "write")
        what = f"there is no {path.parent}" if is_new else "it does not exist"
        advice = "name a folder that is there, or can be made" if is_new else ""
        return Refused("state_missing", f"cannot {verb} {path}: {what}", advice=advice)
    return Refused("state_unreadable", f"cannot {verb} {path}: {reason.lower()}")


def _write(path: Path, data: bytes, mode: int, *, durable: bool = True) -> None:
    neighbour = path.with_name(f".{path.name}.new")
    with os_errors(path, "write"):
        # One fixed name, so that crashes leave one file at most; a new file, open nowhere else.
        neighbour.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(neighbour, flags, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            neighbour.replace(path)
        except BaseException:
            neighbour.unlink(missing_ok=True)
            raise
        if durable:
            sync_directory(path.parent)


class Lock:
    """Lock of a directory; the kernel releases it when the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def lock_directory(path: Path) -> Lock:
    """Lock the file `lock` in `path` for this process; a second lock in it is refused, too.

    Raises Refused: `state_locked` with the holder's pid; `state_missing` or `state_unreadable`.
    """
    file = path / LOCK_NAME
    with os_errors(file, "lock"):
        descriptor = open_regular(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    try:
        _take(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return Lock(descriptor)


def _take(descriptor: int, path: Path) -> None:
    with os_errors(path / LOCK_NAME, "lock"):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            who = f"process {holder}" if holder.isdigit() else "another process"
            raise Refused("state_locked", f"{path} is in use by {who}") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
