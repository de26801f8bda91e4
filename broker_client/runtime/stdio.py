"""The standard streams of a process: always open; a failed write does not end the process."""

import contextlib
import io
import os
import select
import sys
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDIN, STDOUT, STDERR = 0, 1, 2
# A writable pipe takes this many bytes without blocking (POSIX, PIPE_BUF).
_PIECE_BYTES: Final = select.PIPE_BUF
# Longest wait for a slow reader, so that a blocked one does not stop the loop.
_PATIENCE_MS: Final = 50


class OutputFailed(OSError):
    """A failed write of output: a full disk, a closed terminal.

    A closed pipe raises BrokenPipeError, as usual.
    """


def open_standard_streams(*, stdout_flags: int = os.O_RDWR) -> None:
    """Open /dev/null on closed descriptors 0 to 2; the first thing that a program does.

    Otherwise the next file or socket gets such a number, and receives printed text.
    stdout_flags: with os.O_RDONLY writes to a closed stdout still fail.
    """
    for number, flags in ((STDIN, os.O_RDWR), (STDOUT, stdout_flags), (STDERR, os.O_RDWR)):
        try:
            os.fstat(number)
        except OSError:
            _open_null(number, flags)
    if sys.stdin is None:
        sys.stdin = open(STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = _stream(STDOUT)
    if sys.stderr is None:
        sys.stderr = _stream(STDERR)


def guard_output() -> None:
    """Make failed writes of stdout raise OutputFailed, for a program that prints for its caller.

    Text that the stream cannot encode is escaped. End with `give_up_output` after such an error,
    and with `flush_output` in any case.
    """
    open_standard_streams(stdout_flags=os.O_RDONLY)
    sys.stdout, sys.stderr = _stream(STDOUT, sys.stdout), _stream(STDERR, sys.stderr)


def flush_output() -> None:
    """Flush both streams. Raises OutputFailed or BrokenPipeError for stdout only."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        _point_at_null(STDERR)
    sys.stdout.flush()


def give_up_output() -> None:
    """Drop unwritten output, so that the interpreter does not fail on it again."""
    _point_at_null(STDOUT)


def _point_at_null(number: int) -> None:
    opened = os.open(os.devnull, os.O_WRONLY)
    os.dup2(opened, number)
    os.close(opened)


def _open_null(number: int, flags: int) -> None:
    opened = os.open(os.devnull, flags)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    os.set_inheritable(number, True)


def _stream(number: int, like: TextIO | None = None) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(_Raw(number, "w", closefd=False)),
        encoding="utf-8" if like is None else like.encoding,
        errors="backslashreplace",
        line_buffering=number == STDERR or os.isatty(number),
    )


class _Raw(io.FileIO):
    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            while (written := super().write(data)) is None:  # a non-blocking descriptor
                select.select([], [self], [])
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputFailed(error.errno, error.strerror) from error
        return written


def tell(text: str, number: int = STDERR) -> bool:
    """Write `text` to a descriptor, unbuffered; returns False after a failure."""
    data = text.encode("utf-8", "backslashreplace")
    try:
        while data:
            data = data[os.write(number, data) :]
    except OSError:
        return False
    return True


class LogFile:
    """A text stream for log lines on a descriptor. A line that cannot be written is lost.

    A full disk, a quota, a closed or blocked reader: none of them raises or blocks for longer than
    50 ms, and the first line after that has the number of lost ones. lost: lines not reported yet.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._is_cut = False
        self._waits = select.poll()
        self._waits.register(number, select.POLLOUT)
        self.lost = 0

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, text: str) -> int:
        if self.lost and self._put(f'{{"event": "log_lines_lost", "count": {self.lost}}}\n'):
            self.lost = 0
        if self.lost or not self._put(text):
            self.lost += 1
        return len(text)

    def flush(self) -> None:
        """Do nothing: lines are not buffered."""

    def _put(self, text: str) -> bool:
        data = text.encode("utf-8", "backslashreplace")
        if self._is_cut:
            data = b"\n" + data
        patience_ms = 0 if self.lost else _PATIENCE_MS
        begun = False
        try:
            while data:
                if not self._waits.poll(patience_ms):
                    break
                data = data[os.write(self._number, data[:_PIECE_BYTES]) :]
                begun = True
        except OSError:
            pass
        if begun:
            self._is_cut = bool(data)
        return not data


def log_file() -> TextIO | LogFile:
    """Return stderr for log lines, or its replacement by a test."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.stderr.fileno() == STDERR:
            return LogFile(STDERR)
    return sys.stderr
