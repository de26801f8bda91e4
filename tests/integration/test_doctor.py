"""Both doctors: numbered findings with cause and cure, for what works and for what does not."""

import asyncio
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker_client.context import load_context
from broker_client.runtime.context_files import ContextFiles
from schemas.faults import Unreachable
from schemas.messages.api import Done, NameQuery
from tests.harness import MeshProcesses, Ran
from tests.meshes import client_of, mesh_fixture
from tests.waiting import PATIENCE_S

# Of a running agent: what is its own, and files that are being written and are gone a moment later.
OWN = ("lock", "*.sock", "status*", "tasks", ".*")
OF_HOST = ("user of tasks", "ends of tasks")
pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-doctor")]


mesh = mesh_fixture({"web": ("web-1",)})


async def agent_doctor(
    mesh: MeshProcesses, state_dir: Path, *options: str, output: str = "json"
) -> Ran:
    where = ("--state-dir", str(state_dir), "--output", output, "--timeout", "15")
    return await mesh._run("broker-agent", "doctor", *where, *options)


def states(ran: Ran) -> dict[str, str]:
    """The state of each check, whatever the broker's address."""
    found = [
        (each["check"].partition(" of tls:")[0], each["state"]) for each in ran.json["findings"]
    ]
    return {check.partition(" with tls:")[0]: state for check, state in found}


def states_of_agent(ran: Ran) -> dict[str, str]:
    """Without what is of the host: its user and its control groups are not for each test to say."""
    return {check: state for check, state in states(ran).items() if check not in OF_HOST}


def finding(ran: Ran, check: str) -> dict[str, Any]:
    found: dict[str, Any] = next(e for e in ran.json["findings"] if e["check"].startswith(check))
    return found


@pytest.fixture
def folder(mesh: MeshProcesses, tmp_path: Path) -> Path:
    """A copy of a running agent's folder, to be damaged."""
    copy = tmp_path / "web-1"
    shutil.copytree(mesh.agent_dir("web-1"), copy, ignore=shutil.ignore_patterns(*OWN))
    return copy


async def test_agents_doctor_finds_nothing_wrong_beside_a_running_agent(
    mesh: MeshProcesses,
) -> None:
    """And is not treated as a second session of it."""
    await mesh.wait_status("web-1", "active")
    ran = await agent_doctor(mesh, mesh.agent_dir("web-1"))
    assert ran.code == 0, ran.out
    assert ran.json["ok"]
    assert states_of_agent(ran) == dict.fromkeys(
        (
            *("state directory", "mode", "processes of tasks", "identity", "disk"),
            *("journal", "credentials"),
            *("certificate and clock", "address", "port", "TLS", "login at the broker"),
            *("permissions", "round trip", "profiles", "agent process"),
        ),
        "ok",
    )
    assert [each["number"] for each in ran.json["findings"]] == [*range(1, 19)]
    record = await mesh.wait_status("web-1", "active")
    assert record.badges == []
    text = await agent_doctor(mesh, mesh.agent_dir("web-1"), output="table")
    assert text.out.startswith(" 1  ok       state directory: ")


async def test_agents_doctor_distinguishes_a_stopped_agent_from_a_broken_one(
    mesh: MeshProcesses, folder: Path
) -> None:
    ran = await agent_doctor(mesh, folder)
    assert ran.code == 0
    assert finding(ran, "agent process")["state"] == "warning"
    assert finding(ran, "agent process")["cure"].startswith("broker-agent run --state-dir ")


async def test_agents_doctor_names_the_disk_the_journal_and_the_mode(
    mesh: MeshProcesses, folder: Path
) -> None:
    (folder / "journal.db").write_bytes(
        b"this is no database, but long enough to be read as one" * 99
    )
    for tail in ("-wal", "-shm"):
        (folder / f"journal.db{tail}").unlink(missing_ok=True)
    folder.chmod(0o755)
    mesh.env["MESH_DISK_FREE"] = "0.9"
    try:
        ran = await agent_doctor(mesh, folder)
    finally:
        del mesh.env["MESH_DISK_FREE"]
    assert ran.code == 1
    assert finding(ran, "mode")["state"] == "warning"
    assert finding(ran, "mode")["cure"] == f"chmod 700 {folder}"
    full = os.statvfs(folder)
    if full.f_bavail / full.f_blocks < 0.9:
        assert finding(ran, "disk")["state"] == "failed"
    assert finding(ran, "journal")["state"] == "failed"
    assert "login at the broker" in states(ran), "what does not build on it is looked at"
    assert states(ran)["login at the broker"] == "ok"


async def test_agents_doctor_names_an_address_that_is_none_and_skips_the_rest(
    mesh: MeshProcesses, folder: Path
) -> None:
    path = folder / "identity" / "current" / "identity.toml"
    path.write_text(path.read_text().replace("127.0.0.1", "no-such-host.invalid"))
    ran = await agent_doctor(mesh, folder)
    assert ran.code == 1
    assert {check: state for check, state in states_of_agent(ran).items() if state != "ok"} == {
        "address": "failed",
        "port": "skipped",
        "TLS": "skipped",
        "login at the broker": "skipped",
        "permissions": "skipped",
        "round trip": "skipped",
        "agent process": "warning",
    }
    assert finding(ran, "address")["cure"]


async def test_agents_doctor_names_credentials_that_are_refused(
    mesh: MeshProcesses, tmp_path: Path
) -> None:
    await mesh.add_agent("gone-1", group="web", start=False)
    async with mesh.client() as admin:
        await admin.ask("agent", "revoke", NameQuery(name="gone-1"), Done)
    ran = await agent_doctor(mesh, mesh.agent_dir("gone-1"))
    assert ran.code == 1
    refused = finding(ran, "login at the broker")
    assert (refused["state"], refused["cause"]) == ("failed", "credentials_rejected")


async def test_agents_doctor_names_a_folder_that_is_none(mesh: MeshProcesses) -> None:
    ran = await agent_doctor(mesh, mesh.directory / "nowhere")
    assert ran.code == 1
    assert finding(ran, "state directory")["state"] == "failed"
    assert set(states(ran).values()) == {"failed", "skipped"}


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
async def test_clients_doctor_tries_each_permission_of_its_role_and_changes_nothing(
    mesh: MeshProcesses, role: str, tmp_path: Path
) -> None:
    name = f"doc-{role}"
    context = await client_of(mesh, name, role, directory=tmp_path)
    before = await mesh.cli("audit", "list", "--by", name, "--output", "json")
    ran = await mesh.cli("doctor", "--output", "json", context=context)
    assert ran.code == 0, ran.out
    assert set(states(ran).values()) == {"ok"}, ran.out
    assert f"all of role {role}: " in finding(ran, "permissions")["found"]
    assert finding(ran, "clock")["found"].endswith("off the master's")
    after = await mesh.cli("audit", "list", "--by", name, "--output", "json")
    assert before.json == after.json == []


async def test_clients_doctor_shows_a_renewal_that_failed_until_one_succeeds(
    mesh: MeshProcesses, tmp_path: Path
) -> None:
    path = await client_of(mesh, "late", "viewer", directory=tmp_path / "clients")
    context = load_context(str(path), {})
    async with mesh.client(path) as client:
        renewal = client._renewal
        assert renewal is not None
        ask, fault = renewal._asker, Unreachable("no_answer", "the master said nothing")

        async def fails(*_: object, **__: object) -> None:
            raise fault

        renewal._asker = cast("Any", SimpleNamespace(ask=fails))
        await renewal.look()
        renewal._asker = ask
    shown = await mesh.cli("doctor", context=path)
    assert (shown.code, "warning  renewal: the last one failed" in shown.out) == (0, True), shown
    assert "the master said nothing" in shown.out
    assert (await mesh.cli("client", "renew", context=path)).code == 0
    shown = await mesh.cli("doctor", context=path)
    assert "renewal:" not in shown.out
    assert ContextFiles(context).failure == ""


async def test_clients_doctor_says_what_is_wrong_with_the_mesh(mesh: MeshProcesses) -> None:
    """As `mesh status` does: here a duplicate identity."""
    twin = await mesh.add_agent("twin", group="web", slots=1)
    copy = mesh.directory / "twin-copy"
    own = shutil.ignore_patterns(*OWN, "journal.db*")
    shutil.copytree(mesh.agent_dir("twin"), copy, ignore=own)
    started = await asyncio.create_subprocess_exec(
        *[*twin.argv[:-1], str(copy)],
        env=mesh.env,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with mesh.client() as admin, asyncio.timeout(PATIENCE_S):
            while not (notes := (await admin.status()).notes):
                await asyncio.sleep(0.05)
        assert notes == ["two hosts with one identity: twin; see mesh audit list --result alarm"]
    finally:
        started.kill()
        await started.wait()
        twin.kill()
