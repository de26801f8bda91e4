"""One member that says far too much, for twenty seconds, and how the others fare (row S11)."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker_client.api import MeshClient
from schemas.messages.actions import ProcessArgs
from schemas.messages.api import (
    GroupCreate,
    GroupRecord,
)
from tests.floods import FLOODS, flood
from tests.harness import MeshProcesses
from tests.meshes import client_of, mesh_fixture
from tests.storms import LOUD, LOUD_GROUP, STORMS, Fared, entries, fare, harmed, raging, rss_mb

pytestmark = [pytest.mark.chaos, pytest.mark.serial]

STORM_S = float(os.environ.get("MESH_STORM_S", "20"))
OTHERS = ("web-1", "web-2")
QUOTA = 8 * 1024 * 1024
# The fast timers of all tests; and output is counted more often, and sooner too much.
SETTINGS = {
    "MESH_LIMITS__LOG_BYTES": str(10 * QUOTA),
    "MESH_LIMITS__LOG_BYTES_PER_AGENT": str(QUOTA),
    "MESH_LIMITS__LOG_LOOK_S": "1",
}


async def _add_loud(mesh: MeshProcesses) -> None:
    await mesh.add_group(LOUD_GROUP)
    await mesh.add_agent(LOUD, group=LOUD_GROUP, start=False)


mesh = mesh_fixture({"web": OTHERS}, master_env=SETTINGS, scope="function", prepare=_add_loud)


@pytest.fixture
async def admin(mesh: MeshProcesses) -> AsyncIterator[MeshClient]:
    async with mesh.client() as client:
        yield client


async def deeds(admin: MeshClient, name: str) -> list[str]:
    """Changes by others, which belong into the audit trail."""
    made = []
    for number in range(10):
        made.append(f"{name}-{number}")
        await admin.ask("group", "create", GroupCreate(name=made[-1]), GroupRecord)
        await asyncio.sleep(STORM_S / 12)
    return made


async def judge(
    mesh: MeshProcesses, admin: MeshClient, name: str, quiet: Fared, fared: Fared, made: list[str]
) -> None:
    sys.stderr.write(
        f"{name}: p50 {quiet.p50_ms:.1f} -> {fared.p50_ms:.1f} ms,"
        f" p99 {quiet.p99_ms:.1f} -> {fared.p99_ms:.1f} ms"
        f" ({fared.p99_ms / quiet.p99_ms:.2f} x), {len(fared.latencies)} commands,"
        f" master {rss_mb(mesh.master.pid):.0f} MB\n"
    )
    assert await harmed(mesh, admin, mesh._metrics()) == []
    assert set(made) <= set(await entries(admin, "group.create"))
    # A quiet machine has hardly any slow commands: of few, the slowest are left to chance.
    assert fared.p99_ms < 2 * max(quiet.p99_ms, 10 * quiet.p50_ms)


@pytest.mark.parametrize("name", STORMS)
async def test_sec_s11_storm_of_an_agent(mesh: MeshProcesses, admin: MeshClient, name: str) -> None:
    printed = await admin.run(ProcessArgs(argv=["seq", "200000"]), agent="web-1", timeout_s=30)
    quiet = await fare(admin, STORM_S / 2, agent="web-2")
    async with raging(mesh, LOUD, name) as storm:
        running = asyncio.create_task(fare(admin, STORM_S, agent="web-2"))
        made = await deeds(admin, name)
        fared = await running
    assert storm.sent > STORM_S * STORMS[name].per_s / 3
    await judge(mesh, admin, name, quiet, fared, made)
    output = b"".join([part.data async for part in admin.logs(printed.id)])
    assert output.endswith(b"200000\n")
    assert len(output) == printed.stdout_bytes


@pytest.fixture
async def loud(mesh: MeshProcesses, tmp_path: Path) -> Path:
    return await client_of(mesh, "loud", "operator", directory=tmp_path)


@pytest.mark.parametrize("name", FLOODS)
async def test_sec_s11_storm_of_a_client(
    mesh: MeshProcesses, admin: MeshClient, loud: Path, name: str
) -> None:
    quiet = await fare(admin, STORM_S / 2, agent="web-2")
    running = asyncio.create_task(fare(admin, STORM_S, agent="web-2"))
    storm = asyncio.create_task(flood(loud, name))
    made = await deeds(admin, name)
    fared = await running
    refused = await storm
    assert set(refused) <= {"queue_full", "rate_limited", "no_answer"}
    await judge(mesh, admin, name, quiet, fared, made)
