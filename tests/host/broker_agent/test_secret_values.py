"""Values of secrets: read by a worker from each source, and cut out of all texts."""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_agent.connectors import secrets
from broker_agent.connectors.api import CallFailed
from broker_agent.connectors.scrub import SHORT, Scrubber
from broker_agent.connectors.secrets import SecretBox
from broker_agent.core.references import Secret, Vault
from tests.vault import VaultServer, vault_server

ROOT = Path(__file__).resolve().parents[3]
NOBODY = 65_534
VALUE = "p@ss w0rd+/ü"


def read(secret: Secret, access: Vault | None = None) -> str:
    return SecretBox({"password": secret}, access or Vault()).values()["password"]


def refused(secret: Secret, access: Vault | None = None) -> str:
    with pytest.raises(CallFailed) as found:
        read(secret, access)
    assert (found.value.code, found.value.effect) == ("secret_unreadable", "none")
    assert found.value.message.startswith("password (")
    return found.value.message


@pytest.fixture
def held(tmp_path: Path) -> Path:
    path = tmp_path / "erp-db"
    path.write_text(VALUE + "\n")
    path.chmod(0o600)
    return path


def test_value_comes_from_each_source(held: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERP_PASSWORD", VALUE)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(held.parent))
    for secret in (
        Secret(file=str(held)),
        Secret(credential="erp-db"),
        Secret(env="ERP_PASSWORD"),
        Secret(command=["/bin/cat", str(held)]),
        Secret(plain=VALUE),
    ):
        assert read(secret) == VALUE, secret


def test_unreadable_source_names_field_reference_and_cause(
    tmp_path: Path, held: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    missing = tmp_path / "missing"
    assert "no such file" in refused(Secret(file=str(missing)))
    assert "systemd" in refused(Secret(credential="erp-db"))
    assert "no such variable" in refused(Secret(env="ERP_NOWHERE"))
    assert "ended with 3" in refused(Secret(command=["/bin/sh", "-c", "echo secret-x; exit 3"]))
    assert "no such file" in refused(Secret(command=[str(missing)]))
    assert "connectors.vault.address" in refused(Secret(vault="kv/erp#password"))
    assert "it is empty" in refused(Secret(command=["/bin/true"]))
    assert "larger than" in refused(Secret(command=["/bin/sh", "-c", "yes | head -c 70000"]))
    held.chmod(0o666)
    assert "others can write it" in refused(Secret(file=str(held)))
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in refused(Secret(file=str(tmp_path / "pipe")))


def test_command_that_hangs_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "COMMAND_S", 0.3)
    note = tmp_path / "pid"
    said = refused(Secret(command=["/bin/sh", "-c", f"sleep 600 & echo $! > {note}; wait"]))
    assert "has not ended within" in said
    pid = int(note.read_text())
    deadline = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "a child of the command is left"
        time.sleep(0.01)


def test_command_sees_no_variable_of_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "of-another-program")
    assert "DATABASE_PASSWORD" not in read(Secret(command=["/usr/bin/env"]))


def test_value_is_read_again_after_its_time_only(held: Path) -> None:
    now = [0.0]
    box = SecretBox(
        {"a": Secret(file=str(held), ttl_s=60), "b": Secret(file=str(held))},
        Vault(),
        now=lambda: now[0],
    )
    assert box.values() == {"a": VALUE, "b": VALUE}
    held.write_text("next-value")
    now[0] = 59
    assert not box.are_stale
    assert box.values() == {"a": VALUE, "b": VALUE}
    now[0] = 60
    assert box.are_stale
    assert box.values() == {"a": "next-value", "b": VALUE}
    assert VALUE not in box.scrub(f"old {VALUE} and next-value")
    assert "next-value" not in box.scrub(f"old {VALUE} and next-value")


@pytest.fixture
def vault() -> Iterator[VaultServer]:
    with vault_server(VALUE) as server:
        yield server


def test_vault_is_asked_by_two_calls(vault: VaultServer, tmp_path: Path) -> None:
    (tmp_path / "id").write_text("secret-id-1\n")
    access = Vault(address=vault.address, role_id="role-1", secret_id_file=str(tmp_path / "id"))
    assert read(Secret(vault="kv/erp#password"), access) == VALUE
    assert vault.calls == [("POST", "/v1/auth/approle/login"), ("GET", "/v1/kv/data/erp")]
    assert read(Secret(vault="old/erp#password"), access) == VALUE
    (tmp_path / "token").write_text("token-of-the-role")
    vault.calls.clear()
    access = Vault(address=vault.address, token_file=str(tmp_path / "token"))
    assert read(Secret(vault="kv/erp#password"), access) == VALUE
    assert vault.calls == [("GET", "/v1/kv/data/erp")]


def test_refusals_of_a_vault_name_their_cause(vault: VaultServer, tmp_path: Path) -> None:
    (tmp_path / "id").write_text("of-another")
    access = Vault(address=vault.address, role_id="role-1", secret_id_file=str(tmp_path / "id"))
    assert "login is refused" in refused(Secret(vault="kv/erp#password"), access)
    (tmp_path / "token").write_text("token-of-the-role")
    access = Vault(address=vault.address, token_file=str(tmp_path / "token"))
    assert "answers 404" in refused(Secret(vault="kv/none#password"), access)
    assert "no text of the name pass" in refused(Secret(vault="kv/erp#pass"), access)
    nowhere = Vault(address="http://127.0.0.1:1", token_file=str(tmp_path / "token"))
    assert "refused" in refused(Secret(vault="kv/erp#password"), nowhere)


@given(st.text(min_size=SHORT, max_size=80), st.binary(max_size=9), st.binary(max_size=9))
def test_sec_s38_no_form_of_a_value_is_left(value: str, before: bytes, after: bytes) -> None:
    encoded = value.encode("utf-8", "surrogatepass")
    if encoded != value.encode(errors="ignore"):
        return
    scrub = Scrubber([value]).scrub
    forms = [value, quote(value, safe=""), encoded.hex(), json.dumps(value)[1:-1]]
    for form in forms:
        assert form not in scrub(f"cannot log in as {form}: refused")
    whole = base64.b64encode(before + encoded + after).decode()
    left = scrub(f"Authorization: Basic {whole}")
    sure = base64.b64encode(b"\0" * len(before) + encoded).decode().rstrip("=")
    first, last = (len(before) * 8 + 5) // 6, (len(before) + len(encoded)) * 8 // 6
    if last - first >= 6:
        assert sure[first:last] not in left


def test_sec_s38_very_short_value_withholds_the_text() -> None:
    scrub = Scrubber(["ab", ""]).scrub
    assert scrub("no match here") == "no match here"
    assert "withheld" in scrub("cab")


def test_sec_s38_line_of_a_key_is_cut_out_alone() -> None:
    key = "-----BEGIN KEY-----\nQUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=\n-----END KEY-----"
    assert "QUJDREVG" not in Scrubber([key]).scrub("bad line QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=!")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can begin a process of another user")
@pytest.mark.parametrize("is_shut", [True, False])
def test_sec_s38_tasks_of_the_same_user_cannot_look_into_a_worker(is_shut: bool) -> None:
    # An ordinary process of another user; its interpreter is one that only root may start here.
    script = (
        "from broker_agent.connectors.confine import shut_process;"
        " import ctypes, os, resource, sys;"
        f" os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY});"
        " ctypes.CDLL(None).prctl(4, 1, 0, 0, 0);"
        f" {'shut_process()' if is_shut else 'pass'};"
        " print(*resource.getrlimit(resource.RLIMIT_CORE), flush=True); sys.stdin.read()"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT), "ERP_PASSWORD": "canary-in-the-environment"},
    )
    try:
        assert worker.stdout
        cores = worker.stdout.readline().split()
        task = subprocess.run(
            ["/bin/cat", f"/proc/{worker.pid}/environ"],
            capture_output=True,
            text=True,
            check=False,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
        )
    finally:
        worker.communicate("")
    assert ("canary-in-the-environment" in task.stdout) is not is_shut
    if is_shut:
        assert cores == ["0", "0"]
