"""The actions `file.*`, through a connection to a directory of the host or an SFTP server."""

from typing import Annotated, Final, Literal

from msgspec import Meta

from schemas import limits
from schemas.messages.actions.base import Action, Arguments, invalid
from schemas.messages.fields import Count, Text

# Relative to the base of the profile; `.` is the base itself.
Path = Annotated[str, Meta(max_length=limits.TEXT_LEN)]
Exists = Literal["fail", "replace"]


class FileListArgs(Arguments, frozen=True, kw_only=True):
    """Write the entries of a directory to stdout, as JSON lines.

    pattern: of names, as in a shell.
    """

    path: Path = "."
    pattern: Text = ""


class FileStatArgs(Arguments, frozen=True, kw_only=True):
    """Tell size and time of change of a file; sha256: also its hash, which reads it whole."""

    path: Path
    sha256: bool = False


class FileReadArgs(Arguments, frozen=True, kw_only=True):
    """Write a file to stdout. length None: to its end."""

    path: Path
    offset: Count = 0
    length: Count | None = None


class FileWriteArgs(Arguments, frozen=True, kw_only=True):
    """Write a file whole, or not at all. One of text and body. exists: what if it is there."""

    path: Path
    text: str | None = None
    body: bytes | None = None
    exists: Exists = "fail"


class FileMoveArgs(Arguments, frozen=True, kw_only=True):
    """Rename a file within the base. exists: what if `to` is there."""

    path: Path
    to: Path
    exists: Exists = "fail"


class FileDeleteArgs(Arguments, frozen=True, kw_only=True):
    """Delete a file. missing_ok: a file that is not there is no failure."""

    path: Path
    missing_ok: bool = False


def check_path(action: str, path: str) -> None:
    """Refuse a path that leaves the base, before anything is opened."""
    if not path or "\0" in path:
        raise invalid(action, "path is empty, or has a NUL byte")
    if path.startswith("/"):
        raise invalid(action, "path is relative to the base of the profile")
    if ".." in path.split("/"):
        raise invalid(action, "path has a '..'")


def _check_write(args: FileWriteArgs) -> None:
    check_path("file.write", args.path)
    if (args.text is None) == (args.body is None):
        raise invalid("file.write", "name either text or body")


def _check_move(args: FileMoveArgs) -> None:
    check_path("file.move", args.path)
    check_path("file.move", args.to)


FILE_LIST: Final = Action(
    name="file.list",
    args=FileListArgs,
    does="writes the entries of a directory to stdout, as JSON lines",
    check=lambda args: check_path("file.list", args.path),
    summary=lambda args: f"list {args.path}",
    effect="none",
    capability="file",
)
FILE_STAT: Final = Action(
    name="file.stat",
    args=FileStatArgs,
    does="tells size and time of change of a file",
    check=lambda args: check_path("file.stat", args.path),
    summary=lambda args: f"stat {args.path}",
    effect="none",
    capability="file",
)
FILE_READ: Final = Action(
    name="file.read",
    args=FileReadArgs,
    does="writes a file to stdout",
    check=lambda args: check_path("file.read", args.path),
    summary=lambda args: f"read {args.path}",
    effect="none",
    capability="file",
)
FILE_WRITE: Final = Action(
    name="file.write",
    args=FileWriteArgs,
    does="writes a file whole, or not at all",
    check=_check_write,
    summary=lambda args: f"write {args.path}",
    capability="file",
)
FILE_MOVE: Final = Action(
    name="file.move",
    args=FileMoveArgs,
    does="renames a file within the base",
    check=_check_move,
    summary=lambda args: f"move {args.path} to {args.to}",
    capability="file",
)
FILE_DELETE: Final = Action(
    name="file.delete",
    args=FileDeleteArgs,
    does="deletes a file",
    check=lambda args: check_path("file.delete", args.path),
    summary=lambda args: f"delete {args.path}",
    capability="file",
)
