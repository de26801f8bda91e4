"""Starts one program with `posix_spawn` through ctypes, without the interpreter's lock.

`posix_spawn` shares memory with the child until exec, so its cost does not grow with the agent.
The caller is blocked until exec, which on a busy host is mostly a wait for a processor. The variant
in `os` blocks all threads of the interpreter; through ctypes it blocks its own alone. It changes no
state of this process, so any thread may call it.
"""

import ctypes
import errno
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from broker_agent.launcher.find import find
from schemas.faults import Refused

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
# Signals that Python ignores, or that were ignored at the agent's start (`nohup`): programs get the
# system's default of each.
_RESTORED: Final = tuple(
    number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN
)
# Source: spawn.h of glibc and of musl, which agree: SETSIGDEF, SETSIGMASK, SETSID.
_FLAGS: Final = 0x04 | 0x08 | 0x80
# Size for posix_spawnattr_t, posix_spawn_file_actions_t and sigset_t: at most 336 bytes in both.
_STRUCT_BYTES: Final = 1024

_libc: Final = ctypes.CDLL(None)
# Since glibc 2.29 and musl 1.1.24.
_add_folder: Final = _libc.posix_spawn_file_actions_addchdir_np
_add_dup: Final = _libc.posix_spawn_file_actions_adddup2
# Since glibc 2.34. exec closes the agent's descriptors too, but late: until then a program would
# hold the pipes of other tasks, which would look open after their end.
_close_from: Final = getattr(_libc, "posix_spawn_file_actions_addclosefrom_np", None)


class CannotStart(Refused):
    """A failed start. exit_code: as of a shell; None if the command is not the cause."""

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__("field_invalid", message)
        self.exit_code = exit_code


class Files(NamedTuple):
    """The three descriptors of a program; they are duplicated, never closed here."""

    stdin: int
    stdout: int
    stderr: int


class SpawnOrder(NamedTuple):
    """One program to start. folder: absolute path of its working directory, or base of `cwd`.

    cell: path of the control group to make for it, by a launcher only. given: descriptors for the
    program alone, closed here once it has them.

    No text may contain a NUL byte, and no name in `env` an equals sign.
    """

    argv: Sequence[str]
    env: Mapping[bytes, bytes]
    folder: str
    cwd: str | None
    files: Files
    cell: str = ""
    given: tuple[int, ...] = ()

    def close_given(self) -> None:
        """Close the descriptors for the program, after its start or its failure."""
        for fd in self.given:
            os.close(fd)


def _attributes() -> "ctypes.Array[ctypes.c_char]":
    """Attributes for a session of its own, without blocked or ignored signals."""
    attributes, signals = (ctypes.create_string_buffer(_STRUCT_BYTES) for _ in range(2))
    _libc.posix_spawnattr_init(attributes)
    _libc.posix_spawnattr_setflags(attributes, ctypes.c_short(_FLAGS))
    _libc.sigemptyset(signals)
    _libc.posix_spawnattr_setsigmask(attributes, signals)
    for number in _RESTORED:
        _libc.sigaddset(signals, int(number))
    _libc.posix_spawnattr_setsigdefault(attributes, signals)
    return attributes


_ATTRIBUTES: Final = _attributes()


def keep_descriptors() -> None:
    """Set close-on-exec on all inherited descriptors: programs get no files and locks of them."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  (names alone)
        if int(name) > 2:
            with suppress(OSError):  # the descriptor of the listing itself
                os.set_inheritable(int(name), False)


def spawn(order: SpawnOrder) -> int:
    """Start a program as the leader of a session and process group of its own; return its pid.

    Raises CannotStart.
    """
    folder = order.folder if order.cwd is None else os.path.join(order.folder, order.cwd)  # noqa: PTH118  (runs for every task)
    path = os.fsdecode(order.env.get(b"PATH", b"")) or os.defpath
    try:
        program = find_program(order.argv[0], path, folder)
    except CannotStart:
        _check_folder(folder, order.cwd)
        raise
    number, pid = _spawn(program, order, os.fsencode(folder))
    if number == 0:
        return pid
    _check_folder(folder, order.cwd)
    code = NOT_FOUND if number == errno.ENOENT else NOT_EXECUTABLE
    reason = said(OSError(number, os.strerror(number)))
    raise CannotStart(f"cannot run {order.argv[0]}: {reason}", code)


def _spawn(program: bytes, order: SpawnOrder, folder: bytes) -> tuple[int, int]:
    """Return errno, or 0, and the pid."""
    actions = ctypes.create_string_buffer(_STRUCT_BYTES)
    _libc.posix_spawn_file_actions_init(actions)
    try:
        refused = [_add_dup(actions, source, target) for target, source in enumerate(order.files)]
        if _close_from is not None:
            refused.append(_close_from(actions, len(order.files)))
        number = next(filter(None, [*refused, _add_folder(actions, folder)]), 0)
        if number:
            return number, 0
        argv = _texts([text.encode() for text in order.argv])
        env = _texts([name + b"=" + value for name, value in order.env.items()])
        pid = ctypes.c_int()
        number = _libc.posix_spawn(ctypes.byref(pid), program, actions, _ATTRIBUTES, argv, env)
        return number, pid.value
    finally:
        _libc.posix_spawn_file_actions_destroy(actions)


def _texts(texts: list[bytes]) -> "ctypes.Array[ctypes.c_char_p]":
    return (ctypes.c_char_p * (len(texts) + 1))(*texts, None)


def _check_folder(folder: str, cwd: str | None) -> None:
    """Raise CannotStart if the folder is the cause of the failure."""
    try:
        handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.stat(".", dir_fd=handle)
        finally:
            os.close(handle)
    except OSError as error:
        code = NOT_EXECUTABLE if cwd else None
        raise CannotStart(f"cannot enter {cwd or folder}: {said(error)}", code) from error


def find_program(name: str, path: str, folder: str = "/") -> bytes:
    """Find `name` as a shell in `folder` does in `path`.

    Raises CannotStart (126, 127).
    """
    program, is_denied = find(name, path, folder)
    if program is not None:
        return program
    if is_denied:
        raise CannotStart(f"cannot run {name}: permission denied", NOT_EXECUTABLE)
    raise CannotStart(f"cannot run {name}: not found in PATH", NOT_FOUND)


def said(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
