"""Pipes and links that a task puts in place of files neither block the agent nor are followed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from broker_agent.services.status import STATUS_FILE, read_status
from broker_agent.store.folders import Folders
from broker_agent.store.identity_slots import IdentitySlots
from broker_agent.store.journal import open_journal
from broker_agent.store.remover import REMOVED
from broker_agent.warden.watch import Warden
from broker_client.runtime.files import lock_directory, read_bytes, write_passing
from schemas.faults import MeshError
from tests.waiting import soon

LOG = "stdout.log"


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/etc/hostname")


@pytest.mark.parametrize("put", [pipe, link])
def test_sec_s35_output_of_an_earlier_start_is_read_from_files_only(
    tmp_path: Path, put: Callable[[Path], None]
) -> None:
    folders = Folders(tmp_path, keep=2)
    folders.make("c1", 1).close()
    put(tmp_path / "c1.1" / LOG)
    assert folders.reopen("c1", 1) is None
    folders.adopt(set())
    folders.adopt({folders.name("c1", 1)})


@pytest.mark.parametrize("put", [pipe, link])
def test_sec_s35_folder_with_a_pipe_is_not_used_again(
    tmp_path: Path, put: Callable[[Path], None]
) -> None:
    folders = Folders(tmp_path, keep=2)
    for folder in [folders.make(command, 1) for command in ("c1", "c2")]:
        folder.close()
        assert folders.reuse(folder.path)
    put(tmp_path / "c1.1" / LOG)
    folders.make("c3", 1).close()
    assert not (tmp_path / "c1.1").exists()
    assert (tmp_path / "c3.1" / LOG).is_file()
    assert not (tmp_path / "c3.1" / LOG).is_symlink()


def bury(folder: str, depth: int) -> None:
    """Make nested folders, each with a file and a link beside the next folder."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.symlink("/etc", "etc", dir_fd=here)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


@pytest.mark.parametrize("depth", [1, 3000])
async def test_sec_s35_folder_of_any_depth_is_removed(tmp_path: Path, depth: int) -> None:
    """Covers depths beyond the recursion limit and the longest path."""
    folders = Folders(tmp_path, keep=0)
    paths = []
    for command in ("c1", "c2"):
        folder = folders.make(command, 1)
        bury(folder.work, depth)
        folder.close()
        paths.append(folder.path)
    folders.retire(paths[0], empty=True)
    folders.adopt(set())
    assert os.listdir(tmp_path) == [REMOVED]  # noqa: PTH208  (what is too deep for Path would raise)
    await soon(lambda: not os.listdir(tmp_path / REMOVED))  # noqa: PTH208


@pytest.mark.parametrize("name", ["journal.db", "journal.db-wal", "journal.db-shm"])
def test_sec_s35_pipe_in_place_of_the_journal_is_said_at_once(tmp_path: Path, name: str) -> None:
    pipe(tmp_path / name)
    with pytest.raises(MeshError, match="not a regular file") as caught:
        open_journal(tmp_path / "journal.db")
    assert caught.value.code == "state_corrupt"


def test_sec_s35_pipe_in_place_of_the_identity_is_said_at_once(tmp_path: Path) -> None:
    current = tmp_path / "identity" / "current"
    current.mkdir(parents=True)
    pipe(current / "identity.toml")
    with pytest.raises(MeshError, match="not a regular file") as caught:
        IdentitySlots(tmp_path).facts()
    assert caught.value.code == "state_unreadable"


def test_sec_s35_pipe_in_place_of_the_status_or_the_lock_holds_nobody_up(tmp_path: Path) -> None:
    pipe(tmp_path / STATUS_FILE)
    assert read_status(tmp_path) is None
    pipe(tmp_path / f".{STATUS_FILE}.new")
    write_passing(tmp_path / STATUS_FILE, b"{}")
    assert read_bytes(tmp_path / STATUS_FILE) == b"{}"
    pipe(tmp_path / "lock")
    with pytest.raises(MeshError, match="not a regular file"):
        lock_directory(tmp_path)


def test_sec_s35_warden_writes_into_no_pipe(tmp_path: Path) -> None:
    path = tmp_path / "warden.log"
    pipe(path)
    Warden("MESH_INCARNATION=x", "", os.getpid(), str(path))._note("ended")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        Warden("MESH_INCARNATION=x", "", os.getpid(), str(path))._note("ended")
        assert os.read(reader, 100) == b"", "nobody wrote into it"
    finally:
        os.close(reader)
