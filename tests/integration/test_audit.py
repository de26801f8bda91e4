"""The audit trail: who did what to what, from where, when, and what came of it."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from broker_client.api import MeshClient
from broker_client.runtime.identity import new_identity
from schemas.messages.api import (
    AgentCreate,
    AgentDisable,
    AuditPage,
    AuditQuery,
    AuditRecord,
    Done,
    GroupCreate,
    GroupRecord,
    NameQuery,
    TokenAnswer,
)
from schemas.moments import parse_rfc3339
from tests.harness import MeshProcesses
from tests.meshes import (
    ask_raw,
    behind,
    client_of,
    fault,
    issuer,
    mesh_fixture,
    raw,
    refused,
    state_reached,
)
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-audit")]

SEEN_S = 60.0


mesh = mesh_fixture({"web": ("web-1",), "db": ()})


async def trail(admin: MeshClient, **wanted: Any) -> list[AuditRecord]:  # noqa: ANN401  AuditQuery's
    """Matching entries, the newest first, page by page."""
    found: list[AuditRecord] = []
    cursor = None
    while True:
        query = AuditQuery(**wanted, cursor=cursor)
        page = await admin.ask("audit", "list", query, AuditPage)
        found += page.entries
        cursor = page.cursor
        if cursor is None:
            return found


async def until_told(admin: MeshClient, **wanted: Any) -> AuditRecord:  # noqa: ANN401  AuditQuery's
    async with asyncio.timeout(SEEN_S):
        while not (found := await trail(admin, **wanted)):
            await asyncio.sleep(0.05)
    return found[0]


async def test_every_changing_call_is_audited_with_caller_action_target_host_and_time(
    admin: MeshClient,
) -> None:
    """And is so by the time of its answer."""
    began = time.time()
    await admin.ask("group", "create", GroupCreate(name="told"), GroupRecord)
    await admin.ask("agent", "create", AgentCreate(name="told-1", group="told"), TokenAnswer)
    await admin.ask("agent", "token", AgentCreate(name="told-1"), TokenAnswer)
    await admin.ask("agent", "disable", AgentDisable(name="told-1", now=True), Done)
    await admin.ask("agent", "disable", AgentDisable(name="told-1"), Done)
    await admin.ask("agent", "enable", NameQuery(name="told-1"), Done)
    await admin.ask("agent", "revoke", NameQuery(name="told-1"), Done)
    await admin.ask("agent", "delete", NameQuery(name="told-1"), Done)
    await admin.ask("group", "delete", NameQuery(name="told"), Done)
    found = [*reversed(await trail(admin, group="told"))]
    assert [(entry.action, entry.target, entry.result) for entry in found] == [
        ("group.create", "told", "done"),
        ("agent.create", "told-1", "done"),
        ("agent.token", "told-1", "done"),
        ("agent.disable", "told-1", "done"),
        ("agent.disable", "told-1", "unchanged"),
        ("agent.enable", "told-1", "done"),
        ("agent.revoke", "told-1", "done"),
        ("agent.delete", "told-1", "done"),
        ("group.delete", "told", "done"),
    ]
    assert {(entry.by, entry.actor, entry.address) for entry in found} == {
        ("admin", "client", "127.0.0.1")
    }
    moments = [parse_rfc3339(entry.at) for entry in found]
    assert moments == sorted(moments)
    assert began - 1 <= moments[0] <= moments[-1] <= time.time() + 1
    assert "now=True" in found[3].detail


async def test_decision_on_a_command_is_audited_and_its_submission_is_not(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    await mesh.wait_status("web-1", "active")
    given = await admin.submit(["sleep", "60"], group="web")
    await state_reached(admin, given.id, "running")
    await admin.cancel(given.id)
    await admin.wait(given.id, timeout_s=PATIENCE_S)
    found = await trail(admin, target=given.id)
    assert [(entry.action, entry.by, entry.group) for entry in found] == [
        ("command.cancel", "admin", "web")
    ]


async def test_refused_call_is_audited_with_its_code(admin: MeshClient) -> None:
    with refused("agent_unknown"):
        await admin.ask("agent", "revoke", NameQuery(name="nobody"), Done)
    told = (await trail(admin, target="nobody"))[0]
    assert (told.action, told.result, told.code) == ("agent.revoke", "refused", "agent_unknown")


async def test_forbidden_calls_are_audited_but_no_flood_of_them(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    """Past the broker, which would refuse it first, with the role of somebody else's key."""
    await client_of(mesh, "mallory", "viewer", "db", directory=mesh.directory)
    async with raw(issuer(mesh).issue("admin", "mallory")) as client:
        codes = {
            fault(await ask_raw(client, "mallory", "agent", "delete", {"name": "web-1"})).code
            for _ in range(50)
        }
        body = {"group": "web", "args": {"argv": ["true"]}}
        codes.add(fault(await ask_raw(client, "mallory", "command", "submit", body)).code)
    assert codes == {"forbidden"}
    told = await until_told(admin, by="mallory", result="refused")
    assert (told.actor, told.code) == ("client", "forbidden")
    assert 1 <= len(await trail(admin, by="mallory", action="agent.delete")) < 50


async def test_enrolment_and_refused_enrolment_are_audited_with_the_host(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    await mesh.add_agent("fresh-1", group="web", start=False)
    told = await until_told(admin, action="agent.enrol", target="fresh-1")
    assert (told.by, told.actor, told.result) == ("fresh-1", "token", "done")
    assert told.address == "127.0.0.1"
    assert told.detail.startswith("certificate ")
    bearer = issuer(mesh).issue("enrol", "fresh-1")
    keys = new_identity("fresh-1")
    async with raw(bearer) as client:
        request = {"secret": b"x" * 32, "csr_pem": keys.csr_pem.decode(), "user_nkey": keys.user}
        answer = await client.request(
            "mesh.v1.enrol.fresh-1", msgspec.msgpack.encode(request), timeout=60
        )
    assert fault(answer).code == "token_invalid"
    told = await until_told(admin, action="agent.enrol", target="fresh-1", result="refused")
    assert (told.code, told.actor) == ("token_invalid", "token")


async def test_revocation_is_audited_with_its_caller(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    agent = await mesh.add_agent("gone-1", group="db", slots=1)
    await admin.ask("agent", "revoke", NameQuery(name="gone-1"), Done)
    told = await until_told(admin, action="agent.revoke", target="gone-1")
    assert (told.by, told.result) == ("admin", "done")
    agent.kill()


async def test_list_narrows_down_and_comes_in_pages(admin: MeshClient) -> None:
    for number in range(7):
        with refused("group_unknown"):
            await admin.ask("group", "delete", NameQuery(name=f"page-{number}"), Done)
    first = await admin.ask("audit", "list", AuditQuery(action="group.delete", limit=3), AuditPage)
    assert [entry.target for entry in first.entries] == ["page-6", "page-5", "page-4"]
    assert first.cursor is not None
    query = AuditQuery(action="group", limit=4, cursor=first.cursor)
    second = await admin.ask("audit", "list", query, AuditPage)
    assert [entry.target for entry in second.entries] == ["page-3", "page-2", "page-1", "page-0"]
    newest = parse_rfc3339(first.entries[0].at)
    assert await trail(admin, action="group.delete", since=newest + 0.002) == []
    assert await trail(admin, target="page-6", until=newest - 0.002) == []
    assert await trail(admin, by="nobody") == []


async def test_client_of_groups_sees_what_concerns_them_and_no_operator_sees_any(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    limited = await client_of(mesh, "db-admin", "admin", "db", directory=mesh.directory)
    async with mesh.client(limited) as client:
        await client.ask("agent", "create", AgentCreate(name="db-9", group="db"), TokenAnswer)
        found = await trail(client)
    assert {entry.group for entry in found} == {"db"}
    operator = await client_of(mesh, "ops", "operator", directory=mesh.directory)
    async with mesh.client(operator) as client:
        with refused("forbidden"):
            await trail(client)


async def test_trail_outlives_a_restart_and_cannot_be_deleted(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    before = await trail(admin)
    await mesh.restart_master()
    await admin.link.wait_connected(SEEN_S)
    async with asyncio.timeout(SEEN_S):
        while len(await trail(admin, action="master.started")) < 2:
            await asyncio.sleep(0.05)
    kept = {entry.seq: entry for entry in await trail(admin)}
    assert [entry for entry in before if kept.get(entry.seq) != entry] == []
    async with behind(mesh) as raw_master:
        for verb, body in (("PURGE", b""), ("MSG.DELETE", b'{"seq":1}')):
            subject = f"$JS.API.STREAM.{verb}.MESH_AUDIT"
            answer = await raw_master.client.request(subject, body, timeout=60)
            assert b'"error"' in answer.data


async def test_command_line_fits_80_columns_and_speaks_json(mesh: MeshProcesses) -> None:
    ran = await mesh.cli("audit", "list", "--limit", "20")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert {"AT", "BY", "ACTION", "TARGET", "RESULT"} <= set(lines[0].split())
    assert len(lines) > 5
    assert max(map(len, lines)) <= 80
    ran = await mesh.cli(
        *("audit", "list", "--action", "agent", "--result", "done", "--since", "1h"),
        *("--by", "admin", "--output", "json"),
    )
    assert ran.code == 0, ran.err
    assert ran.json
    assert {entry["action"].partition(".")[0] for entry in ran.json} == {"agent"}
    assert {"seq", "at", "by", "address", "action", "target", "result"} <= set(ran.json[0])
    assert (await mesh.cli("audit", "list", "--since", "yesterday")).code == 2
