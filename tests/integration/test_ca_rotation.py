"""F34: the authority and the signing keys are replaced under running agents, step by step."""

import asyncio
import contextlib
import dataclasses
import ssl
import time
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError

from broker_client.api import MeshClient
from broker_client.runtime.tls import client_context
from broker_master.ca.claims import encode_jwt
from broker_master.ca.key_files import OPERATOR
from broker_master.ca.mesh import open_mesh
from schemas.faults import Refused, Unreachable
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
from tests.harness import FAST_TIMERS, MeshProcesses
from tests.meshes import LONG_LEASE, client_of, issuer, mesh_fixture, refused
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


async def running(client: MeshClient, command: str) -> None:
    async with asyncio.timeout(STEP_S):
        while True:
            with contextlib.suppress(Refused):  # it is not submitted yet
                if (await client.show(command)).state == "running":
                    return
            await asyncio.sleep(0.05)


async def caught_up(client: MeshClient, key: str) -> None:
    """Wait until no holder and no node holds the next step up."""
    async with asyncio.timeout(STEP_S):
        while True:
            with contextlib.suppress(Unreachable):  # while the broker restarts
                if not (await shown(client, key)).waiting:
                    return
            await asyncio.sleep(0.05)


async def push(system: Client, token: str) -> None:
    answer = await system.request("$SYS.REQ.CLAIMS.UPDATE", token.encode(), timeout=STEP_S)
    assert b"jwt updated" in answer.data, answer.data


async def comes_back(credentials: TestCredentials) -> bool:
    try:
        client = await connect_raw(credentials)
    except (ssl.SSLError, OSError, NatsError):
        return False
    await client.close()
    return True


async def test_sec_s27_operator_key_is_replaced_under_a_task_and_a_wait(tmp_path: Path) -> None:
    """Before the end both keys update accounts, afterwards the old one does not."""
    env = {**FAST_TIMERS, **LONG_LEASE}
    async with MeshProcesses(tmp_path / "mesh", env=env) as mesh:
        await mesh.add_group("web")
        await mesh.add_agent("web-1", group="web")
        broker = issuer(mesh)
        accounts = broker.mesh.accounts
        old_key, done = accounts.signing_key(OPERATOR), tmp_path / "done"
        body = f"while [ ! -e {done} ]; do sleep 0.05; done; echo same"
        async with mesh.client() as admin:
            wait = asyncio.ensure_future(
                admin.run(["sh", "-c", body], agent="web-1", id="long", timeout_s=STEP_S)
            )
            await running(admin, "long")
            await take(admin, "prepare", key=OPERATOR)
            await caught_up(admin, OPERATOR)
            await take(admin, "activate", key=OPERATOR)
            await take(admin, "taint", key=OPERATOR)
            await take(admin, "revoke", key=OPERATOR)
            await caught_up(admin, OPERATOR)
            assert not wait.done()
            done.touch()
            record = await wait
            assert record.state == "succeeded"
            assert record.output is not None
            assert record.output.stdout == b"same\n"
            assert [each.attempt for each in record.attempts] == [1]
            told = await mesh.cli("events", "kind:command", "--output", "jsonl", "--since", "10m")
            assert "unknown" not in told.out, told.out

            thief = await connect_raw(broker.issue("system", "thief"))
            victim = broker.issue("viewer", "victim")
            claims = accounts._account_claims({victim.user: int(time.time()) + 60})
            at = int(time.time()) + 10
            stolen = encode_jwt(claims, old_key, issued_at=at)
            await push(thief, stolen)
            assert await comes_back(victim), "an account token of the old key has no effect"
            new_key = open_mesh(mesh.state_dir, renews=False).accounts.signing_key(OPERATOR)
            assert new_key.public != old_key.public
            await push(thief, encode_jwt(claims, new_key, issued_at=at + 1))
            assert not await comes_back(victim)
            await thief.close()


async def test_sec_s27_system_key_is_replaced_and_its_thief_is_dropped(
    mesh: MeshProcesses,
) -> None:
    broker = issuer(mesh)
    credentials = broker.issue("system", "thief")
    thief = await connect_raw(credentials)
    async with mesh.client() as admin:
        for step in ("prepare", "activate", "taint"):
            await take(admin, step, key="system")
        assert thief.is_connected
        before = connections_of(mesh)
        await take(admin, "revoke", key="system")
        await eventually(lambda: thief.is_closed)
        assert not await comes_back(credentials)
        # The master's own goes on: it cuts the connections that it revokes.
        robbed = await client_of(mesh, "robbed", "viewer", directory=mesh.directory / "clients")
        assert (await mesh.cli("client", "revoke", "robbed")).code == 0
        assert (await mesh.cli("status", context=robbed)).code == 77
        await works(admin)
        assert connections_of(mesh) == before


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
