"""F34: the authority and the signing keys are replaced under running agents, step by step."""

import asyncio
import dataclasses
import ssl
from pathlib import Path

import pytest
from nats.errors import Error as NatsError

from broker_client.api import MeshClient
from broker_client.runtime.tls import client_context
from schemas.messages.api import (
    AgentRecord,
    CaAnswer,
    CaRotate,
    CertificateList,
    CertificatesAnswer,
    NameQuery,
    NoQuery,
    RotationRecord,
)
from tests.harness import MeshProcesses
from tests.meshes import client_of, issuer, mesh_fixture, refused
from tests.servers import TestCredentials, connect_raw
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-ca")]

AGENTS = ("web-1", "web-2", "web-3")
STEP_S = 60.0


mesh = mesh_fixture({"web": AGENTS}, scope="function")


async def shown(client: MeshClient, key: str = "authority") -> RotationRecord:
    answer = await client.ask("ca", "show", NoQuery(), CaAnswer)
    return next(each for each in answer.rotations if each.key == key)


async def take(client: MeshClient, step: str, **fields: object) -> None:
    await client.ask("ca", "rotate", CaRotate(step=step, **fields), CaAnswer)  # type: ignore[arg-type]


async def nobody_waits(client: MeshClient, key: str = "authority") -> bool:
    return (await shown(client, key)).waiting == 0


def connections_of(mesh: MeshProcesses) -> dict[str, int]:
    """How often each agent has lost its connection so far, by its own log."""
    logs = {name: mesh.logs.glob(f"agent-{name}*") for name in AGENTS}
    return {
        name: sum(path.read_text().count("disconnected") for path in paths)
        for name, paths in logs.items()
    }


async def works(client: MeshClient) -> None:
    for name in AGENTS:
        record = await client.run(["true"], agent=name, timeout_s=STEP_S)
        assert record.state == "succeeded", record


async def authorities_of(client: MeshClient, kind: str) -> set[int]:
    answer = await client.ask("certificate", "list", CertificateList(), CertificatesAnswer)
    return {each.authority for each in answer.certificates if each.kind == kind}


async def test_f34_authority_is_replaced_and_nobody_is_cut_off_before_the_end(
    mesh: MeshProcesses, tmp_path: Path
) -> None:
    idle = await client_of(mesh, "idle", "viewer", directory=tmp_path / "clients")
    old = issuer(mesh).issue("agent", "web-1", "web")
    async with mesh.client() as admin:
        since = {name: (await agent_shown(admin, name)).since for name in AGENTS}
        with refused("step_refused"):
            await take(admin, "activate")
        await take(admin, "prepare")
        await take(admin, "prepare")
        async with asyncio.timeout(STEP_S):
            while set((await shown(admin)).waiting_for) != {"client admin", "client idle"}:
                await asyncio.sleep(0.05)
        with refused("step_refused"):
            await take(admin, "activate")
        assert (await shown(admin)).stage == "prepared"
        assert (await mesh.cli("client", "renew", context=idle)).code == 0
        await admin.renew()
        assert (await shown(admin)).waiting == 0
        assert await authorities_of(admin, "agent") == {1}

        await take(admin, "activate")
        await works(admin)
        assert await authorities_of(admin, "broker") == {2}
        assert {name: (await agent_shown(admin, name)).since for name in AGENTS} == since
        # Whoever comes back now meets a broker with a certificate of the new authority.
        mesh.agents["web-3"].kill()
        await mesh.agents["web-3"].start()
        await mesh.wait_status("web-3", "active")
        with refused("step_refused"):
            await take(admin, "revoke")

        await take(admin, "taint")
        await mesh.restart_master()
        await admin.link.wait_connected(STEP_S)
        await asyncio.wait_for(until_renewed(admin), STEP_S)
        with refused("step_refused"):
            await take(admin, "revoke")
        assert (await mesh.cli("client", "renew", context=idle)).code == 0
        await admin.renew()
        assert (await shown(admin)).waiting == 0

        old = trusting(old, admin_folder(mesh) / "ca.pem")
        await (await connect_raw(old)).close()
        await take(admin, "revoke")
        await works(admin)
        assert (await shown(admin)).stage == "settled"
        with pytest.raises((ssl.SSLError, OSError, NatsError)):
            await connect_raw(old)
        slots = [mesh.agent_dir(name) / "identity" / "current" for name in AGENTS]
        await eventually(lambda: all(one_authority(slot) for slot in slots), STEP_S)
        mesh.agents["web-1"].kill()
        await mesh.agents["web-1"].start()
        await mesh.wait_status("web-1", "active")
        assert (await mesh.cli("status", context=idle)).code == 0


def one_authority(slot: Path) -> bool:
    return (slot / "ca.pem").read_bytes().count(b"BEGIN CERTIFICATE") == 1


async def agent_shown(client: MeshClient, name: str) -> AgentRecord:
    return await client.ask("agent", "show", NameQuery(name=name), AgentRecord)


async def until_renewed(client: MeshClient) -> None:
    while await authorities_of(client, "agent") != {2}:
        await asyncio.sleep(0.1)


def admin_folder(mesh: MeshProcesses) -> Path:
    return mesh.admin_context.with_suffix("")


def trusting(credentials: TestCredentials, ca: Path) -> TestCredentials:
    """The same certificate and token, with other authorities to know the broker by."""
    folder = credentials.folder
    context = client_context(ca, folder / "cert.pem", folder / "key.pem")
    return dataclasses.replace(credentials, context=context)


async def test_sec_s27_signing_key_is_replaced_and_only_its_users_are_dropped(
    mesh: MeshProcesses,
) -> None:
    thief = await connect_raw(issuer(mesh).issue("agent", "web-1", "web"))
    bystander = await connect_raw(issuer(mesh).issue("viewer", "looker"))
    async with mesh.client() as admin:
        for step in ("prepare", "activate", "taint"):
            await take(admin, step, key="agent")
        assert (await shown(admin, "agent")).active == 2
        async with asyncio.timeout(STEP_S):
            while not await nobody_waits(admin, "agent"):
                await asyncio.sleep(0.1)
        connected = connections_of(mesh)
        assert thief.is_connected
        reconnects = admin.link.reconnects
        await take(admin, "revoke", key="agent")
        await eventually(lambda: thief.is_closed)
        assert bystander.is_connected
        assert admin.link.reconnects == reconnects
        await works(admin)
        assert connections_of(mesh) == connected, "whoever has renewed is not cut off"
        assert {(await agent_shown(admin, name)).status for name in AGENTS} == {"active"}
    await bystander.close()


async def test_master_key_is_replaced_and_forced_revoke_cuts_off_who_has_not_renewed(
    mesh: MeshProcesses, tmp_path: Path
) -> None:
    late = await client_of(mesh, "late", "operator", directory=tmp_path / "clients")
    async with mesh.client() as admin:
        for step in ("prepare", "activate", "taint", "revoke"):
            await take(admin, step, key="master")
        await works(admin)
        for step in ("prepare", "activate", "taint"):
            await take(admin, step, key="operator")
        assert (await shown(admin, "operator")).waiting_for == ["client late"]
        with refused("step_refused"):
            await take(admin, "revoke", key="operator")
        await take(admin, "revoke", key="operator", force=True)
        assert (await mesh.cli("status", context=late)).code == 77
        with refused("field_invalid"):
            await take(admin, "prepare", key="root")
