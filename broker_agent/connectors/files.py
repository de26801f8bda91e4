"""Actions and rules of paths, shared by the kinds `directory` and `sftp`."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final

from broker_agent.connectors.api import ActionSpec, CallFailed
from schemas.messages.actions import file
from schemas.moments import rfc3339

CHUNK_BYTES: Final = 256 * 1024

# The years 1000 and 9999: a file may have any time, and one strange file must not hide the others.
_FIRST_S: Final = -30_610_224_000.0
_LAST_S: Final = 253_402_300_799.0

ACTIONS: Final[Mapping[str, ActionSpec]] = {
    "file.list": ActionSpec(args=file.FileListArgs, effect="reads"),
    "file.stat": ActionSpec(args=file.FileStatArgs, effect="reads"),
    "file.read": ActionSpec(args=file.FileReadArgs, effect="reads"),
    "file.write": ActionSpec(args=file.FileWriteArgs, effect="writes"),
    "file.move": ActionSpec(args=file.FileMoveArgs, effect="writes"),
    "file.delete": ActionSpec(args=file.FileDeleteArgs, effect="writes"),
}


def moment(unix_s: float) -> str:
    """Time of a file, as in RFC 3339; the nearest one that has such a text."""
    return rfc3339(min(max(unix_s, _FIRST_S), _LAST_S))


def segments(path: str) -> list[str]:
    """Return the names of a path below the base; empty for the base itself.

    Raises CallFailed (`path_refused`).
    """
    if not path or "\0" in path or path.startswith("/"):
        raise refused(path, "it is not relative to the base")
    names = [name for name in path.split("/") if name not in ("", ".")]
    if ".." in names:
        raise refused(path, "it has a '..'")
    return names


def check_name(path: str, name: str, patterns: list[str]) -> None:
    """Raise CallFailed unless one of the profile's patterns matches the file's name."""
    if patterns and not any(fnmatchcase(name, pattern) for pattern in patterns):
        raise refused(path, "no pattern of the profile matches its name")


def check_writable(path: str, *, write: bool) -> None:
    if not write:
        raise refused(path, "the profile says write = false")


def refused(path: str, why: str) -> CallFailed:
    return CallFailed("path_refused", f"{path[:200]!r}: {why}", effect="none")


def unknown(path: str) -> CallFailed:
    return CallFailed("path_unknown", f"there is no {path[:200]!r}", effect="none")


def exists(path: str) -> CallFailed:
    return CallFailed("path_exists", f"{path[:200]!r} is there already", effect="none")


def body_of(args: file.FileWriteArgs) -> bytes:
    return args.body if args.body is not None else (args.text or "").encode()
