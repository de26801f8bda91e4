"""Certificates in view, renewed by whoever holds them, and compared with what was issued."""

import asyncio
import dataclasses
import os
import ssl
import time
from datetime import datetime
from pathlib import Path

import pytest

from broker_client.api import MeshClient
from broker_client.runtime.context import read_context
from broker_client.runtime.context_files import ContextFiles
from broker_client.runtime.tls import CertificateFacts, certificate_facts
from schemas.messages.api import (
    AuditPage,
    AuditQuery,
    CertificateList,
    CertificatesAnswer,
    HoldingRecord,
    NoQuery,
    StatusAnswer,
)
from tests.harness import MeshProcesses
from tests.meshes import client_of, issuer, mesh_fixture, raw
from tests.servers import connect_raw
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-certificates")]

PATIENCE_S = 60.0
DAY_S = 86_400.0
SHORT: dict[str, str] = {
    "MESH_CERTIFICATES__COMPARE_S": "0.5",
    "MESH_CERTIFICATES__AGENT_DAYS": "20",
}


mesh = mesh_fixture({"web": ("web-1",), "db": ("db-1",)}, master_env=SHORT)


async def listed(client: MeshClient, **wanted: object) -> list[HoldingRecord]:
    query = CertificateList(**wanted)  # type: ignore[arg-type]
    answer = await client.ask("certificate", "list", query, CertificatesAnswer)
    return answer.certificates


async def alarms(client: MeshClient, action: str) -> list[str]:
    page = await client.ask("audit", "list", AuditQuery(action=action), AuditPage)
    return [each.detail for each in page.entries]


async def test_all_kinds_are_listed_with_their_exact_ends(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    found = await listed(admin)
    assert {each.kind for each in found} == {"agent", "client", "broker", "master", "authority"}
    ends = [each.not_after for each in found]
    assert ends == sorted(ends)
    web = next(each for each in found if each.name == "web-1")
    slot = mesh.agent_dir("web-1") / "identity" / "current" / "cert.pem"
    facts = certificate_facts(slot.read_bytes())
    assert web.serial == facts.serial
    assert datetime.fromisoformat(web.not_after).timestamp() == facts.not_after
    assert web.not_after.endswith("Z")
    assert web.days_left == pytest.approx((facts.not_after - time.time()) / DAY_S, abs=0.02)
    assert (web.group, web.warning, web.authority) == ("web", "", 1)


async def test_expiring_and_pages_narrow_the_list(mesh: MeshProcesses, admin: MeshClient) -> None:
    soon = await listed(admin, expiring_s=30 * DAY_S)
    assert {each.name for each in soon} == {"web-1", "db-1"}
    everything = await listed(admin)
    paged: list[HoldingRecord] = []
    cursor: str | None = None
    while True:
        query = CertificateList(limit=2, cursor=cursor)
        answer = await admin.ask("certificate", "list", query, CertificatesAnswer)
        paged += answer.certificates
        cursor = answer.cursor
        if cursor is None:
            break
    assert [each.serial for each in paged] == [each.serial for each in everything]
    ran = await mesh.cli("certificate", "list", "--expiring", "30d", "--output", "json")
    assert {each["name"] for each in ran.json} == {"web-1", "db-1"}
    ran = await mesh.cli("certificate", "list")
    assert "web-1" in ran.out
    assert all(len(line) <= 80 for line in ran.out.splitlines())
    ran = await mesh.cli("ca", "show")
    assert "authority" in ran.out
    assert all(len(line) <= 80 for line in ran.out.splitlines())


async def test_caller_limited_to_a_group_sees_no_other(mesh: MeshProcesses, tmp_path: Path) -> None:
    context = await client_of(mesh, "webby", "viewer", "web", directory=tmp_path)
    async with mesh.client(context) as client:
        names = {each.name for each in await listed(client) if each.kind in ("agent", "client")}
    assert names == {"web-1", "webby"}


async def test_client_renews_itself_and_works_on_in_place(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    path = await client_of(mesh, "ops", "operator", directory=tmp_path)
    files = ContextFiles(read_context(path))
    async with mesh.client(path) as client:
        before = (files.claims(), client.link.reconnects)
        running = asyncio.create_task(client.run(["sleep", "0.5"], group="web"))
        until = await client.renew()
        assert (await running).state == "succeeded"
        assert client.link.reconnects == before[1]
        await client.ask("mesh", "status", NoQuery(), StatusAnswer)
    after = files.claims()
    assert after.user != before[0].user
    assert datetime.fromisoformat(until).timestamp() == after.expires_at
    shown = next(each for each in await listed(admin) if each.name == "ops")
    facts = certificate_facts((path.parent / "cert.pem").read_bytes())
    assert (shown.serial, facts.not_after) == (facts.serial, after.expires_at)
    names = {each.name for each in path.parent.iterdir()}
    assert names == {"cert.pem", "key.pem", "ca.pem", "user.creds", "context.toml"}
    assert (await mesh.cli("status", context=path)).code == 0
    assert (await mesh.cli("client", "renew", context=path)).code == 0
    assert (await mesh.cli("client", "revoke", "ops")).code == 0
    assert (await mesh.cli("status", context=path)).code == 77


async def test_command_line_renews_by_itself_when_two_thirds_are_over(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    path = await client_of(mesh, "cron", "viewer", directory=tmp_path)
    files = ContextFiles(read_context(path))
    async with mesh.client(path) as client:
        await client.renew()
    first = files.claims()
    ran = await mesh.cli("status", context=path)
    assert files.claims() == first, "not due"
    # As it will be when it was last looked at long ago, and told that its key is to be replaced.
    for step in ("prepare", "activate", "taint"):
        assert (await mesh.cli("ca", "rotate", step, "--key", "viewer")).code == 0
    long_ago = time.time() - 2 * 3600
    os.utime(path.parent / "ca.pem", (long_ago, long_ago))
    ran = await mesh.cli("status", context=path)
    assert ran.code == 0, ran.err
    assert files.claims().issuer != first.issuer
    ran = await mesh.cli("ca", "show", "--output", "json")
    viewer = next(each for each in ran.json["rotations"] if each["key"] == "viewer")
    assert "client cron" not in viewer["waiting_for"]


async def test_brokers_certificate_is_replaced_and_nobody_is_dropped(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    first = await served_certificate(mesh)
    reconnects = admin.link.reconnects
    await mesh.cli("ca", "rotate", "prepare")
    await admin.renew()
    ran = await mesh.cli("ca", "rotate", "activate", "--force")
    assert ran.code == 0, ran.err
    second = await served_certificate(mesh)
    assert second.serial != first.serial
    assert admin.link.reconnects == reconnects
    record = await admin.run(["true"], agent="web-1", timeout_s=PATIENCE_S)
    assert record.state == "succeeded"


async def served_certificate(mesh: MeshProcesses) -> CertificateFacts:
    """Certificate that the broker shows to a new connection."""
    host, port = mesh.nats_url.removeprefix("tls://").rsplit(":", 1)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        await reader.readline()
        await writer.start_tls(context)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    return certificate_facts(ssl.DER_cert_to_PEM_cert(shown).encode())


# -- S27: what this mesh has not issued


async def test_sec_s27_token_issued_outside_the_registry_is_an_alarm(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    stolen = issuer(mesh).issue("viewer", "ghost")
    async with raw(stolen):
        async with asyncio.timeout(PATIENCE_S):
            while not any("ghost" in each for each in await alarms(admin, "connection")):
                await asyncio.sleep(0.05)


async def test_token_with_the_certificate_of_another_is_cut_off(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    slot = mesh.agent_dir("db-1") / "identity" / "current"
    mixed = issuer(mesh).issue("agent", "web-1", "web")
    context = ssl.create_default_context(cafile=str(slot / "ca.pem"))
    context.load_cert_chain(slot / "cert.pem", slot / "key.pem")
    client = await connect_raw(dataclasses.replace(mixed, context=context))
    await eventually(lambda: client.is_closed, PATIENCE_S)
    found = await alarms(admin, "connection")
    assert any("certificate of db-1" in each for each in found), found
    # Who has both of one holder is left alone.
    assert {each.name for each in await listed(admin)} >= {"web-1", "db-1"}
    record = await admin.run(["true"], agent="db-1", timeout_s=PATIENCE_S)
    assert record.state == "succeeded"
