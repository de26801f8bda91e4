"""Copy of one pipe into one file, with back-pressure and then loss when the disk is full.

Two processes may copy: the carrier while a task runs, the agent once the task has ended. The holder
of the lock copies. splice(2) removes bytes from a pipe only when they are in the file, so the bytes
that a killed process had not copied are still in the pipe for the other process.

Bytes that the disk refuses wait in the pipe for HOLD_S, and the program waits with them. After that
bytes are dropped until the disk accepts some again: the file gets a hole in their place, so that
all other bytes keep their offsets, and a mark with the span of the hole.
"""

import errno
import fcntl
import os
import select
import stat
import sys
import termios
import time

# Largest size of a pipe, unless the host allows more.
MOST_BYTES = 1024 * 1024
HOLD_S = 2.0
# Results of `carry` that moved no bytes.
OVER = 0
EMPTY = -1
ELSEWHERE = -2
HELD = -3
# Set in the mode of a file that has a mark.
_MARKED = stat.S_IXUSR
# Set in the mode of stdout's file by a carrier without its agent, once both pipes are closed.
_WHOLE = stat.S_IXGRP
_COPY_BYTES = 64 * 1024
_SPAN_MAX = 64


class Flow:
    """pipe, file: descriptors that the caller owns. is_over: the pipe is empty, without writers.

    Only the holder of the lock may use a flow.
    """

    __slots__ = ("_can_splice", "_held_since", "_lost_from", "file", "is_over", "pipe")

    def __init__(self, pipe: int, file: int) -> None:
        self.pipe = pipe
        self.file = file
        self.is_over = False
        self._can_splice = True
        self._held_since: float | None = None
        # Offset of the first byte of a loss that goes on; None: no loss now.
        self._lost_from: int | None = None

    def finish(self) -> bool:
        """Move the bytes that the pipe holds now; False if the disk does not accept them yet."""
        moved = OVER if self.is_over else self.carry()
        if moved > 0:
            self._end_gap(moved)
        left = _waiting(self.pipe) if moved > 0 else 0
        while moved > 0 and left >= 0:  # bounded, though a writer may go on
            moved = self.carry()
            left -= moved
        return moved != HELD

    def _end_gap(self, moved: int) -> None:
        """End a loss that the other process began, now that the disk accepts bytes again."""
        facts = os.fstat(self.file)
        if self._lost_from is None and is_marked(facts):
            span = read_span(self.file)
            if span is not None and span[1] is None:
                mark(self.file, span[0], facts.st_size - moved)

    def carry(self) -> int:
        """Move the bytes that the pipe holds; returns their number, or OVER, EMPTY, HELD."""
        try:
            before = os.lseek(self.file, 0, os.SEEK_END)
            moved = self._move()
        except BlockingIOError:
            return EMPTY
        except OSError:
            return self._hold()
        self._held_since = None
        if self._lost_from is not None:
            mark(self.file, self._lost_from, before)
            self._lost_from = None
        self.is_over = not moved
        return moved

    def _move(self) -> int:
        if self._can_splice:
            try:
                return os.splice(self.pipe, self.file, MOST_BYTES, flags=os.SPLICE_F_NONBLOCK)
            except OSError as error:
                if error.errno not in {errno.EINVAL, errno.ENOSYS}:
                    raise
            # A file system without splice: bytes between read and write are lost with the carrier.
            self._can_splice = False
            os.set_blocking(self.pipe, False)
        data = os.read(self.pipe, _COPY_BYTES)
        size = len(data)
        try:
            while data:
                data = data[os.write(self.file, data) :]
        except OSError:
            self._give_up(len(data))
        return size

    def _hold(self) -> int:
        now = time.monotonic()
        if self._held_since is None:
            self._held_since = now
        if now - self._held_since < HOLD_S:
            return HELD
        try:
            moved = self._drop()
        except BlockingIOError:
            return EMPTY
        except OSError:
            return HELD
        if moved:
            self._give_up(moved)
        else:
            self.is_over = True
            if self._lost_from is not None:
                mark(self.file, self._lost_from, os.fstat(self.file).st_size)
        return moved

    def _drop(self) -> int:
        if not self._can_splice:
            return len(os.read(self.pipe, _COPY_BYTES))
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            return os.splice(self.pipe, null, MOST_BYTES, flags=os.SPLICE_F_NONBLOCK)
        finally:
            os.close(null)

    def _give_up(self, size: int) -> None:
        start = os.fstat(self.file).st_size
        if self._lost_from is None:
            self._lost_from = mark(self.file, start, None)
        try:
            os.ftruncate(self.file, start + size)
        except OSError:
            return  # larger than a file may be: the mark records the loss


class Flows:
    """Both streams of one task, stdout and stderr. The caller owns the descriptors.

    The lock is a file lock on stdout's file; closing any of its descriptors in this process ends
    the lock.
    """

    __slots__ = ("stderr", "stdout")

    def __init__(self, pipes: tuple[int, int], files: tuple[int, int]) -> None:
        self.stdout = Flow(pipes[0], files[0])
        self.stderr = Flow(pipes[1], files[1])

    @property
    def is_over(self) -> bool:
        return self.stdout.is_over and self.stderr.is_over

    def carry(self, flow: Flow) -> int:
        """Copy one stream as `Flow.carry` does; ELSEWHERE: another process holds the lock."""
        if not self._lock():
            return ELSEWHERE
        try:
            return flow.carry()
        finally:
            self._unlock()

    def finish(self) -> bool:
        """Finish both streams; False also if another process holds the lock."""
        if not self._lock():
            return False
        try:
            if self.were_closed():
                return True
            return self.stdout.finish() & self.stderr.finish()
        finally:
            self._unlock()

    def were_closed(self) -> bool:
        """Whether both pipes have ended; for the holder of the lock, or where none shares it."""
        poll = select.poll()
        poll.register(self.stdout.pipe, select.POLLIN)
        poll.register(self.stderr.pipe, select.POLLIN)
        found = poll.poll(0)
        if len(found) < 2 or any(event & select.POLLIN for _, event in found):
            return False
        self.stdout.is_over = self.stderr.is_over = True
        return True

    def _lock(self) -> bool:
        try:
            fcntl.lockf(self.stdout.file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except OSError:
            return False
        return True

    def _unlock(self) -> None:
        fcntl.lockf(self.stdout.file, fcntl.LOCK_UN, 1)


def _waiting(pipe: int) -> int:
    """Number of bytes in the pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def mark(file: int, start: int, end: int | None) -> int:
    """Record that bytes `start` to before `end` are missing; None: to the end of the file.

    Each file has one span, from the first missing byte to the last; returns the span's start. The
    record is a dangling symbolic link beside the file, since most disks store a link without room.
    """
    try:
        facts = os.fstat(file)
        known = read_span(file) if facts.st_mode & _MARKED else None
        start = start if known is None else min(start, known[0])
        os.fchmod(file, stat.S_IMODE(facts.st_mode) | _MARKED)
        link = _link(file)
        new = link + "~"
        if os.path.lexists(new):
            os.unlink(new)  # noqa: PTH108  (no pathlib in the carrier)
        os.symlink(f"{start}-{'' if end is None else end}", new)  # noqa: PTH211
        os.rename(new, link)  # noqa: PTH104
    except OSError:
        return start  # only the mode records the loss, or the folder is gone
    return start


def is_marked(facts: os.stat_result) -> bool:
    """Whether bytes are missing in a file with these facts."""
    return bool(facts.st_mode & _MARKED)


def mark_whole(file: int) -> None:
    """Record for the agent's next start that the files hold all bytes of the pipes.

    Without this record, a carrier that was killed would look like one that has finished.
    """
    try:
        os.fchmod(file, stat.S_IMODE(os.fstat(file).st_mode) | _WHOLE)
    except OSError:
        return  # the files then count as truncated, though they are complete


def is_whole(file: int) -> bool:
    return bool(os.fstat(file).st_mode & _WHOLE)


def read_span(file: int) -> tuple[int, int | None] | None:
    """Span of the missing bytes of a file; None without a record of a loss."""
    try:
        start, _, end = os.readlink(_link(file))[:_SPAN_MAX].partition("-")  # noqa: PTH115
        return int(start), int(end) if end else None
    except (OSError, ValueError):
        return None


def _link(file: int) -> str:
    """Path of the link beside the file, also after its folder was moved."""
    path = os.readlink(f"/proc/self/fd/{file}")  # noqa: PTH115
    return path.removesuffix(".log") + ".lost"
