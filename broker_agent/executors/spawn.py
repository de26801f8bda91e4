"""Starting one program, as fast as the system can.

`posix_spawn` shares memory with the child until the program is loaded, so its cost does not grow
with the agent. It knows no working directory: the agent, which uses absolute paths alone, goes
there itself for the moment of the start. That is safe in one thread only, which is the loop's.
"""

import errno
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Final

from schemas.faults import Refused

_NOT_FOUND: Final = 127
_NOT_EXECUTABLE: Final = 126
# Python ignores these two; a program expects them as the system sets them.
_RESTORED: Final = (signal.SIGPIPE, signal.SIGXFSZ)
_HOME: Final = "/"


class CannotStart(Refused):
    """No process came to be. exit_code: what a shell would give, None if it is not the program."""

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__("field_invalid", message)
        self.exit_code = exit_code


class Files:
    """The three descriptors of a program; they are duplicated, never closed here."""

    __slots__ = ("stderr", "stdin", "stdout")

    def __init__(self, stdin: int, stdout: int, stderr: int) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr


def spawn(
    argv: Sequence[str], env: Mapping[bytes, bytes], folder: str, cwd: str | None, files: Files
) -> int:
    """Start `argv` as the leader of a session and process group of its own; return its pid.

    folder: where it starts, or what a relative `cwd` starts from. Raises CannotStart.
    """
    try:
        try:
            os.chdir(folder)
            if cwd is not None:
                os.chdir(cwd)
        except OSError as error:
            raise CannotStart(f"cannot enter {cwd or folder}: {_reason(error)}") from error
        return _spawn(argv, env, files)
    finally:
        os.chdir(_HOME)


def _spawn(argv: Sequence[str], env: Mapping[bytes, bytes], files: Files) -> int:
    program = find_program(argv[0], env.get(b"PATH", b"").decode() or os.defpath)
    try:
        return os.posix_spawn(
            program,
            [text.encode() for text in argv],
            env,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, files.stdin, 0),
                (os.POSIX_SPAWN_DUP2, files.stdout, 1),
                (os.POSIX_SPAWN_DUP2, files.stderr, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=_RESTORED,
        )
    except OSError as error:
        code = _NOT_FOUND if error.errno == errno.ENOENT else _NOT_EXECUTABLE
        raise CannotStart(f"cannot run {argv[0]}: {_reason(error)}", code) from error


def find_program(name: str, path: str) -> bytes:
    """Where `name` is, as a shell would look for it in `path`. Raises CannotStart (126, 127)."""
    if "/" in name:
        return name.encode()
    denied = False
    for folder in path.split(":"):
        candidate = f"{folder or '.'}/{name}".encode()
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):  # noqa: PTH112
            return candidate
        denied = denied or os.path.isfile(candidate)  # noqa: PTH113
    if denied:
        raise CannotStart(f"cannot run {name}: permission denied", _NOT_EXECUTABLE)
    raise CannotStart(f"cannot run {name}: not found in PATH", _NOT_FOUND)


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
