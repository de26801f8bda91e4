"""Backs up a mesh, with or without a running master, and restores it to a state directory."""

import hashlib
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from broker_client.runtime.files import (
    lock_directory,
    make_private_directory,
    os_errors,
    read_bytes,
    read_text,
    write_private,
)
from broker_client.runtime.identity import read_identity
from broker_client.runtime.link import Link, LinkIdentity
from broker_master import VERSION
from broker_master.backup.archive import (
    FORMAT,
    Archive,
    ArchiveWriter,
    Manifest,
    StreamPart,
    chunk_name,
    open_archive,
)
from broker_master.backup.snapshots import put, stream_names, take
from broker_master.ca.marker import read_marker, refuse_foreign
from broker_master.ca.mesh import broker_url, open_mesh
from broker_master.embedded import EmbeddedBroker
from broker_master.services.restore import note_restore
from broker_master.store.restored import RESTORED_FILE
from schemas.faults import Refused
from schemas.subjects import inbox_prefix

_CONNECT_S: Final = 15.0
# Rounds of reading the files, until two in a row are equal, at most.
_TRIES: Final = 10
_FOLDERS: Final = ("ca", "nats", "master", "system", "contexts")
_BROKER_FILES: Final = ("server.pem", "server.key", "port")
_NAME: Final = "master-backup"
# Facts before history: a command that ends between the two is ended in the restored state.
_FIRST: Final = ("KV_mesh_fanouts", "MESH_EVENTS", "MESH_HISTORY")


async def back_up(state_dir: Path, out: Path, nats_url: str = "") -> Manifest:
    """Write a backup to the file `out`, readable by its owner alone; whole, or not there at all.

    nats_url: an own broker; empty for the embedded one, started where no master runs it. Raises
    Refused: `state_*`, `disk_full`; Unreachable (`broker_unreachable`, `store_unavailable`).
    """
    refuse_foreign(state_dir)
    marker = read_marker(state_dir)
    if marker is None:
        raise Refused("state_missing", f"there is no mesh in {state_dir}")
    writer = ArchiveWriter(out)
    try:
        at = time.time()
        for name, data in _consistent(state_dir).items():
            writer.add_file(name, data)
        async with _connected(state_dir, nats_url) as link:
            parts = [await _add_stream(writer, link, name) for name in await _ordered(link)]
        manifest = Manifest(
            format=FORMAT,
            mesh=marker.mesh,
            version=VERSION,
            at=at,
            streams=parts,
            files=writer.files,
        )
        writer.finish(manifest)
        return manifest
    finally:
        writer.abandon()


async def put_back(state_dir: Path, backup: Path, nats_url: str = "") -> Manifest:
    """Restore a backup: a new state directory, and the streams of its broker.

    Raises as `back_up`; Refused (`state_foreign`) if `state_dir` holds anything or the broker has
    streams of a mesh; Corrupt (`state_corrupt`) for a damaged backup. Nothing is changed then.
    """
    _check_empty(state_dir)
    with open_archive(backup) as archive:
        fresh = state_dir.with_name(f".{state_dir.name}.restoring")
        with os_errors(fresh, "make"):
            shutil.rmtree(fresh, ignore_errors=True)
            make_private_directory(fresh)
        try:
            await _fill(fresh, archive, nats_url)
            note_restore(fresh, taken_at=archive.manifest.at)
            _take_name(fresh, state_dir)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        return archive.manifest


def _check_empty(state_dir: Path) -> None:
    with os_errors(state_dir, "read"):
        if state_dir.exists() and any(state_dir.iterdir()):
            raise Refused("state_foreign", f"{state_dir} is not empty: move away what is there")


def _take_name(fresh: Path, state_dir: Path) -> None:
    with os_errors(state_dir, "make"):
        if state_dir.exists():
            state_dir.rmdir()
        fresh.rename(state_dir)


async def _fill(folder: Path, archive: Archive, nats_url: str) -> None:
    for name, data in archive.files():
        path = folder / name
        make_private_directory(path.parent)
        write_private(path, data)
    async with _connected(folder, nats_url) as link:
        if found := await stream_names(link):
            raise Refused("state_foreign", f"the broker holds streams already: {', '.join(found)}")
        for part in archive.manifest.streams:
            await put(link, part.name, part.what, archive.chunks(part))


async def _ordered(link: Link) -> list[str]:
    names = await stream_names(link)
    return [name for name in _FIRST if name in names] + sorted(set(names) - set(_FIRST))


async def _add_stream(writer: ArchiveWriter, link: Link, stream: str) -> StreamPart:
    what, chunks = await take(link, stream)
    digest, count = hashlib.sha256(), 0
    async for chunk in chunks:
        digest.update(chunk)
        writer.add(chunk_name(stream, count), chunk)
        count += 1
    return StreamPart(name=stream, what=what, chunks=count, digest=digest.hexdigest())


def _consistent(state_dir: Path) -> dict[str, bytes]:
    """The files, all of one moment: a running master may be writing some of them."""
    before = _files(state_dir)
    for _ in range(_TRIES):
        after = _files(state_dir)
        if after == before:
            return after
        before = after
    raise Refused("state_unreadable", f"the files of {state_dir} change all the time: try again")


def _files(state_dir: Path) -> dict[str, bytes]:
    with os_errors(state_dir, "read"):
        paths = [state_dir / "mesh.toml", state_dir / RESTORED_FILE]
        paths += [state_dir / "broker" / name for name in _BROKER_FILES]
        for folder in (*_FOLDERS, "broker/resolver"):
            paths += sorted((state_dir / folder).rglob("*"))
        found = [path for path in paths if path.is_file() and not path.name.endswith(".new")]
    return {str(path.relative_to(state_dir)): read_bytes(path) for path in found}


@asynccontextmanager
async def _connected(state_dir: Path, nats_url: str) -> AsyncIterator[Link]:
    """A connection with the master's identity, to the running broker."""
    if nats_url:
        async with _link(state_dir, nats_url) as link:
            yield link
        return
    try:
        lock = lock_directory(state_dir)
    except Refused as error:
        if error.code != "state_locked":
            raise
        port = read_text(state_dir / "broker" / "port").strip()
        async with _link(state_dir, broker_url("127.0.0.1", int(port))) as link:
            yield link
        return
    with lock:
        broker = EmbeddedBroker(open_mesh(state_dir))
        await broker.start()
        try:
            async with _link(state_dir, broker.url) as link:
                yield link
        finally:
            await broker.stop()


@asynccontextmanager
async def _link(state_dir: Path, url: str) -> AsyncIterator[Link]:
    def identity() -> LinkIdentity:
        found = read_identity(state_dir / "master")
        return LinkIdentity(tls=found.context, jwt=found.creds.jwt, seed=found.creds.seed)

    link = await Link.connect([url], identity, _NAME, inbox_prefix(_NAME), wait_s=_CONNECT_S)
    try:
        yield link
    finally:
        await link.close()
