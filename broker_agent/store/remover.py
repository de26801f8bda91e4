# ruff: noqa: PTH102, PTH104, PTH106, PTH108
# os, not Path: names relative to open folders, which a task cannot exchange for a link meanwhile.
"""Removes task folders of any size, in a thread of its own.

A folder is renamed into `<tasks>/.removed/`, at a constant cost, and the thread finds it there.
`.removed` is the queue: it needs no memory, survives the end of the agent, and the next start goes
on with it.
"""

import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import structlog

REMOVED: Final = ".removed"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Number of removals between two pauses, in which the loop gets the interpreter's lock.
_STEPS: Final = 256
_PAUSE_S: Final = 0.001
# Limit of remembered folders that could not be removed; the next start retries them.
_STUCK_MAX: Final = 1024
# Longest time for one folder before the others get their turn.
_TURN_S: Final = 30.0
CLOSE_S: Final = 2.0

log = structlog.get_logger(__name__)


class Remover:
    """Remover of one agent. root: the folder of all task folders. For any thread."""

    def __init__(self, root: str) -> None:
        self._folder = f"{root}/{REMOVED}"
        self._lock = threading.Lock()  # guards _thread
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._is_over = threading.Event()
        self._stuck: set[str] = set()

    def go_on(self) -> None:
        """Start removing, also folders of an earlier start. Returns at once."""
        with self._lock:
            if self._thread is None and not self._is_over.is_set():
                self._thread = threading.Thread(target=self._run, name="remover", daemon=True)
                self._thread.start()
        self._wake.set()

    def hand_over(self, path: str) -> bool:
        """Rename the folder at `path` now, and remove it later; False if it cannot be renamed."""
        try:
            with suppress(FileExistsError):
                os.mkdir(self._folder, 0o700)
            os.rename(path, f"{self._folder}/{secrets.token_hex(8)}")
        except OSError as error:
            log.warning("folder_not_removed", path=path, error=str(error))
            return False
        self.go_on()
        return True

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Stop after the step under way; the next start removes the rest."""
        self._is_over.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._is_over.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                self._remove_all()
            except FileNotFoundError:
                continue  # no folder was ever handed over
            except OSError as error:
                log.warning("folders_not_removed", path=self._folder, error=str(error))

    def _remove_all(self) -> None:
        with os.scandir(self._folder) as found:
            for entry in found:
                if self._is_over.is_set():
                    return
                if entry.name not in self._stuck:
                    self._remove(entry)

    def _remove(self, entry: "os.DirEntry[str]") -> None:
        try:
            is_gone = _Sweep(self._is_over).remove(entry.path)
        except _Interrupted:
            self._wake.set()  # retry after the other folders
            return
        if not is_gone:
            log.warning("folder_not_removed", path=entry.path)
            if len(self._stuck) < _STUCK_MAX:
                self._stuck.add(entry.name)


class _Interrupted(Exception):
    """Removal interrupted: the agent is ending, or another folder has its turn."""


class _Sweep:
    """Removal of one tree of any depth and width: subfolders move up, listings are streamed.

    is_over: interrupts it, as does the end of its turn, since a process may still write into it.
    """

    def __init__(self, is_over: threading.Event) -> None:
        self._is_over = is_over
        self._until = time.monotonic() + _TURN_S
        self._unique = secrets.token_hex(8)
        self._steps = 0

    def remove(self, path: str) -> bool:
        """Remove the tree; False if a part of it is left. Raises _Interrupted."""
        try:
            top = os.open(path, _FOLDER)
        except OSError:
            with suppress(OSError):
                os.unlink(path)  # a link, or no folder at all
            return not os.path.lexists(path)
        try:
            while self._empty(top, top):
                pass
        finally:
            os.close(top)
        with suppress(OSError):
            os.rmdir(path)
        return not os.path.lexists(path)

    def _empty(self, folder: int, top: int) -> bool:
        """Remove the entries of `folder` once; True if at least one is gone."""
        has_gone = False
        with os.scandir(folder) as found:
            for entry in found:
                self._step()
                with suppress(OSError):
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.name, dir_fd=folder)
                    elif folder == top:
                        has_gone |= self._remove_inner(entry.name, top)
                        continue
                    else:
                        self._bring_up(entry.name, folder, top)
                    has_gone = True
        return has_gone

    def _remove_inner(self, name: str, top: int) -> bool:
        """Remove a folder in the top one; True if a part of it is gone. Raises OSError."""
        has_gone = False
        with _opened(name, top) as inner:
            while self._empty(inner, top):
                has_gone = True
        try:
            os.rmdir(name, dir_fd=top)
        except OSError:
            return has_gone
        return True

    def _bring_up(self, name: str, folder: int, top: int) -> None:
        new = f"{self._unique}.{self._steps}"
        os.rename(name, new, src_dir_fd=folder, dst_dir_fd=top)

    def _step(self) -> None:
        self._steps += 1
        if self._steps % _STEPS == 0:
            if self._is_over.is_set() or time.monotonic() > self._until:
                raise _Interrupted
            self._is_over.wait(_PAUSE_S)


@contextmanager
def _opened(name: str, folder: int) -> Iterator[int]:
    """Open a folder, also one whose mode a task has cleared. Raises OSError."""
    with suppress(OSError):
        _allow(name, folder)
    handle = os.open(name, _FOLDER, dir_fd=folder)
    try:
        yield handle
    finally:
        os.close(handle)


def _allow(name: str, folder: int) -> None:
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.chmod(f"/proc/self/fd/{handle}", 0o700)  # noqa: PTH101  (this very folder)
    finally:
        os.close(handle)
