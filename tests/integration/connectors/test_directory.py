"""The kind `directory`: files below the base, whatever lies there."""

import hashlib
import json
import os
from pathlib import Path

import asyncssh
import pytest
from msgspec import Struct

from broker_agent.connectors.directory import CONNECTOR, DirectoryProfile, DirectorySession, _line
from broker_agent.connectors.sftp.work import _facts
from schemas.messages.actions import file
from tests.connectors import Buffer, failing, failure, run, swapped

pytestmark = pytest.mark.integration

SECRET = b"outside"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    (folder / "in" / "deep").mkdir(parents=True)
    (folder / "in" / "a.csv").write_bytes(b"1,2\n3,4\n")
    (tmp_path / "outside.txt").write_bytes(SECRET)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.csv").write_bytes(SECRET)
    return folder


def session(base: Path, patterns: list[str] | None = None) -> DirectorySession:
    profile = DirectoryProfile(base=str(base), write=True, patterns=patterns or [])
    return CONNECTOR.open(profile, {})


def test_file_is_read_whole_and_in_part_with_its_hash(base: Path) -> None:
    result, data = run(session(base), "file.read", file.FileReadArgs(path="in/a.csv"))
    assert data == b"1,2\n3,4\n"
    assert result["bytes"] == 8
    assert result["sha256"] == hashlib.sha256(data).hexdigest()
    _, part = run(
        session(base), "file.read", file.FileReadArgs(path="in/a.csv", offset=4, length=3)
    )
    assert part == b"3,4"


def test_list_names_types_and_sizes(base: Path) -> None:
    os.mkfifo(base / "in" / "pipe")
    (base / "in" / "away").symlink_to("/etc")
    result, data = run(session(base), "file.list", file.FileListArgs(path="in"))
    rows = {row["name"]: row for row in map(json.loads, data.splitlines())}
    assert {name: row["type"] for name, row in rows.items()} == {
        "a.csv": "file",
        "deep": "directory",
        "pipe": "other",
        "away": "link",
    }
    assert rows["a.csv"]["bytes"] == 8
    assert result["entries"] == 4
    _, some = run(session(base), "file.list", file.FileListArgs(path="in", pattern="*.csv"))
    assert json.loads(some)["name"] == "a.csv"


def test_write_is_whole_and_replaces_only_if_told(base: Path) -> None:
    its = session(base)
    result, _ = run(its, "file.write", file.FileWriteArgs(path="in/new", text="one"))
    assert (base / "in" / "new").read_text() == "one"
    assert result["sha256"] == hashlib.sha256(b"one").hexdigest()
    with failing("path_exists", "none"):
        run(its, "file.write", file.FileWriteArgs(path="in/new", text="two"))
    assert (base / "in" / "new").read_text() == "one"
    run(its, "file.write", file.FileWriteArgs(path="in/new", body=b"two", exists="replace"))
    assert (base / "in" / "new").read_text() == "two"
    assert sorted(each.name for each in (base / "in").iterdir()) == ["a.csv", "deep", "new"]


def test_move_and_delete(base: Path) -> None:
    its = session(base)
    run(its, "file.move", file.FileMoveArgs(path="in/a.csv", to="in/deep/b.csv"))
    assert (base / "in" / "deep" / "b.csv").read_bytes() == b"1,2\n3,4\n"
    assert not (base / "in" / "a.csv").exists()
    (base / "in" / "a.csv").write_text("other")
    with failing("path_exists", "none"):
        run(its, "file.move", file.FileMoveArgs(path="in/a.csv", to="in/deep/b.csv"))
    run(its, "file.move", file.FileMoveArgs(path="in/a.csv", to="in/deep/b.csv", exists="replace"))
    assert (base / "in" / "deep" / "b.csv").read_text() == "other"
    run(its, "file.delete", file.FileDeleteArgs(path="in/deep/b.csv"))
    with failing("path_unknown", "none"):
        run(its, "file.delete", file.FileDeleteArgs(path="in/deep/b.csv"))
    result, _ = run(its, "file.delete", file.FileDeleteArgs(path="in/x", missing_ok=True))
    assert result["deleted"] is False


def test_profile_that_reads_changes_nothing(base: Path) -> None:
    its = CONNECTOR.open(DirectoryProfile(base=str(base)), {})
    for action, args in (
        ("file.write", file.FileWriteArgs(path="x", text="x")),
        ("file.move", file.FileMoveArgs(path="in/a.csv", to="x")),
        ("file.delete", file.FileDeleteArgs(path="in/a.csv")),
    ):
        with failing("path_refused", "none"):
            run(its, action, args)
    assert (base / "in" / "a.csv").exists()


def test_writable_directory_passes_the_test_of_its_connection(base: Path) -> None:
    steps: list[str] = []
    assert session(base).test(steps.append) == f"directory {base}"
    assert steps == ["connect", "query"]


def test_patterns_of_the_profile_bind_names(base: Path) -> None:
    its = session(base, patterns=["*.csv"])
    (base / "in" / "key.pem").write_text("x")
    with failing("path_refused", "none"):
        run(its, "file.read", file.FileReadArgs(path="in/key.pem"))
    _, data = run(its, "file.list", file.FileListArgs(path="in"))
    assert [json.loads(line)["name"] for line in data.splitlines()] == ["a.csv"]


OUTSIDE = (
    "../outside.txt", "in/../../outside.txt", "in/deep/../../../outside.txt", "..", "in/..",
    "./../outside.txt", "in/./../../outside.txt", "/etc/passwd", "//etc/passwd", "/",
    "in//../../outside.txt", "../base/in/a.csv", "in/deep/..", "..//outside.txt",
    "....//outside.txt",
    "in/a.csv/..", "in/a.csv/../../outside.txt", "in\0/../outside.txt", "\0", "in/a.csv\0.txt",
)  # fmt: skip
LINKS = (
    "to-file", "to-folder/a.csv", "in/absolute", "in/relative", "in/chain", "in/loop",
    "to-base/in/a.csv",
    "to-root/etc/passwd", "in/deep/up/outside.txt", "in/broken", "to-proc/environ",
    "to-self/in/a.csv",
)  # fmt: skip
SPECIAL = ("pipe", "socket", "in", "in/deep", ".", "device", "nothing", "in/a.csv/x")


@pytest.fixture
def trapped(base: Path) -> Path:
    (base / "to-file").symlink_to("../outside.txt")
    (base / "to-folder").symlink_to("../outside")
    (base / "in" / "absolute").symlink_to("/etc/passwd")
    (base / "in" / "relative").symlink_to("../../outside.txt")
    (base / "in" / "chain").symlink_to("relative")
    (base / "in" / "loop").symlink_to("loop")
    (base / "to-base").symlink_to(".")
    (base / "to-root").symlink_to("/")
    (base / "in" / "deep" / "up").symlink_to("../../..")
    (base / "in" / "broken").symlink_to("missing")
    (base / "to-proc").symlink_to("/proc/self")
    (base / "to-self").symlink_to(base)
    (base / "device").symlink_to("/dev/zero")
    os.mkfifo(base / "pipe")
    os.mknod(base / "socket", 0o140600)
    return base


@pytest.mark.parametrize("path", [*OUTSIDE, *LINKS, *SPECIAL])
def test_connections_f13_nothing_outside_the_base_is_reached(trapped: Path, path: str) -> None:
    its = session(trapped)
    before = _outside(trapped)
    for action, args in (
        ("file.read", file.FileReadArgs(path=path)),
        ("file.stat", file.FileStatArgs(path=path, sha256=True)),
        ("file.write", file.FileWriteArgs(path=path, text="x", exists="replace")),
        ("file.move", file.FileMoveArgs(path=path, to="taken", exists="replace")),
        ("file.move", file.FileMoveArgs(path="in/a.csv", to=path, exists="replace")),
        ("file.delete", file.FileDeleteArgs(path=path)),
    ):
        _refused_or_inside(its, action, args)
        (trapped / "in" / "a.csv").write_bytes(b"1,2\n3,4\n")
    assert _outside(trapped) == before


def _refused_or_inside(its: DirectorySession, action: str, args: Struct) -> None:
    out = Buffer()
    assert failure(its, action, args, out) in {"", "path_refused", "path_unknown", "path_exists"}
    assert SECRET not in out.data
    assert b"root:" not in out.data


def _outside(base: Path) -> list[tuple[str, bytes]]:
    paths = [each for each in sorted(base.parent.rglob("*")) if not each.is_relative_to(base)]
    return [(str(each), each.read_bytes() if each.is_file() else b"") for each in paths]


def test_connections_f13_link_that_is_swapped_in_leads_nowhere(base: Path, tmp_path: Path) -> None:
    """A folder becomes a link to the outside, again and again, while it is read and written."""
    its, read = session(base), 0
    with swapped(base):
        for number in range(2000):
            out = Buffer()
            code = failure(its, "file.read", file.FileReadArgs(path="in/a.csv"), out)
            assert code in {"", "path_refused", "path_unknown"}
            assert SECRET not in out.data
            read += not code
            if number % 10 == 0:
                args = file.FileWriteArgs(path="in/w", text="x", exists="replace")
                assert failure(its, "file.write", args) in {"", "path_refused", "path_unknown"}
    assert read > 0
    assert sorted(each.name for each in (tmp_path / "outside").iterdir()) == ["a.csv"]


@pytest.mark.parametrize("mtime", [2**40, 2**62, -(2**40)])
def test_sec_s43_file_of_a_time_beyond_all_years_hides_no_other(mtime: int) -> None:
    """A file system may keep times that no calendar has; whoever may write a file sets them."""
    line = _line("a.csv", os.stat_result((0o100644, 0, 0, 0, 0, 0, 5, 0, mtime, 0)))
    assert json.loads(line)["mtime"][:5] == ("9999-" if mtime > 0 else "1000-")
    facts = _facts(asyncssh.SFTPAttrs(size=5, mtime=mtime))
    assert facts["mtime"] == json.loads(line)["mtime"]
