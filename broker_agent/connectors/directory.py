# ruff: noqa: PTH104, PTH112, PTH117, PTH208
# Descriptors of directories in place of Path, so that no swapped link is followed.
"""The kind `directory`: files of the host below one base.

A path is opened one component at a time, without following links: whatever is swapped meanwhile,
nothing outside the base is reached. Only regular files are read, moved and deleted.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

import msgspec

from broker_agent.connectors.api import ActionSpec, Call, CallFailed, Out, Profile, Result, Secrets
from broker_agent.connectors.files import (
    ACTIONS,
    CHUNK_BYTES,
    body_of,
    check_name,
    check_writable,
    exists,
    moment,
    refused,
    segments,
    unknown,
)
from schemas.messages.actions import file

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE: Final = 0o640
_TYPES: Final = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "directory"), (stat.S_ISLNK, "link"))


class DirectoryProfile(Profile, frozen=True, kw_only=True):
    """A directory. base: its absolute path. write: whether files may be changed.

    patterns: of names that may be used, as in a shell; empty: all.
    """

    base: str
    write: bool = False
    patterns: list[str] = []


class _Place(NamedTuple):
    """A file by the descriptor of its directory."""

    folder: int
    name: str
    path: str


class DirectorySession:
    server_id = ""

    def __init__(self, profile: DirectoryProfile) -> None:
        self._profile = profile
        self._is_cancelled = False
        self._calls: dict[str, Callable[[Any, Out, Call], Result]] = {
            "file.list": self._list,
            "file.stat": self._stat,
            "file.read": self._read,
            "file.write": self._write,
            "file.move": self._move,
            "file.delete": self._delete,
        }

    @property
    def is_broken(self) -> bool:
        return self._is_cancelled

    def call(self, action: str, args: Any, out: Out, call: Call) -> Result:  # noqa: ANN401
        return self._calls[action](args, out, call)

    # -- reading

    def _list(self, args: file.FileListArgs, out: Out, call: Call) -> Result:
        del call
        count = 0
        with self._folder(args.path, segments(args.path)) as folder, os.scandir(folder) as entries:
            for entry in entries:
                self._check_cancelled()
                if not _is_listed(entry.name, args.pattern, self._profile.patterns):
                    continue
                with suppress(FileNotFoundError):  # deleted meanwhile
                    out.write(_line(entry.name, entry.stat(follow_symlinks=False)))
                    count += 1
        return {"path": args.path, "entries": count, "bytes": out.written}

    def _stat(self, args: file.FileStatArgs, out: Out, call: Call) -> Result:
        del out, call
        with self._place(args.path) as place:
            found = _look(place)
            result: dict[str, Any] = {"path": args.path, **_facts(found)}
            if args.sha256:
                with _opened(place, _READ) as fd:
                    digest = hashlib.sha256()
                    for chunk in self._chunks(fd, None):
                        digest.update(chunk)
                    result["sha256"] = digest.hexdigest()
        return result

    def _read(self, args: file.FileReadArgs, out: Out, call: Call) -> Result:
        del call
        digest = hashlib.sha256()
        with self._place(args.path) as place, _opened(place, _READ) as fd:
            found = os.fstat(fd)
            os.lseek(fd, args.offset, os.SEEK_SET)
            for chunk in self._chunks(fd, args.length):
                digest.update(chunk)
                out.write(chunk)
        return {
            "path": args.path,
            "bytes": out.written,
            "mtime": moment(found.st_mtime),
            "sha256": digest.hexdigest(),
        }

    def _chunks(self, fd: int, length: int | None) -> Iterator[bytes]:
        left = length
        while left is None or left > 0:
            self._check_cancelled()
            chunk = os.read(fd, CHUNK_BYTES if left is None else min(left, CHUNK_BYTES))
            if not chunk:
                return
            left = None if left is None else left - len(chunk)
            yield chunk

    # -- changing

    def _write(self, args: file.FileWriteArgs, out: Out, call: Call) -> Result:
        del out
        check_writable(args.path, write=self._profile.write)
        body = body_of(args)
        with self._place(args.path) as place:
            _check_target(place, args.exists)
            made = _Place(place.folder, f".{call.key[:48]}.{os.getpid()}.part", args.path)
            try:
                with _opened(made, _WRITE, is_new=True) as fd:
                    _write_all(fd, body)
                    os.fsync(fd)
                    mtime = os.fstat(fd).st_mtime
                _put(made, place, args.exists)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(made.name, dir_fd=made.folder)
        digest = hashlib.sha256(body).hexdigest()
        return {"path": args.path, "bytes": len(body), "mtime": moment(mtime), "sha256": digest}

    def _move(self, args: file.FileMoveArgs, out: Out, call: Call) -> Result:
        del out, call
        check_writable(args.path, write=self._profile.write)
        with self._place(args.path) as source, self._place(args.to) as target:
            found = _look(source)
            _check_target(target, args.exists)
            _put(source, target, args.exists)
            if args.exists == "fail":
                os.unlink(source.name, dir_fd=source.folder)
            os.fsync(source.folder)
        return {"path": args.to, "bytes": found.st_size, "mtime": moment(found.st_mtime)}

    def _delete(self, args: file.FileDeleteArgs, out: Out, call: Call) -> Result:
        del out, call
        check_writable(args.path, write=self._profile.write)
        try:
            with self._place(args.path) as place:
                found = _look(place)
                os.unlink(place.name, dir_fd=place.folder)
                os.fsync(place.folder)
        except CallFailed as error:
            if error.code == "path_unknown" and args.missing_ok:
                return {"path": args.path, "deleted": False}
            raise
        return {"path": args.path, "deleted": True, "bytes": found.st_size}

    # -- places

    @contextmanager
    def _folder(self, path: str, names: list[str]) -> Iterator[int]:
        """Open a directory below the base; raises CallFailed."""
        try:
            fd = os.open(self._profile.base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise CallFailed(
                "target_unreachable", f"base: {error.strerror}", effect="none"
            ) from error
        try:
            for name in names:
                with _told(path):
                    inner = os.open(name, _FOLDER, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _place(self, path: str) -> Iterator[_Place]:
        """Open the directory of a file."""
        names = segments(path)
        if not names:
            raise refused(path, "it is the base itself")
        check_name(path, names[-1], self._profile.patterns)
        with self._folder(path, names[:-1]) as folder, _told(path):
            yield _Place(folder, names[-1], path)

    def _check_cancelled(self) -> None:
        if self._is_cancelled:
            raise CallFailed("target_lost", "the call was cancelled", effect="none")

    # -- its life

    def test(self, step: Callable[[str], None]) -> str:
        with self._folder(".", []) as folder:
            step("connect")
            os.listdir(folder)
            step("query")
            if self._profile.write and not _may_write(folder):
                raise CallFailed("path_refused", "base: no permission to write", effect="none")
        return f"directory {self._profile.base}"

    def cancel(self) -> None:
        self._is_cancelled = True

    def close(self) -> None:
        """Nothing is kept open between calls."""


def _may_write(folder: int) -> bool:
    return os.access(".", os.W_OK | os.X_OK, dir_fd=folder, effective_ids=True)


@contextmanager
def _told(path: str) -> Iterator[None]:
    """Tell errors of the system as ends of the call."""
    try:
        yield
    except FileNotFoundError as error:
        raise unknown(path) from error
    except FileExistsError as error:
        raise exists(path) from error
    except OSError as error:
        # A link where a directory or a file is wanted: ELOOP, ENOTDIR.
        raise refused(path, (error.strerror or str(error)).lower()) from error


@contextmanager
def _opened(place: _Place, flags: int, *, is_new: bool = False) -> Iterator[int]:
    fd = os.open(place.name, flags, _MODE, dir_fd=place.folder)
    try:
        if not is_new and not stat.S_ISREG(os.fstat(fd).st_mode):
            raise refused(place.path, "it is no regular file")
        yield fd
    finally:
        os.close(fd)


def _look(place: _Place) -> os.stat_result:
    found = os.stat(place.name, dir_fd=place.folder, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode):
        raise refused(place.path, "it is no regular file")
    return found


def _check_target(place: _Place, what_if: file.Exists) -> None:
    """Refuse a target that is there, unless it may be replaced; never a directory."""
    try:
        found = os.stat(place.name, dir_fd=place.folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if what_if == "fail":
        raise exists(place.path)
    if not stat.S_ISREG(found.st_mode):
        raise refused(place.path, "it is no regular file")


def _put(source: _Place, target: _Place, what_if: file.Exists) -> None:
    """Give a file its name: in one step, so that it is there whole or not at all."""
    at = {"src_dir_fd": source.folder, "dst_dir_fd": target.folder}
    if what_if == "replace":
        os.rename(source.name, target.name, **at)
    else:
        os.link(source.name, target.name, **at, follow_symlinks=False)
    try:
        os.fsync(target.folder)
    except OSError as error:
        raise CallFailed("target_lost", f"fsync: {error.strerror}", effect="unknown") from error


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _is_listed(name: str, pattern: str, patterns: list[str]) -> bool:
    wanted = [pattern] if pattern else []
    try:
        check_name(name, name, wanted)
        check_name(name, name, patterns)
    except CallFailed:
        return False
    return True


def _facts(found: os.stat_result) -> dict[str, Any]:
    kind = next((word for check, word in _TYPES if check(found.st_mode)), "other")
    return {"type": kind, "bytes": found.st_size, "mtime": moment(found.st_mtime)}


def _line(name: str, found: os.stat_result) -> bytes:
    shown = name.encode(errors="surrogateescape").decode(errors="replace")
    return msgspec.json.encode({"name": shown, **_facts(found)}) + b"\n"


class DirectoryConnector:
    kind = "directory"
    capability = "file"
    profile = DirectoryProfile
    actions: Mapping[str, ActionSpec] = ACTIONS

    def check(self, profile: DirectoryProfile) -> Sequence[str]:
        if not os.path.isabs(profile.base):
            return ["base is not an absolute path"]
        if not os.path.isdir(profile.base):
            return [f"base: there is no directory {profile.base}"]
        return []

    def open(self, profile: DirectoryProfile, secrets: Secrets) -> DirectorySession:
        del secrets
        return DirectorySession(profile)

    def kill(self, profile: DirectoryProfile, secrets: Secrets, server_id: str) -> None:
        """Nothing is left of a call whose process has ended."""


CONNECTOR: Final = DirectoryConnector()
