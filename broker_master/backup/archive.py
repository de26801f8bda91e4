"""The file of a backup: a tar of the mesh's files and streams, closed by a manifest.

state/…              files of the state directory
streams/NAME/00000   chunks of a stream, as the broker has packed them
manifest.json        the last member: without it, the backup was cut short
"""

import contextlib
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from broker_client.runtime.files import PRIVATE, os_errors, sync_directory
from schemas.faults import Corrupt, Refused

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
_CHUNK_MAX: Final = 8 * 1024 * 1024
_FILE_MAX: Final = 16 * 1024 * 1024


class StreamPart(msgspec.Struct, frozen=True, kw_only=True):
    """A stream. what: its configuration and state. digest: SHA-256 of its chunks."""

    name: str
    what: dict[str, Any]
    chunks: int
    digest: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of a backup.

    at: when the backup began, Unix seconds.
    """

    format: int
    mesh: str
    version: str
    at: float
    streams: list[StreamPart]
    files: dict[str, str]


class ArchiveWriter:
    """Writes a temporary file beside `path`; `finish` renames it, so `path` is always whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._neighbour = path.with_name(f".{path.name}.new")
        with os_errors(path, "write"):
            self._neighbour.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self._neighbour, flags, PRIVATE), "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115  closed by `finish` or `abandon`
        self.files: dict[str, str] = {}

    def add(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), PRIVATE
        with os_errors(self._path, "write"):
            self._tar.addfile(info, io.BytesIO(data))

    def add_file(self, name: str, data: bytes) -> None:
        self.files[name] = hashlib.sha256(data).hexdigest()
        self.add(f"state/{name}", data)

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest and sync the archive to disk."""
        self.add(MANIFEST, msgspec.json.encode(manifest))
        with os_errors(self._path, "write"):
            self._tar.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._neighbour.replace(self._path)
            sync_directory(self._path.absolute().parent)

    def abandon(self) -> None:
        """Remove the temporary file; harmless after `finish`."""
        with contextlib.suppress(OSError):
            self._file.close()
            self._neighbour.unlink(missing_ok=True)


class Archive:
    """A whole backup, opened for reading; `open_archive` has checked every part of it."""

    def __init__(self, tar: tarfile.TarFile, manifest: Manifest) -> None:
        self._tar = tar
        self.manifest = manifest

    def files(self) -> Iterator[tuple[str, bytes]]:
        for name in self.manifest.files:
            yield name, _read(self._tar, f"state/{name}", _FILE_MAX)

    def chunks(self, part: StreamPart) -> Iterator[bytes]:
        for number in range(part.chunks):
            yield _read(self._tar, chunk_name(part.name, number), _CHUNK_MAX)


def chunk_name(stream: str, number: int) -> str:
    return f"streams/{stream}/{number:05d}"


def _not_a_backup(path: Path) -> Corrupt:
    advice = "name a file that `broker-master backup` wrote"
    return Corrupt("state_corrupt", f"{path} is not a backup", advice=advice)


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Raises Corrupt (`state_corrupt`) for an incomplete backup; `state_missing` without one."""
    with os_errors(path, "read"):
        file = path.open("rb")
    with file:
        try:
            tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115  closed just below
        except tarfile.TarError as error:
            raise _not_a_backup(path) from error
        with tar:
            try:
                manifest = msgspec.json.decode(_read(tar, MANIFEST, _FILE_MAX), type=Manifest)
            except msgspec.MsgspecError as error:
                raise _not_a_backup(path) from error
            if manifest.format != FORMAT:
                raise Refused("state_foreign", f"{path} is a backup of format {manifest.format}")
            archive = Archive(tar, manifest)
            _check(archive)
            yield archive


def _check(archive: Archive) -> None:
    for name, data in archive.files():
        if name.startswith("/") or ".." in Path(name).parts:
            raise Corrupt("state_corrupt", f"the backup names a file outside of itself: {name!a}")
        if hashlib.sha256(data).hexdigest() != archive.manifest.files[name]:
            raise Corrupt("state_corrupt", f"file {name} of the backup is damaged")
    for part in archive.manifest.streams:
        digest = hashlib.sha256()
        for chunk in archive.chunks(part):
            digest.update(chunk)
        if digest.hexdigest() != part.digest:
            raise Corrupt("state_corrupt", f"stream {part.name} of the backup is damaged")


def _read(tar: tarfile.TarFile, name: str, most: int) -> bytes:
    try:
        member = tar.getmember(name)
        file = tar.extractfile(member)
        if file is None or member.size > most:
            raise Corrupt("state_corrupt", f"the backup has no usable {name}")
        data = file.read()
    except (KeyError, tarfile.TarError, OSError) as error:
        raise Corrupt("state_corrupt", f"the backup has no whole {name}: cut short?") from error
    if len(data) != member.size:
        raise Corrupt("state_corrupt", f"the backup was cut short at {name}")
    return data
