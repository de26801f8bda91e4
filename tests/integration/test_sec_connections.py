"""Row S33 of the threat table: nobody is believed before his connection was compared."""

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest

from broker_client.api import MeshClient
from broker_client.runtime.context import context_identity, read_context
from broker_client.runtime.identity import read_identity
from schemas import codec, subjects
from schemas.messages.api import AgentRecord, AuditPage, AuditQuery, CommandList, NameQuery
from schemas.messages.liveness import Details, Hello
from tests.harness import MeshProcesses
from tests.meshes import LONG_LEASE, client_of, mesh_fixture
from tests.rawlink import RawLink, pub
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-connections")]

ROUNDS = 25
# A broker that was killed, both links and all agents come back within this, on a busy machine too.
PATIENCE_S = 60.0
# Nothing here is found by looking at all connections now and then.
SELDOM = {"MESH_CERTIFICATES__COMPARE_S": "600"}


# A broker may be away for longer than a fast lease lasts.
mesh = mesh_fixture({"web": ("web-1", "web-2")}, env=LONG_LEASE, master_env=SELDOM)


async def alarms(admin: MeshClient) -> list[str]:
    page = await admin.ask("audit", "list", AuditQuery(action="connection.mismatch"), AuditPage)
    return [each.detail for each in page.entries]


async def known(admin: MeshClient, ids: list[str]) -> list[str]:
    """Return the commands that the mesh has accepted."""
    page = await admin.list(CommandList(limit=200))
    return [record.id for record in page.commands if record.id in ids]


async def test_sec_s33_request_with_the_certificate_of_another_is_never_served(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    """Sent in the very packet that introduces its connection, again and again."""
    victim = context_identity(
        read_context(await client_of(mesh, "ops", "admin", directory=tmp_path))
    )
    thief = read_identity(mesh.agent_dir("web-2") / "identity" / "current")
    ids = [f"stolen-{number}" for number in range(ROUNDS)]
    for number, command in enumerate(ids):
        submit = {"id": command, "group": "web", "action": "process", "args": {"argv": ["true"]}}
        request = pub(
            subjects.api("ops", "command", "submit"),
            msgspec.msgpack.encode(submit),
            f"_INBOX_ops.{command}",
        )
        link = await RawLink.open(mesh.nats_url, thief.context, victim.creds.jwt, victim.creds.seed)
        await link.say(request)
        if number % 2:
            link.abort()  # gone before anybody could look
        else:
            await link.until_closed(PATIENCE_S)
            link.abort()
    assert any("certificate of web-2" in each for each in await alarms(admin))
    assert await known(admin, ids) == []
    # The same request from its owner is served.
    async with mesh.client(tmp_path / "ops" / "context.toml") as owner:
        assert (await owner.run(["true"], group="web", id=ids[0])).state == "succeeded"
    assert await known(admin, ids) == ids[:1]


async def test_sec_s33_owner_is_served_while_somebody_tries_his_token(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    path = await client_of(mesh, "dev", "operator", directory=tmp_path)
    victim = context_identity(read_context(path))
    thief = read_identity(mesh.agent_dir("web-2") / "identity" / "current")
    async with mesh.client(path) as owner:
        for _ in range(5):
            link = await RawLink.open(
                mesh.nats_url, thief.context, victim.creds.jwt, victim.creds.seed
            )
            await link.say(b"PING\r\n")
            await link.until_closed(PATIENCE_S)
            assert (await owner.run(["true"], group="web")).state == "succeeded"


async def test_sec_s33_words_of_an_agent_with_the_certificate_of_another_are_not_heard(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    victim = read_identity(mesh.agent_dir("web-1") / "identity" / "current")
    thief = read_identity(mesh.agent_dir("web-2") / "identity" / "current")
    hello = codec.encode(Hello(incarnation="evil", slots=1, details=Details(host="evil")))
    for _ in range(ROUNDS):
        link = await RawLink.open(mesh.nats_url, thief.context, victim.creds.jwt, victim.creds.seed)
        await link.say(pub(subjects.up("web", "web-1", "hello"), hello))
        await link.until_closed(PATIENCE_S)
        link.abort()
    record = await admin.ask("agent", "show", NameQuery(name="web-1"), AgentRecord)
    assert record.details.host != "evil"
    assert record.status == "active"
    assert (await admin.run(["true"], agent="web-1")).state == "succeeded"


async def test_sec_s33_fleet_is_served_again_after_the_broker_was_restarted(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    reconnects = admin.link.reconnects
    os.kill(mesh.broker_pid, signal.SIGKILL)
    await eventually(lambda: admin.link.reconnects > reconnects, PATIENCE_S)
    await admin.link.wait_connected(PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S):
        record = await admin.run(["true"], agent="web-1")
    assert record.state == "succeeded"
