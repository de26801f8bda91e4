import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from broker_client.runtime import files
from broker_client.runtime.context import context_identity, read_context
from broker_client.runtime.identity import read_identity
from broker_client.runtime.tls import certificate_facts
from broker_master.ca.authority import certified_hosts
from broker_master.ca.mesh import (
    OWN_LIFETIME_S,
    init_mesh,
    open_beside,
    open_mesh,
    update_context_urls,
)
from schemas.faults import MeshError, Refused

NOW = time.time()


def contents(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def fault_of(call: Callable[..., object], *args: object) -> str:
    with pytest.raises(MeshError) as caught:
        call(*args)
    assert "\n" not in caught.value.message
    return caught.value.code


def test_init_makes_all_that_serve_and_the_admin_need(tmp_path: Path) -> None:
    state = tmp_path / "deep" / "state"
    mesh = init_mesh(state, ["broker.example", "10.0.0.1"])
    assert mesh.urls(4222) == ("tls://broker.example:4222", "tls://10.0.0.1:4222")
    assert read_identity(mesh.master_directory).claims.name == "master"
    assert read_identity(mesh.system_directory).claims.name == "master-system"
    context = read_context(state / "contexts" / "admin.toml")
    assert (context.name, context.role, context.mesh) == ("admin", "admin", mesh.id)
    assert context_identity(context).claims.name == "admin"
    admin = certificate_facts((state / "contexts" / "admin" / "cert.pem").read_bytes())
    assert time.time() + 364 * 86_400 < admin.not_after <= time.time() + 365 * 86_400
    assert certified_hosts((mesh.broker_directory / "server.pem").read_bytes()) == (
        "localhost",
        "127.0.0.1",
        "broker.example",
        "10.0.0.1",
    )
    assert open_mesh(state).id == mesh.id


def test_second_init_changes_nothing(tmp_path: Path) -> None:
    init_mesh(tmp_path, ["broker.example"])
    before = contents(tmp_path)
    init_mesh(tmp_path)
    init_mesh(tmp_path, ["broker.example", "127.0.0.1"][:1])
    open_mesh(tmp_path)
    assert contents(tmp_path) == before


def test_later_host_is_added_and_no_key_changes(tmp_path: Path) -> None:
    init_mesh(tmp_path, ["a.example"])
    before = contents(tmp_path)
    mesh = init_mesh(tmp_path, ["b.example"])
    after = contents(tmp_path)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"mesh.toml", "broker/server.pem"}
    assert mesh.urls(1) == ("tls://a.example:1", "tls://b.example:1")


def test_private_files_are_the_owners_alone(tmp_path: Path) -> None:
    init_mesh(tmp_path / "state")
    public = {".pem", ".toml"}
    for path in (tmp_path / "state").rglob("*"):
        mode = path.stat().st_mode & 0o777
        if path.is_dir():
            assert mode == 0o700, path
        elif path.suffix not in public or path.name == "key.pem":
            assert mode == 0o600, path


class Crash(BaseException):
    """The process ends here."""


def writes_until_done(state: Path, limit: int | None, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run init and let it crash before write number `limit`; returns how many it made."""
    made = 0
    write = files._write

    def counted(path: Path, data: bytes, mode: int) -> None:
        nonlocal made
        if made == limit:
            raise Crash
        made += 1
        write(path, data, mode)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_write", counted)
        init_mesh(state)
    return made


def test_init_that_crashed_before_any_write_is_completed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = writes_until_done(tmp_path / "whole", None, monkeypatch)
    assert total > 20
    for limit in range(total):
        state = tmp_path / str(limit)
        with pytest.raises(Crash):
            writes_until_done(state, limit, monkeypatch)
        kept = contents(state)
        mesh = init_mesh(state)
        assert contents(state).keys() == contents(tmp_path / "whole").keys()
        keys = {name: data for name, data in kept.items() if name.endswith((".nk", "mesh.toml"))}
        assert keys.items() <= contents(state).items(), limit
        assert open_mesh(state).id == mesh.id
        assert context_identity(read_context(mesh.admin_context)).claims.name == "admin"


def test_unfinished_init_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in (0, 1, 5, 18, 24):
        state = tmp_path / str(limit)
        with pytest.raises(Crash):
            writes_until_done(state, limit, monkeypatch)
        assert fault_of(open_mesh, state) == "state_missing"


def test_directory_of_something_else_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    assert fault_of(init_mesh, tmp_path) == "state_foreign"
    assert fault_of(open_mesh, tmp_path) == "state_foreign"
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


@pytest.mark.parametrize(
    "marker",
    [
        'program = "broker-agent"\nformat = 1\nmesh = "x"\n',
        'program = "broker-master"\nformat = 2\nmesh = "x"\n',
        "not toml at all",
        "",
    ],
)
def test_marker_of_another_program_or_release_is_refused(tmp_path: Path, marker: str) -> None:
    (tmp_path / "mesh.toml").write_text(marker)
    assert fault_of(init_mesh, tmp_path) == "state_foreign"
    assert fault_of(open_mesh, tmp_path) == "state_foreign"
    assert contents(tmp_path) == {"mesh.toml": marker.encode()}


def test_authority_of_another_mesh_is_refused(tmp_path: Path) -> None:
    init_mesh(tmp_path / "a")
    init_mesh(tmp_path / "b")
    for name in ("ca.pem", "ca.key"):
        (tmp_path / "a" / "ca" / name).write_bytes((tmp_path / "b" / "ca" / name).read_bytes())
    assert fault_of(init_mesh, tmp_path / "a") == "state_foreign"
    assert fault_of(open_mesh, tmp_path / "a") == "state_foreign"


def test_missing_directory_or_other_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert fault_of(init_mesh, tmp_path / "file") == "state_unreadable"
    assert fault_of(init_mesh, tmp_path / "file" / "below") == "state_unreadable"
    assert fault_of(open_mesh, tmp_path / "nothing") == "state_missing"
    (tmp_path / "empty").mkdir()
    assert fault_of(open_mesh, tmp_path / "empty") == "state_missing"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_directory_of_another_user_is_unreadable(tmp_path: Path) -> None:
    init_mesh(tmp_path)
    (tmp_path / "nats").chmod(0)
    assert fault_of(open_mesh, tmp_path) == "state_unreadable"
    assert fault_of(init_mesh, tmp_path) == "state_unreadable"
    (tmp_path / "nats").chmod(0o700)


def test_directory_in_use_is_refused(tmp_path: Path) -> None:
    init_mesh(tmp_path)
    with files.lock_directory(tmp_path):
        assert fault_of(init_mesh, tmp_path) == "state_locked"
    init_mesh(tmp_path)


def test_host_out_of_shape_stops_init_before_anything_is_made(tmp_path: Path) -> None:
    assert fault_of(init_mesh, tmp_path / "state", ["tls://broker"]) == "settings_invalid"
    assert not (tmp_path / "state").exists()


def test_context_names_the_address_the_broker_really_has(tmp_path: Path) -> None:
    mesh = init_mesh(tmp_path)
    update_context_urls(tmp_path, ["tls://127.0.0.1:1234"])
    assert read_context(mesh.admin_context).urls == ("tls://127.0.0.1:1234",)
    before = mesh.admin_context.stat().st_mtime_ns, mesh.admin_context.read_bytes()
    update_context_urls(tmp_path, ["tls://127.0.0.1:1234"])
    assert (mesh.admin_context.stat().st_mtime_ns, mesh.admin_context.read_bytes()) == before
    assert b'ca = "admin/ca.pem"' in before[1], "paths stay relative, so a copy works elsewhere"
    init_mesh(tmp_path)
    assert read_context(mesh.admin_context).urls == ("tls://127.0.0.1:1234",)


def test_own_certificates_are_renewed_when_half_of_their_life_is_over(tmp_path: Path) -> None:
    init_mesh(tmp_path, now=lambda: NOW - OWN_LIFETIME_S * 0.4)
    young = contents(tmp_path)
    open_mesh(tmp_path)
    assert contents(tmp_path) == young
    later = NOW + OWN_LIFETIME_S * 0.2
    mesh = open_mesh(tmp_path, now=lambda: later)
    for path in (mesh.master_directory / "cert.pem", mesh.broker_directory / "server.pem"):
        assert certificate_facts(path.read_bytes()).not_after == int(later) + OWN_LIFETIME_S


def test_torn_identity_of_the_master_is_made_anew(tmp_path: Path) -> None:
    mesh = init_mesh(tmp_path)
    (mesh.master_directory / "cert.pem").write_bytes(b"half")
    open_mesh(tmp_path)
    assert read_identity(mesh.master_directory).claims.name == "master"


def test_refusals_say_which_path(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        open_mesh(tmp_path / "nothing")
    assert str(tmp_path / "nothing") in caught.value.message


def test_mesh_that_a_master_runs_on_is_read_and_not_renewed_by_another(tmp_path: Path) -> None:
    mesh = init_mesh(tmp_path)
    own = mesh.master_directory / "cert.pem"
    own.write_bytes(b"half")
    with files.lock_directory(tmp_path):
        assert open_beside(tmp_path).id == mesh.id
        assert own.read_bytes() == b"half", "it is the master's to renew"
    assert open_beside(tmp_path).id == mesh.id
    assert read_identity(mesh.master_directory).claims.name == "master"
    files.lock_directory(tmp_path).release()  # it was released


def test_folder_that_holds_no_mesh_gets_no_lock_from_a_look(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        open_beside(tmp_path)
    assert caught.value.code == "state_missing"
    assert list(tmp_path.iterdir()) == []
