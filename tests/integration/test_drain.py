"""Agents are emptied, paused, stopped, deleted and forgotten without anything being lost by it."""

import asyncio
import json
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from broker_client.api import MeshClient
from schemas.messages.actions import NoopArgs
from schemas.messages.api import (
    AgentDisable,
    AgentPause,
    AgentRecord,
    AuditPage,
    AuditQuery,
    Done,
    NameQuery,
)
from schemas.messages.facts import CommandRecord
from schemas.moments import parse_rfc3339
from tests.harness import FAST_TIMERS, MeshProcesses
from tests.meshes import mesh_fixture, refused, state_reached, until

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-drain")]

LOST_S: Final = float(FAST_TIMERS["MESH_TIMERS__LOST_S"])
FLEET: Final = ("a1", "a2", "a3", "a4")
SLOTS: Final = 8
RATE: Final = 200
LOAD_S: Final = 5.0
SETTLED_S: Final = 60.0
EMPTY_S: Final = 60.0
OVER: Final = "its pause is over, set by admin"


mesh = mesh_fixture({"fleet": FLEET, "web": ("w1",), "db": ()}, slots=SLOTS)


async def shown(admin: MeshClient, name: str) -> AgentRecord:
    return await admin.ask("agent", "show", NameQuery(name=name), AgentRecord)


async def told_of_enabling(admin: MeshClient, name: str, detail: str) -> None:
    query = AuditQuery(action="agent.enable", target=name, limit=1)
    async with asyncio.timeout(SETTLED_S):
        while True:
            page = await admin.ask("audit", "list", query, AuditPage)
            if [entry.detail for entry in page.entries] == [detail]:
                return
            await asyncio.sleep(0.1)


async def wait_gone(admin: MeshClient, name: str) -> None:
    async with asyncio.timeout(LOST_S + SETTLED_S):
        while name in {agent.agent for agent in await admin.agents()}:
            await asyncio.sleep(0.05)


# -- the whole group under load


class Load:
    """Commands at a steady rate, none of which may fail: most do nothing, each tenth runs on."""

    def __init__(self, admin: MeshClient) -> None:
        self._admin = admin
        self._ids: list[str] = []

    async def run(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as group:
            for number in range(int(RATE * seconds)):
                await asyncio.sleep(max(0.0, began + number / RATE - loop.time()))
                work = ["sleep", "0.3"] if number % 20 == 0 else NoopArgs()
                group.create_task(self._submit(work))

    async def _submit(self, work: list[str] | NoopArgs) -> None:
        self._ids.append((await self._admin.submit(work, group="fleet")).id)

    async def records(self) -> list[CommandRecord]:
        return [await self._admin.wait(each, timeout_s=SETTLED_S) for each in self._ids]


async def test_draining_three_of_four_under_load_fails_nothing(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    """One is disabled, one paused, one told to stop as a service manager does."""
    for name in FLEET:
        await mesh.wait_status(name, "active")
    load = Load(admin)
    running = asyncio.create_task(load.run(LOAD_S))
    await asyncio.sleep(LOAD_S / 5)
    await admin.ask("agent", "disable", AgentDisable(name="a1"), Done)
    disabled_at = time.time()
    await admin.ask("agent", "pause", AgentPause(name="a2", for_s=600, note="new disk"), Done)
    mesh.agents["a3"].signal(signal.SIGTERM)
    assert await mesh.agents["a3"].wait(EMPTY_S) == 0
    await running
    records = await load.records()
    assert len(records) == RATE * LOAD_S
    assert [record for record in records if record.state != "succeeded"] == []
    shares = Counter(record.attempts[-1].agent for record in records)
    assert set(shares) == set(FLEET), shares
    # What was refused by an agent that was stopping has run elsewhere, never twice.
    for record in records:
        assert all(each.started_at is None for each in record.attempts[:-1]), record
    began_on_a1 = [
        parse_rfc3339(attempt.accepted_at)
        for record in records
        for attempt in record.attempts
        if attempt.agent == "a1" and attempt.accepted_at
    ]
    # Only attempts that were assigned before, and on their way.
    assert len([each for each in began_on_a1 if each > disabled_at]) <= SLOTS
    for name, state in (("a1", "disabled"), ("a2", "paused")):
        agent = await shown(admin, name)
        assert (agent.admin, agent.status, agent.tasks_left) == (state, "disabled", 0)
        await admin.ask("agent", "enable", NameQuery(name=name), Done)
    assert (await mesh.wait_status("a3", "no_response")).reason == "shut down"
    await mesh.agents["a3"].start()
    await mesh.wait_status("a3", "active")


# -- one agent


async def test_draining_shows_what_is_left_and_waits_until_it_is_empty(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    running = await admin.submit(until(tmp_path / "gate"), agent="w1")
    await state_reached(admin, running.id, "running")
    late = await mesh.cli("agent", "disable", "w1", "--note", "new disk", "--within", "0.2s")
    assert late.code == 4, late.err
    assert "agent w1 is not empty yet: 1 left" in late.err
    left = await shown(admin, "w1")
    assert (left.admin, left.status, left.tasks_left) == ("draining", "disabled", 1)
    assert (left.reason, left.by) == ("disabled by admin (new disk), 1 task left", "admin")
    waiting = asyncio.create_task(mesh.cli("agent", "disable", "w1", "--wait"))
    done, _ = await asyncio.wait({waiting}, timeout=2.0)
    assert not done
    (tmp_path / "gate").touch()
    ran = await waiting
    assert (ran.code, ran.err.splitlines()[-1]) == (0, "mesh: w1: 0 tasks left")
    assert (await admin.show(running.id)).state == "succeeded"
    empty = await shown(admin, "w1")
    assert (empty.admin, empty.reason) == ("disabled", "disabled by admin (new disk), live")
    with refused("agent_disabled"):
        await admin.ask("agent", "pause", AgentPause(name="w1", for_s=1), Done)
    await admin.ask("agent", "enable", NameQuery(name="w1"), Done)


async def test_pause_says_who_why_and_until_when_and_ends_by_itself(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    ran = await mesh.cli("agent", "pause", "w1", "--for", "2h", "--note", "new disk")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("agent w1 paused until ")
    paused = await shown(admin, "w1")
    assert (paused.status, paused.admin, paused.note) == ("disabled", "paused", "new disk")
    assert paused.reason == "paused by admin (new disk), live"
    assert paused.until is not None
    assert paused.next == f"enabled at {paused.until}, or before: mesh agent enable w1"
    # Paused again, it keeps its note and gets another end.
    await admin.ask("agent", "pause", AgentPause(name="w1", for_s=1.0), Done)
    shortened = await shown(admin, "w1")
    queued = await admin.submit(["true"], agent="w1")
    assert (await admin.wait(queued.id, timeout_s=SETTLED_S)).state == "succeeded"
    ended = await shown(admin, "w1")
    assert (ended.status, ended.admin, ended.until) == ("active", "enabled", None)
    await told_of_enabling(admin, "w1", OVER)
    started_at = (await admin.show(queued.id)).attempts[0].started_at
    assert started_at is not None
    if shortened.until is not None:  # else it was over before we could look
        assert shortened.note == "new disk"
        assert parse_rfc3339(started_at) >= parse_rfc3339(shortened.until)


async def test_second_sigterm_ends_at_once_what_the_first_lets_finish(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    agent = mesh.agents["w1"]
    await mesh.wait_status("w1", "active")
    running = await admin.submit(["sleep", "60"], agent="w1")
    await state_reached(admin, running.id, "running")
    agent.signal(signal.SIGTERM)
    async with asyncio.timeout(SETTLED_S):
        while not (await shown(admin, "w1")).badges:
            await asyncio.sleep(0.05)
    draining = await shown(admin, "w1")
    assert draining.badges == ["draining"]
    assert draining.reason == "stopping: takes no new work, 1 task left"
    assert agent.is_running
    agent.signal(signal.SIGTERM)
    assert await agent.wait(EMPTY_S) == 0
    # What it could not report any more waits on its disk for the next start.
    await agent.start()
    await mesh.wait_status("w1", "active")
    await state_reached(admin, running.id, "cancelled")


async def test_agent_moves_to_another_group_with_its_identity_and_history(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    agent = await mesh.add_agent("mover", group="web", slots=2)
    before = await mesh.wait_status("mover", "active")
    await admin.run(["true"], agent="mover", timeout_s=SETTLED_S)
    running = await admin.submit(until(tmp_path / "gate"), agent="mover")
    await state_reached(admin, running.id, "running")
    await admin.submit(["true"], id="asked-twice", agent="mover")
    late = await mesh.cli("agent", "move", "mover", "--group", "db", "--within", "0.5s")
    assert (late.code, "has not moved yet: takes no new work, 1 task left" in late.err) == (4, True)
    leaving = await shown(admin, "mover")
    assert (leaving.group, leaving.next) == ("web", "moves to group db once none is left")
    waiting = await admin.submit(["true"], agent="mover")
    (tmp_path / "gate").touch()
    moved = await mesh.cli("agent", "move", "mover", "--group", "db", "--wait")
    assert moved.code == 0, moved.err
    assert (await admin.show(running.id)).state == "succeeded"
    assert (await admin.wait(waiting.id, timeout_s=SETTLED_S)).state == "succeeded"
    after = await shown(admin, "mover")
    assert (after.group, after.status, after.details.pid) == ("db", "active", before.details.pid)
    assert (await admin.submit(["true"], id="asked-twice", agent="mover")).duplicate
    assert before.certificate is not None
    assert after.certificate is not None
    assert after.certificate.serial != before.certificate.serial
    assert (await admin.run(["true"], group="db", timeout_s=SETTLED_S)).attempts[0].agent == "mover"
    commands = json.loads(
        (await mesh.cli("command", "list", "--agent", "mover", "--output", "json")).out
    )
    assert {running.id, waiting.id} <= {each["id"] for each in commands}
    # It is the same after a restart of either side.
    await agent.stop()
    await mesh.restart_master()
    await agent.start()
    assert (await mesh.wait_status("mover", "active")).group == "db"
    agent.kill()
    async with mesh.client() as again:
        await again.ask("agent", "delete", NameQuery(name="mover"), Done)


# -- the end of an agent


async def test_task_of_a_deleted_agent_is_lost_only_when_it_cannot_run_any_more(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    """Its credentials are gone at once; what it runs ends by its lease, and is given up after."""
    agent = await mesh.add_agent("leaver", group="db", slots=2)
    await mesh.wait_status("leaver", "active")
    alive = tmp_path / "alive"
    script = f"while :; do date +%s.%N >> {alive}; sleep 0.05; done"
    running = await admin.submit(["sh", "-c", script], agent="leaver")
    await state_reached(admin, running.id, "running")
    done = await admin.ask("agent", "delete", NameQuery(name="leaver"), Done)
    assert "gone once 1 task of it cannot run any more" in done.message
    assert (await admin.show(running.id)).state in ("running", "unknown")
    leaving = await shown(admin, "leaver")
    assert (leaving.admin, leaving.status) == ("deleted", "disabled")
    assert leaving.reason == "deleted by admin, 1 task of it may still run"
    with refused("agent_leaving"):
        await admin.ask("agent", "enable", NameQuery(name="leaver"), Done)
    with refused("agent_revoked"):
        await admin.submit(["true"], agent="leaver")
    ran = await mesh.cli("agent", "create", "leaver", "--group", "db")
    assert (ran.code, "agent_leaving" in ran.err) == (75, True)
    lost = await admin.wait(running.id, timeout_s=LOST_S + SETTLED_S)
    assert lost.state == "lost"
    ended_at = lost.attempts[0].ended_at
    assert ended_at is not None
    assert float(alive.read_text().split()[-1]) < parse_rfc3339(ended_at)
    await wait_gone(admin, "leaver")
    agent.kill()
    assert (await mesh.cli("agent", "create", "leaver", "--group", "db")).code == 0


async def test_deleted_agent_is_remembered_over_a_restart_while_its_task_may_run(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    agent = await mesh.add_agent("frozen", group="db", slots=2)
    await mesh.wait_status("frozen", "active")
    running = await admin.submit(["sleep", "60"], agent="frozen")
    await state_reached(admin, running.id, "running")
    agent.signal(signal.SIGSTOP)
    try:
        await admin.ask("agent", "delete", NameQuery(name="frozen"), Done)
        await mesh.restart_master(kill=True)
        async with mesh.client() as again:
            assert (await shown(again, "frozen")).admin == "deleted"
            assert (await again.show(running.id)).state not in ("lost", "cancelled")
            lost = await again.wait(running.id, timeout_s=LOST_S + SETTLED_S)
            assert lost.state == "lost"
            await wait_gone(again, "frozen")
    finally:
        agent.kill()


async def test_agents_silent_for_long_are_listed_first_and_forgotten_on_demand(
    mesh: MeshProcesses,
) -> None:
    agent = await mesh.add_agent("old", group="db", slots=1)
    await mesh.wait_status("old", "active")
    agent.kill()
    ran = await mesh.cli("agent", "forget", "--silent-for", "0.1s")
    assert (ran.code, "lost_s" in ran.err) == (2, True)
    wanted = ("agent", "forget", "--silent-for", "4s", "--group", "db", "--output", "json")
    async with asyncio.timeout(LOST_S + SETTLED_S):
        while not (found := (await mesh.cli(*wanted)).json)["agents"]:
            await asyncio.sleep(0.2)
    assert [each["agent"] for each in found["agents"]] == ["old"]
    assert not found["applied"]
    # A master that never heard it knows since when it has been silent.
    await mesh.restart_master()
    for name in (*FLEET, "w1"):
        await mesh.wait_status(name, "active")
    table = await mesh.cli("agent", "forget", "--silent-for", "4s")
    assert table.code == 0
    assert [line.split()[0] for line in table.out.splitlines()] == ["AGENT", "old"]
    assert "nothing is deleted yet: add --yes" in table.err
    assert (await mesh.cli(*wanted)).json["agents"] == found["agents"]
    assert (await mesh.cli("agent", "show", "old")).code == 0
    applied = (await mesh.cli(*wanted, "--yes")).json
    assert (applied["applied"], len(applied["agents"])) == (True, 1)
    assert (await mesh.cli("agent", "show", "old")).code == 3
