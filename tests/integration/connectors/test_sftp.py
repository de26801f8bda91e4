"""The kind `sftp`, against OpenSSH's server."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from broker_agent.connectors.api import Secret, Session
from broker_agent.connectors.sftp import CONNECTOR
from broker_agent.connectors.sftp.connector import SftpProfile
from schemas.messages.actions import file
from tests.connectors import Buffer, a_call, failing, failure, proxied, run, swapped
from tests.integration.connectors.test_directory import LINKS, OUTSIDE, SECRET, SPECIAL
from tests.integration.connectors.test_directory import base as base  # noqa: PLC0414
from tests.integration.connectors.test_directory import trapped as trapped  # noqa: PLC0414
from tests.sshd import SshServer, ssh_server

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("sshd")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("sshd")) as running:
        yield running


def profile(server: SshServer, base: Path) -> SftpProfile:
    return SftpProfile(
        host="127.0.0.1",
        port=server.port,
        user=server.user,
        key=Secret(plain="never-read"),
        host_key=server.host_key,
        base=str(base),
        write=True,
    )


@pytest.fixture
def its(server: SshServer, base: Path) -> Iterator[Session]:
    opened = CONNECTOR.open(profile(server, base), {"key": server.key})
    yield opened
    opened.close()


def test_files_are_listed_read_written_moved_and_deleted(its: Session, base: Path) -> None:
    result, data = run(its, "file.read", file.FileReadArgs(path="in/a.csv"))
    assert data == b"1,2\n3,4\n"
    assert result["sha256"] == hashlib.sha256(data).hexdigest()
    _, part = run(its, "file.read", file.FileReadArgs(path="in/a.csv", offset=4, length=3))
    assert part == b"3,4"
    body = os.urandom(3_000_000)
    written, _ = run(its, "file.write", file.FileWriteArgs(path="in/big", body=body))
    assert (base / "in" / "big").read_bytes() == body
    assert written["sha256"] == hashlib.sha256(body).hexdigest()
    with failing("path_exists", "none"):
        run(its, "file.write", file.FileWriteArgs(path="in/big", body=b"x"))
    run(its, "file.write", file.FileWriteArgs(path="in/big", body=b"x", exists="replace"))
    run(its, "file.move", file.FileMoveArgs(path="in/big", to="in/deep/small"))
    assert (base / "in" / "deep" / "small").read_bytes() == b"x"
    _, listed = run(its, "file.list", file.FileListArgs(path="in"))
    assert {json.loads(line)["name"] for line in listed.splitlines()} == {"a.csv", "deep"}
    run(its, "file.delete", file.FileDeleteArgs(path="in/deep/small"))
    with failing("path_unknown", "none"):
        run(its, "file.stat", file.FileStatArgs(path="in/deep/small"))
    result, _ = run(its, "file.stat", file.FileStatArgs(path="in/a.csv", sha256=True))
    assert (result["bytes"], result["sha256"]) == (8, hashlib.sha256(b"1,2\n3,4\n").hexdigest())


@pytest.mark.parametrize("path", [*OUTSIDE, *LINKS, *SPECIAL])
def test_connections_f13_nothing_outside_the_base_of_a_server(
    server: SshServer, trapped: Path, path: str
) -> None:
    its = CONNECTOR.open(profile(server, trapped), {"key": server.key})
    try:
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
    finally:
        its.close()
    assert (trapped.parent / "outside.txt").read_bytes() == SECRET
    assert [each.name for each in (trapped.parent / "outside").iterdir()] == ["a.csv"]
    assert (trapped.parent / "outside" / "a.csv").read_bytes() == SECRET


def _refused_or_inside(its: Session, action: str, args: Struct) -> None:
    out = Buffer()
    code = failure(its, action, args, out)
    assert code in {"", "path_refused", "path_unknown", "path_exists"}
    assert SECRET not in out.data
    assert b"root:" not in out.data


def test_connections_f13_link_swapped_in_at_the_server_leads_nowhere(
    its: Session, base: Path, tmp_path: Path
) -> None:
    with swapped(base):
        for number in range(400):
            out = Buffer()
            code = failure(its, "file.read", file.FileReadArgs(path="in/a.csv"), out)
            assert code in {"", "path_refused", "path_unknown"}
            assert SECRET not in out.data
            if number % 4 == 0:
                args = file.FileWriteArgs(path="in/w", text="x", exists="replace")
                failure(its, "file.write", args)
    assert not (tmp_path / "outside" / "w").exists()


def test_unknown_host_key_and_refused_login_have_no_effect(server: SshServer, base: Path) -> None:
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"
    with failing("tls_failed", "none"):
        CONNECTOR.open(
            msgspec.structs.replace(profile(server, base), host_key=other), {"key": server.key}
        )
    with failing("login_refused", "none"):
        CONNECTOR.open(profile(server, base), {"password": "wrong"})
    with failing("secret_unreadable", "none"):
        CONNECTOR.open(profile(server, base), {"key": "no key"})
    with failing("target_unreachable", "none"):
        CONNECTOR.open(msgspec.structs.replace(profile(server, base), port=1), {"key": server.key})


def test_known_hosts_file_is_enough(server: SshServer, base: Path, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{server.port} {server.host_key}\n")
    settings = msgspec.structs.replace(profile(server, base), host_key=None, known_hosts=str(known))
    assert CONNECTOR.check(settings) == []
    its = CONNECTOR.open(settings, {"key": server.key})
    steps: list[str] = []
    assert "OpenSSH" in its.test(steps.append)
    assert steps == ["login", "query"]
    its.close()


def test_cancel_and_deadline_end_a_call_on_a_frozen_line(server: SshServer, base: Path) -> None:
    """The worker is synchronous, so its proxy runs on a loop of another thread."""
    with proxied(server.port) as (port, freeze):
        settings = msgspec.structs.replace(profile(server, base), port=port)
        its = CONNECTOR.open(settings, {"key": server.key})
        run(its, "file.stat", file.FileStatArgs(path="in/a.csv"))
        freeze()
        with failing("target_timeout", "none"):
            run(its, "file.stat", file.FileStatArgs(path="in/a.csv"), call=a_call(0.5))
        assert its.is_broken
        its.close()


def test_cancel_from_another_thread_ends_the_call(server: SshServer, base: Path) -> None:
    with proxied(server.port) as (port, freeze):
        settings = msgspec.structs.replace(profile(server, base), port=port)
        its = CONNECTOR.open(settings, {"key": server.key})
        run(its, "file.stat", file.FileStatArgs(path="in/a.csv"))
        freeze()
        timer = threading.Timer(0.2, its.cancel)
        timer.start()
        with failing("target_lost", "none"):
            run(its, "file.stat", file.FileStatArgs(path="in/a.csv"))
        timer.join()
        its.close()


def test_sec_s43_server_without_sftp_keeps_no_connection_for_each_try(
    tmp_path: Path, base: Path
) -> None:
    with ssh_server(tmp_path, subsystem="") as shut:
        before = len([*Path("/proc/self/fd").iterdir()])
        for _ in range(5):
            with failing("target_unreachable", "none"):
                CONNECTOR.open(profile(shut, base), {"key": shut.key})
        assert len([*Path("/proc/self/fd").iterdir()]) == before
