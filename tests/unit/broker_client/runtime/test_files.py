import errno
import os
import stat
from pathlib import Path

import pytest

from broker_client.runtime import files
from schemas.faults import Corrupt, MeshError, Refused


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_private_file_is_the_owners_alone_from_its_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    files.write_private(tmp_path / "key", b"secret")
    assert modes[0] == 0o600
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert len(modes) == 2, "the file, then the directory that names it"


def test_write_replaces_the_whole_content_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_public(path, b"a long first content")
    files.write_public(path, b"short")
    assert path.read_bytes() == b"short"
    assert names(tmp_path) == ["file"]


def test_private_write_over_a_public_file_closes_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_public(path, b"x")
    files.write_private(path, b"y")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
def test_failed_write_leaves_the_old_content_and_no_neighbour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "file"
    files.write_public(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(failing, full)
    with pytest.raises(Refused) as caught:
        files.write_public(path, b"new")
    monkeypatch.undo()
    assert caught.value.code == "disk_full"
    assert str(path) in caught.value.message
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_neighbour_of_a_crashed_write_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / ".file.new").write_bytes(b"half")
    (tmp_path / ".file.new").chmod(0o644)
    files.write_private(tmp_path / "file", b"whole")
    assert names(tmp_path) == ["file"]
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_neighbour_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(b"mine")
    (tmp_path / ".file.new").symlink_to(target)
    files.write_private(tmp_path / "file", b"secret")
    assert target.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, "state_missing"),
        (errno.EACCES, "state_unreadable"),
        (errno.EIO, "state_unreadable"),
        (errno.EROFS, "state_unreadable"),
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
    ],
)
def test_each_errno_has_its_fault(number: int, code: str) -> None:
    with pytest.raises(MeshError) as caught, files.os_errors(Path("/x/y"), "read"):
        raise OSError(number, os.strerror(number))
    assert caught.value.code == code
    assert "/x/y" in caught.value.message
    assert "\n" not in caught.value.message


def test_reading_what_is_missing_a_directory_or_no_text(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    codes = []
    for name in ("nothing", ".", "binary"):
        with pytest.raises(MeshError) as caught:
            files.read_text(tmp_path / name)
        codes.append(caught.value.code)
    assert codes == ["state_missing", "state_unreadable", "state_corrupt"]
    with pytest.raises(Corrupt):
        files.read_text(tmp_path / "binary")


def test_made_directory_is_the_owners_alone_and_an_old_one_stays_as_it_is(tmp_path: Path) -> None:
    files.make_private_directory(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    (tmp_path / "c").mkdir(mode=0o755)
    files.make_private_directory(tmp_path / "c")
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o755


def test_directory_below_a_file_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Refused) as caught:
        files.make_private_directory(tmp_path / "file" / "state")
    assert caught.value.code == "state_unreadable"


def test_second_lock_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with files.lock_directory(tmp_path):
        with pytest.raises(Refused) as caught:
            files.lock_directory(tmp_path)
        assert caught.value.code == "state_locked"
        assert f"process {os.getpid()}" in caught.value.message
    files.lock_directory(tmp_path).release()


def test_lock_of_a_missing_directory_says_so(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        files.lock_directory(tmp_path / "nothing")
    assert caught.value.code == "state_missing"


@pytest.mark.parametrize(
    ("verb", "said", "is_own"),
    [("write", "there is no ", True), ("make", "there is no ", True), ("read", "does not", False)],
)
def test_folder_that_is_missing_is_named_with_advice_for_what_was_to_be_done(
    tmp_path: Path, verb: str, said: str, is_own: bool
) -> None:
    path = tmp_path / "none" / "file"
    with pytest.raises(Refused, match=said) as caught, files.os_errors(path, verb):
        path.open()
    assert ("broker-master init" not in caught.value.advice) == is_own
