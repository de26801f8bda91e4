"""Actions on files of an SFTP server.

The protocol has no way to open a file without following links. So each component of a path is
looked at before, and an open file is compared with its path after it was opened: a link that is
swapped in meanwhile shows by its type, its owner, its size or its times. Where others may write
into the base, the server's own `ChrootDirectory` is the boundary.
"""

import fnmatch
import hashlib
import secrets
from contextlib import suppress
from stat import S_IMODE
from typing import Any, Final, cast

import asyncssh
import msgspec

from broker_agent.connectors.api import Effect, Out, Result
from broker_agent.connectors.files import (
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
from broker_agent.connectors.sftp.connector import SftpProfile
from schemas.messages.actions import file

_MODE: Final = 0o640
_WORDS: Final = {
    asyncssh.FILEXFER_TYPE_REGULAR: "file",
    asyncssh.FILEXFER_TYPE_DIRECTORY: "directory",
    asyncssh.FILEXFER_TYPE_SYMLINK: "link",
}
# A new file is compared with itself if a link is swapped in between two requests of one look, and
# out again before the next: each further look makes such luck some ten times as rare.
_LOOKS: Final = 6
# A new file only, never one that is there.
_NEW: Final = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_EXCL


class Folder:
    """Paths below the base, checked one component at a time."""

    def __init__(self, client: asyncssh.SFTPClient, base: str) -> None:
        self.client = client
        self._base = base.rstrip("/")

    async def check(self) -> None:
        """Look at the base. Raises SFTPError, or CallFailed if it is no directory."""
        found = await self.client.stat(self._base or "/")
        if found.type != asyncssh.FILEXFER_TYPE_DIRECTORY:
            raise refused(self._base, "it is no directory")

    async def inside(self, path: str, names: list[str]) -> str:
        """The whole path of a directory; raises CallFailed if a component is a link, or a file."""
        whole = self._base
        for name in names:
            whole = f"{whole}/{name}"
            found = await self.client.lstat(whole)
            if found.type != asyncssh.FILEXFER_TYPE_DIRECTORY:
                raise refused(path, "a component of it is no directory")
        return whole or "/"

    async def place(self, path: str) -> str:
        """The whole path of a file, whose directory is inside the base."""
        names = segments(path)
        if not names:
            raise refused(path, "it is the base itself")
        return f"{await self.inside(path, names[:-1])}/{names[-1]}"

    async def verify(
        self, path: str, opened: asyncssh.SFTPClientFile, looks: int = 1
    ) -> asyncssh.SFTPAttrs:
        """Compare an open file with what its path names now, `looks` times.

        Returns its attributes.
        """
        mine = await opened.stat()
        for _ in range(looks):
            theirs = await self.client.lstat(await self.place(path))
            if theirs.type != asyncssh.FILEXFER_TYPE_REGULAR:
                raise refused(path, "it is no regular file")
            if _traits(mine) != _traits(theirs):
                raise refused(path, "it was replaced while it was opened")
        return mine


def _traits(found: asyncssh.SFTPAttrs) -> tuple[object, ...]:
    return (found.uid, found.gid, S_IMODE(found.permissions or 0), found.size, found.mtime)


class Work:
    """One call. effect: on the server so far."""

    def __init__(self, folder: Folder, profile: SftpProfile, out: Out, key: str) -> None:
        self._folder = folder
        self._client = folder.client
        self._profile = profile
        self._out = out
        self._key = key
        self.effect: Effect = "none"

    async def do(self, action: str, args: Any) -> Result:  # noqa: ANN401
        match args:
            case file.FileListArgs():
                return await self._list(args)
            case file.FileStatArgs():
                return await self._stat(args)
            case file.FileReadArgs():
                return await self._read(args)
        check_writable(args.path, write=self._profile.write)
        match args:
            case file.FileWriteArgs():
                return await self._write(args)
            case file.FileMoveArgs():
                return await self._move(args)
            case file.FileDeleteArgs():
                return await self._delete(args)
        raise AssertionError(action)

    # -- reading

    async def _list(self, args: file.FileListArgs) -> Result:
        whole = await self._folder.inside(args.path, segments(args.path))
        count = 0
        async for entry in self._client.scandir(whole):
            name = str(entry.filename)
            if name in (".", "..") or not self._is_listed(name, args.pattern):
                continue
            line = {"name": name, **_facts(entry.attrs)}
            self._out.write(msgspec.json.encode(line) + b"\n")
            count += 1
        return {"path": args.path, "entries": count, "bytes": self._out.written}

    def _is_listed(self, name: str, pattern: str) -> bool:
        if pattern and not fnmatch.fnmatchcase(name, pattern):
            return False
        patterns = self._profile.patterns
        return not patterns or any(fnmatch.fnmatchcase(name, each) for each in patterns)

    async def _stat(self, args: file.FileStatArgs) -> Result:
        found = await self._look(args.path)
        result: dict[str, Any] = {"path": args.path, **_facts(found)}
        if args.sha256:
            async with await self._open(args.path) as opened:
                await self._folder.verify(args.path, opened)
                digest = hashlib.sha256()
                while chunk := await _chunk(opened, None):
                    digest.update(chunk)
                result["sha256"] = digest.hexdigest()
        return result

    async def _read(self, args: file.FileReadArgs) -> Result:
        await self._look(args.path)
        digest, left = hashlib.sha256(), args.length
        async with await self._open(args.path) as opened:
            found = await self._folder.verify(args.path, opened)
            await opened.seek(args.offset)
            while left is None or left > 0:
                chunk = await _chunk(opened, left)
                if not chunk:
                    break
                left = None if left is None else left - len(chunk)
                digest.update(chunk)
                self._out.write(chunk)
        return {
            "path": args.path,
            "bytes": self._out.written,
            "mtime": moment(float(found.mtime or 0)),
            "sha256": digest.hexdigest(),
        }

    async def _open(self, path: str) -> asyncssh.SFTPClientFile:
        return await self._client.open(
            await self._folder.place(path), asyncssh.FXF_READ, encoding=None
        )

    async def _look(self, path: str) -> asyncssh.SFTPAttrs:
        """Attributes of a regular file."""
        whole = await self._folder.place(path)
        check_name(path, whole.rpartition("/")[2], self._profile.patterns)
        found = await self._client.lstat(whole)
        if found.type != asyncssh.FILEXFER_TYPE_REGULAR:
            raise refused(path, "it is no regular file")
        return found

    # -- changing

    async def _write(self, args: file.FileWriteArgs) -> Result:
        body = body_of(args)
        target = await self._target(args.path, args.exists)
        part = f"{target.rpartition('/')[0]}/.{secrets.token_hex(16)}.part"
        names = f"{args.path.rpartition('/')[0]}/".lstrip("/") + part.rpartition("/")[2]
        try:
            mtime = await self._put_part(part, names, body)
            await self._rename(part, target, args.exists)
        except BaseException:
            with suppress(asyncssh.SFTPError, OSError):
                await self._client.remove(part)
            raise
        digest = hashlib.sha256(body).hexdigest()
        return {"path": args.path, "bytes": len(body), "mtime": mtime, "sha256": digest}

    async def _put_part(self, part: str, names: str, body: bytes) -> str:
        """Write a file with a name that nobody can guess; returns its time of change."""
        attrs = asyncssh.SFTPAttrs(permissions=_MODE)
        async with await self._client.open(part, _NEW, attrs, encoding=None) as opened:
            await opened.write(body)
            with suppress(asyncssh.SFTPOpUnsupported):
                await opened.fsync()
            found = await self._folder.verify(names, opened, _LOOKS)
        return moment(float(found.mtime or 0))

    async def _target(self, path: str, what_if: file.Exists) -> str:
        """The path of a file to be; raises CallFailed if it is there and may not be replaced."""
        whole = await self._folder.place(path)
        check_name(path, whole.rpartition("/")[2], self._profile.patterns)
        try:
            found = await self._client.lstat(whole)
        except asyncssh.SFTPNoSuchFile:
            return whole
        if what_if == "fail":
            raise exists(path)
        if found.type != asyncssh.FILEXFER_TYPE_REGULAR:
            raise refused(path, "it is no regular file")
        return whole

    async def _rename(self, source: str, target: str, what_if: file.Exists) -> None:
        self.effect = "unknown"
        if what_if == "replace":
            await self._client.posix_rename(source, target)
        else:
            await self._client.rename(source, target)
        self.effect = "done"

    async def _move(self, args: file.FileMoveArgs) -> Result:
        found = await self._look(args.path)
        source = await self._folder.place(args.path)
        await self._rename(source, await self._target(args.to, args.exists), args.exists)
        return {"path": args.to, "bytes": found.size, "mtime": moment(float(found.mtime or 0))}

    async def _delete(self, args: file.FileDeleteArgs) -> Result:
        try:
            found = await self._look(args.path)
        except asyncssh.SFTPNoSuchFile as error:
            if args.missing_ok:
                return {"path": args.path, "deleted": False}
            raise unknown(args.path) from error
        self.effect = "unknown"
        await self._client.remove(await self._folder.place(args.path))
        self.effect = "done"
        return {"path": args.path, "deleted": True, "bytes": found.size}


async def _chunk(opened: asyncssh.SFTPClientFile, left: int | None) -> bytes:
    """Read a chunk, no more than `left`; empty at the end. The file was opened for bytes."""
    return cast("bytes", await opened.read(CHUNK_BYTES if left is None else min(left, CHUNK_BYTES)))


def _facts(found: asyncssh.SFTPAttrs) -> dict[str, Any]:
    return {
        "type": _WORDS.get(found.type, "other"),
        "bytes": found.size or 0,
        "mtime": moment(float(found.mtime or 0)),
    }
