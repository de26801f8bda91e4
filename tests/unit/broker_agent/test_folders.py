"""Task folders: private, reused only if pristine, and links in them are never followed."""

import os
import time
from pathlib import Path
from threading import Event

import pytest

from broker_agent.store import remover
from broker_agent.store.folders import Folders
from broker_agent.store.remover import REMOVED, Remover, _Interrupted, _Sweep
from broker_agent.store.spares import _SETTLED_NS
from schemas.faults import MeshError
from tests.waiting import soon


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path, keep=2)


def names(root: Path) -> list[str]:
    """Names in a folder, except folders that are being removed."""
    return sorted(path.name for path in root.iterdir() if path.name != REMOVED)


def retired(folders: Folders, command: str, output: bytes = b"") -> None:
    folder = folders.make(command, 1)
    if output:
        os.write(folder.stdout, output)
    folder.close()
    if output or not folders.reuse(folder.path):
        folders.retire(folder.path, empty=not output)


def test_folder_and_files_are_the_owners_alone(folders: Folders, tmp_path: Path) -> None:
    folder = folders.make("c1", 1)
    assert (tmp_path / "c1.1").stat().st_mode & 0o777 == 0o700
    for stream in ("stdout", "stderr"):
        assert (tmp_path / "c1.1" / f"{stream}.log").stat().st_mode & 0o777 == 0o600
    assert folder.sizes() == (0, 0)
    folder.close()
    folder.close()


def test_folder_that_exists_is_refused(folders: Folders, tmp_path: Path) -> None:
    folders.make("c1", 1).close()
    for _ in range(2):  # without a spare at hand, and with one
        with pytest.raises(MeshError) as caught:
            folders.make("c1", 1)
        assert caught.value.code == "state_foreign"
        retired(folders, "c2")
    folders.make("c2", 1).close()
    assert names(tmp_path) == ["c1.1", "c2.1"]


def test_spare_folder_with_the_wanted_name_is_reused(folders: Folders, tmp_path: Path) -> None:
    made = [folders.make(command, 1) for command in ("c1", "c2")]
    for folder in made:
        folder.close()
        assert folders.reuse(folder.path)
    folders.make("c2", 1).close()
    assert names(tmp_path) == ["c1.1", "c2.1"]


def test_empty_folder_is_reused(folders: Folders, tmp_path: Path) -> None:
    retired(folders, "c1")
    inode = next(tmp_path.iterdir()).stat().st_ino
    folder = folders.make("c2", 7)
    assert names(tmp_path) == ["c2.7"]
    assert (tmp_path / "c2.7").stat().st_ino == inode
    os.write(folder.stderr, b"x")
    assert folder.sizes() == (0, 1)
    assert (tmp_path / "c2.7" / "stderr.log").read_bytes() == b"x"
    folder.close()


def test_folder_that_is_not_pristine_is_removed(folders: Folders, tmp_path: Path) -> None:
    first = folders.make("c1", 1)
    (tmp_path / "c1.1" / "left").write_text("x")
    second = folders.make("c2", 1)
    (tmp_path / "c2.1" / "stdout.log").chmod(0o644)
    third = folders.make("c3", 1)
    os.link(tmp_path / "c3.1" / "stdout.log", tmp_path / "elsewhere")
    fourth = folders.make("c4", 1)
    os.write(fourth.stderr, b"late")
    first.close()
    assert not folders.reuse(first.path)  # leftovers are removed with the release
    folders.retire(first.path, empty=True)
    for folder in (second, third, fourth):
        folder.close()
        assert folders.reuse(folder.path)
    (tmp_path / "c4.1" / "later").write_text("x")
    for count in range(4):
        folders.make(f"new{count}", 1).close()
    assert names(tmp_path) == ["elsewhere", "new0.1", "new1.1", "new2.1", "new3.1"]
    for count in range(4):
        assert names(tmp_path / f"new{count}.1") == ["stderr.log", "stdout.log", "work"]
        logs = (tmp_path / f"new{count}.1").glob("*.log")
        assert {path.stat().st_size for path in logs} == {0}


def test_number_of_kept_folders_is_bounded(tmp_path: Path) -> None:
    folders = Folders(tmp_path, keep=2, spares=1)
    first, second = folders.make("c1", 1), folders.make("c2", 1)
    for folder, is_kept in ((first, True), (second, False)):
        folder.close()
        assert folders.reuse(folder.path) is is_kept
    folders.close()
    assert names(tmp_path) == ["c2.1"]


async def test_work_folder_with_leftovers_is_not_reused(folders: Folders, tmp_path: Path) -> None:
    """Includes a folder that was found clean before, and got leftovers since."""
    retired(folders, "c0")
    changed = (tmp_path / "c0.1" / "work").stat().st_ctime_ns
    await soon(lambda: time.time_ns() - changed > _SETTLED_NS)
    for count in (1, 2):  # the second time its times are known
        retired(folders, f"c{count}")
    assert names(tmp_path) == ["c2.1"]
    (tmp_path / "c2.1" / "work" / "left").write_text("x")
    folder = folders.make("c3", 1)
    assert list(Path(folder.work).iterdir()) == []
    assert names(tmp_path) == ["c3.1"]
    folder.close()


def test_folder_is_removed_with_its_leftovers(folders: Folders, tmp_path: Path) -> None:
    folder = folders.make("c1", 1)
    deep = Path(folder.work) / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    folder.close()
    folders.retire(folder.path, empty=True)
    assert names(tmp_path) == []


def test_folder_of_an_earlier_release_is_read_and_removed(folders: Folders, tmp_path: Path) -> None:
    """A folder of 0.1.0 has no working directory: files of the task are beside its output."""
    old = tmp_path / "c1.1"
    old.mkdir(mode=0o700)
    (old / "stdout.log").write_bytes(b"printed")
    (old / "stderr.log").write_bytes(b"")
    (old / "left").write_text("x")
    again = folders.reopen("c1", 1)
    assert again is not None
    assert not again.is_carried
    assert (again.sizes(), again.read(0, 100, 0)) == ((7, 0), b"printed")
    again.close()
    folders.retire(str(old), empty=True)
    assert names(tmp_path) == []


def test_newest_folders_with_output_are_kept(folders: Folders, tmp_path: Path) -> None:
    for command in ("c1", "c2", "c3"):
        retired(folders, command, b"x")
    assert names(tmp_path) == ["c2.1", "c3.1"]


async def test_removal_follows_no_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    (precious / "stdout.log").write_text("x")
    root = tmp_path / "tasks"
    root.mkdir()
    (root / "link").symlink_to(precious)
    folder = root / "c1.1"
    folder.mkdir()
    (folder / "inside").symlink_to(precious)
    (folder / "stdout.log").symlink_to(precious / "file")
    folders = Folders(root, keep=0)
    folders.remove(str(root / "link"))
    folders.remove(str(folder))
    assert names(root) == []
    await soon(lambda: names(root / REMOVED) == [])
    assert names(precious) == ["file", "stdout.log"]


def test_output_of_an_earlier_start_is_read_but_no_link(folders: Folders, tmp_path: Path) -> None:
    first = folders.make("c1", 1)
    os.write(first.stdout, b"printed")
    first.close()
    again = folders.reopen("c1", 1)
    assert again is not None
    assert (again.sizes(), again.read(0, 100, 2)) == ((7, 0), b"inted")
    again.close()
    (tmp_path / "c1.1" / "stdout.log").unlink()
    (tmp_path / "c1.1" / "stdout.log").symlink_to("/etc/passwd")
    assert folders.reopen("c1", 1) is None
    assert folders.reopen("none", 1) is None


def test_leftovers_of_an_earlier_start_are_kept_or_removed_but_not_what_is_open(
    folders: Folders, tmp_path: Path
) -> None:
    for command in ("open", "old1", "old2", "old3"):
        folder = folders.make(command, 1)
        os.write(folder.stdout, b"x")
        folder.close()
    folders.make("empty", 1).close()
    for age, command in enumerate(("old3", "old2", "old1")):
        os.utime(tmp_path / f"{command}.1", (100 - age, 100 - age))
    folders.adopt({folders.name("open", 1)})
    folders.close()
    assert names(tmp_path) == ["old2.1", "old3.1", "open.1"]


def test_folder_is_renamed_at_once_and_removed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal's thread and the loop must not be blocked, at a start either."""
    monkeypatch.setattr(Remover, "go_on", lambda _: None)
    folders = Folders(tmp_path, keep=0)
    for command in ("c1", "c2"):
        folder = folders.make(command, 1)
        (Path(folder.work) / "left").write_text("x")
        folder.close()
    folders.retire(folders.name("c1", 1), empty=False)
    folders.adopt(set())
    assert names(tmp_path) == []
    assert len(names(tmp_path / REMOVED)) == 2


async def test_removal_goes_on_after_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Remover, "go_on", lambda _: None)
        first = Folders(tmp_path, keep=0)
        folder = first.make("c1", 1)
        (Path(folder.work) / "left").write_text("x")
        folder.close()
        first.remove(folder.path)
        first.close()
    second = Folders(tmp_path, keep=0)
    second.adopt(set())
    await soon(lambda: names(tmp_path / REMOVED) == [])
    second.close()


async def test_folder_under_writes_does_not_block_other_removals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each folder has its turn, and the first is retried."""
    turns: list[str] = []

    def remove(self: _Sweep, path: str) -> bool:
        turns.append(path)
        if len(turns) < 3:
            raise _Interrupted
        os.rmdir(path)  # noqa: PTH106
        return True

    monkeypatch.setattr(_Sweep, "remove", remove)
    ours = Remover(str(tmp_path))
    for name in ("c1.1", "c2.1"):
        (tmp_path / name).mkdir()
        assert ours.hand_over(str(tmp_path / name))
    await soon(lambda: names(tmp_path / REMOVED) == [])
    assert len(turns) >= 4
    ours.close()


def test_removal_yields_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remover, "_TURN_S", -1.0)
    monkeypatch.setattr(remover, "_STEPS", 1)
    (tmp_path / "file").write_text("x")
    with pytest.raises(_Interrupted):
        _Sweep(Event()).remove(str(tmp_path))
    assert names(tmp_path) == ["file"]


async def test_folder_without_rights_is_removed(folders: Folders, tmp_path: Path) -> None:
    folder = folders.make("c1", 1)
    closed = Path(folder.work) / "closed"
    (closed / "inner").mkdir(parents=True)
    (closed / "inner" / "file").write_text("x")
    (closed / "inner").chmod(0)
    closed.chmod(0)
    folder.close()
    folders.remove(folder.path)
    await soon(lambda: names(tmp_path / REMOVED) == [])
