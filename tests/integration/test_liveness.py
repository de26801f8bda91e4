"""The four statuses as users see them, with real agents that die, come back and are disabled."""

import asyncio
import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest

from broker_client.api import MeshClient
from broker_client.runtime.clock import SystemClock
from schemas import codec, subjects
from schemas.messages.api import AgentDisable, AgentRecord, Done, GroupRecord, NameQuery
from schemas.messages.liveness import PROTOCOL, Beat, Echo, Hello, Welcome
from schemas.moments import parse_rfc3339
from tests.children import Child
from tests.harness import FAST_TIMERS, MeshProcesses, program
from tests.meshes import issuer, mesh_fixture, raw, refused, state_reached, until
from tests.waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-liveness")]

LOST_S = float(FAST_TIMERS["MESH_TIMERS__LOST_S"])
SUSPECT_S = float(FAST_TIMERS["MESH_TIMERS__SUSPECT_S"])


mesh = mesh_fixture({"web": ("web-1",), "db": ()})


async def shown(admin: MeshClient, name: str = "web-1") -> AgentRecord:
    return await admin.ask("agent", "show", NameQuery(name=name), AgentRecord)


async def group(admin: MeshClient, name: str) -> GroupRecord:
    return await admin.ask("group", "show", NameQuery(name=name), GroupRecord)


async def test_new_agent_awaits_setup_until_its_first_handshake(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    agent = await mesh.add_agent("db-1", group="db", slots=3, start=False)
    waiting = await shown(admin, "db-1")
    assert (waiting.status, waiting.liveness) == ("awaiting_setup", "never")
    assert waiting.reason == "enrolled, not connected yet"
    assert (await group(admin, "db")).status == "inactive"
    assert (await group(admin, "db")).reason == "no agent is set up yet"
    await agent.start()
    active = await mesh.wait_status("db-1", "active")
    assert (active.liveness, active.slots, active.admin) == ("live", 3, "enabled")
    assert parse_rfc3339(active.since) >= parse_rfc3339(waiting.since)
    there = await group(admin, "db")
    assert (there.status, there.agents["active"]) == ("active", 1)


async def test_details_are_those_of_the_process_and_the_address_that_the_broker_sees(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not (record := await shown(admin)).details.ip:
            await asyncio.sleep(0.05)
    details = record.details
    assert (details.id, details.pid) == ("web-1", mesh.agents["web-1"].pid)
    assert details.host == os.uname().nodename
    assert details.user
    assert details.version
    ip, _, port = details.ip.partition(":")
    assert ip == "127.0.0.1"
    ours = _ports_of(mesh.agents["web-1"].pid)
    assert int(port) in ours
    assert 0 < details.uptime_s < 600
    assert record.certificate is not None
    assert 89 < record.certificate.days_left <= 90
    assert record.last_beat_at is not None


def _ports_of(pid: int) -> list[int]:
    return [each.laddr.port for each in psutil.Process(pid).net_connections("tcp")]


async def test_killed_agent_does_not_respond_and_comes_back_as_itself(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    agent = mesh.agents["web-1"]
    before = await mesh.wait_status("web-1", "active")
    incarnation = await _incarnation(mesh, "web-1")
    agent.kill()
    silent = await mesh.wait_status("web-1", "no_response")
    assert silent.reason == f"no beat for {SUSPECT_S:g} s"
    assert silent.next == "active again once it returns", "it has no task to be given up"
    assert parse_rfc3339(silent.since) > parse_rfc3339(before.since)
    assert (await group(admin, "web")).status == "inactive"
    async with asyncio.timeout(PATIENCE_S):
        while (lost := await shown(admin)).reason != f"lost: no beat for {LOST_S:g} s":
            await asyncio.sleep(0.05)
    assert (lost.status, lost.next) == ("no_response", "active again once it is started")
    assert lost.details.uptime_s == 0
    await agent.start()
    after = await mesh.wait_status("web-1", "active")
    assert after.certificate == before.certificate
    assert after.details.pid == agent.pid != before.details.pid
    assert await _incarnation(mesh, "web-1") != incarnation
    assert (await group(admin, "web")).status == "active"


async def _incarnation(mesh: MeshProcesses, name: str) -> str:
    state = ("--state-dir", str(mesh.agent_dir(name)), "--output", "json")
    ran = await mesh._run("broker-agent", "status", *state)
    assert ran.code == 0, ran.err
    return str(ran.json["incarnation"])


async def test_stopped_agent_says_goodbye_and_is_not_waited_for(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    agent = mesh.agents["web-1"]
    await mesh.wait_status("web-1", "active")
    assert await agent.stop() == 0
    silent = await mesh.wait_status("web-1", "no_response")
    assert (silent.reason, silent.next) == ("shut down", "active again once it is started")
    await agent.start()
    await mesh.wait_status("web-1", "active")


async def test_frozen_agent_is_suspect_and_recovers_by_itself(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    agent = mesh.agents["web-1"]
    await mesh.wait_status("web-1", "active")
    agent.signal(signal.SIGSTOP)
    try:
        await mesh.wait_status("web-1", "no_response")
    finally:
        agent.signal(signal.SIGCONT)
    await mesh.wait_status("web-1", "active")


async def test_disabled_agent_finishes_gets_nothing_new_and_is_enabled_again(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    await mesh.wait_status("web-1", "active")
    gate = tmp_path / "gate"
    running = await admin.submit(until(gate), group="web")
    await state_reached(admin, running.id, "running")
    await admin.ask("agent", "disable", AgentDisable(name="web-1"), Done)
    disabled = await mesh.wait_status("web-1", "disabled")
    async with asyncio.timeout(PATIENCE_S):  # how many run, its next beat says
        while disabled.reason != "disabled by admin, 1 task left":
            disabled = await shown(admin)
    assert disabled.next == "mesh agent enable web-1"
    assert (await group(admin, "web")).status == "inactive"
    with refused("group_inactive"):
        await admin.submit(["true"], group="web", on_inactive="refuse")
    queued = await admin.submit(["true"], group="web")
    gate.touch()
    assert (await admin.wait(running.id, timeout_s=PATIENCE_S)).state == "succeeded"
    assert (await admin.show(queued.id)).state == "queued"
    twice = await admin.ask("agent", "disable", AgentDisable(name="web-1"), Done)
    assert not twice.changed
    await admin.ask("agent", "enable", NameQuery(name="web-1"), Done)
    assert (await admin.wait(queued.id, timeout_s=PATIENCE_S)).state == "succeeded"
    assert (await shown(admin)).status == "active"
    again = await admin.ask("agent", "enable", NameQuery(name="web-1"), Done)
    assert not again.changed


async def test_disabled_at_once_ends_what_runs(mesh: MeshProcesses, admin: MeshClient) -> None:
    await mesh.wait_status("web-1", "active")
    running = await admin.submit(["sleep", "60"], group="web")
    await state_reached(admin, running.id, "running")
    await admin.ask("agent", "disable", AgentDisable(name="web-1", now=True), Done)
    assert (await admin.wait(running.id, timeout_s=PATIENCE_S)).state == "cancelled"
    await admin.ask("agent", "enable", NameQuery(name="web-1"), Done)
    await mesh.wait_status("web-1", "active")


async def test_disabled_and_silent_shows_disabled(mesh: MeshProcesses, admin: MeshClient) -> None:
    agent = mesh.agents["web-1"]
    await admin.ask("agent", "disable", AgentDisable(name="web-1"), Done)
    agent.kill()
    async with asyncio.timeout(PATIENCE_S):
        while (record := await shown(admin)).liveness != "silent":
            await asyncio.sleep(0.05)
    await admin.ask("agent", "enable", NameQuery(name="web-1"), Done)
    assert record.status == "disabled"
    assert record.reason in ("disabled by admin, silent", "disabled by admin, 1 task left")
    assert (await shown(admin)).status == "no_response"
    await agent.start()
    await mesh.wait_status("web-1", "active")


async def test_second_incarnation_of_an_identity_fences_the_first(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    """A copied identity: the newer process is the agent, the older one ends what it runs."""
    first = await mesh.add_agent("twin", group="web", slots=2)
    await mesh.wait_status("twin", "active")
    held = await admin.submit(["sleep", "60"], agent="twin")
    await state_reached(admin, held.id, "running")
    sleepers = [each for each in psutil.Process(first.pid).children() if "sleep" in each.name()]
    assert sleepers
    copy = mesh.directory / "copy"
    own = shutil.ignore_patterns("tasks", "journal.db*", "lock", "*.sock", "status*")
    shutil.copytree(mesh.agent_dir("twin"), copy, ignore=own)
    second = Child(
        "twin-copy",
        program("broker-agent", "run", "--state-dir", str(copy)),
        mesh.logs,
        env=mesh.env,
        ready="ready ",
    )
    mesh.agents["twin-copy"] = second
    await second.start()
    async with asyncio.timeout(PATIENCE_S):
        while (await shown(admin, "twin")).details.pid != second.pid:
            await asyncio.sleep(0.05)
    assert (await shown(admin, "twin")).status == "active"
    assert (await admin.show(held.id)).state in ("unknown", "killed_fenced", "lost")
    ended = await admin.wait(held.id, timeout_s=PATIENCE_S)
    await eventually(lambda: not [each for each in sleepers if each.is_running()])
    # The last word of the one that leaves, or, if that gets lost, what its lease says.
    assert ended.state in ("killed_fenced", "lost")
    assert (await shown(admin, "twin")).status == "active"
    first.kill()
    record = await admin.run(["sh", "-c", "echo $PPID"], agent="twin", timeout_s=PATIENCE_S)
    assert record.output is not None
    assert int(record.output.stdout) == second.pid
    second.kill()


async def test_agent_of_another_protocol_is_refused_with_that_reason(mesh: MeshProcesses) -> None:
    async with raw(issuer(mesh).issue("agent", "web-1", group="web")) as client:
        inbox = await client.subscribe(subjects.down_all("web", "web-1"))
        hello = Hello(incarnation="other-protocol", protocol=PROTOCOL + 1)
        await client.publish(subjects.up("web", "web-1", "hello"), codec.encode(hello))
        welcome = None
        while welcome is None or welcome.incarnation != "other-protocol":
            message = await inbox.next_msg(timeout=PATIENCE_S)
            if message.subject.endswith(".welcome"):
                welcome = codec.decode(Welcome, message.data)
    assert welcome.refused == "protocol"
    assert (await mesh.wait_status("web-1", "active")).status == "active"


async def test_heartbeat_is_answered_by_an_echo_with_epoch_and_number(mesh: MeshProcesses) -> None:
    agent = await mesh.add_agent("quiet", group="db", start=False)
    assert not agent.is_running
    async with raw(issuer(mesh).issue("agent", "quiet", group="db")) as client:
        inbox = await client.subscribe(subjects.down("db", "quiet", "echo"))
        await client.flush()
        for seq in (1, 2):
            beat = Beat(incarnation="by-hand", seq=seq, at=SystemClock().now())
            await client.publish(subjects.up("db", "quiet", "beat"), codec.encode(beat))
            echo = codec.decode(Echo, (await inbox.next_msg(timeout=PATIENCE_S)).data)
            assert (echo.incarnation, echo.seq, echo.reconciled) == ("by-hand", seq, False)
            assert echo.epoch >= 1


async def test_deleted_agent_is_gone_and_its_name_free(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    agent = await mesh.add_agent("leaver", group="db", slots=1)
    await mesh.wait_status("leaver", "active")
    await admin.ask("agent", "delete", NameQuery(name="leaver"), Done)
    with refused("agent_unknown"):
        await shown(admin, "leaver")
    agent.kill()
    shutil.rmtree(mesh.agent_dir("leaver"))
    await mesh.add_agent("leaver", group="db", slots=1)
    await mesh.wait_status("leaver", "active")
    mesh.agents["leaver"].kill()


async def test_status_counts_what_the_lists_show(mesh: MeshProcesses, admin: MeshClient) -> None:
    await mesh.wait_status("web-1", "active")
    status = await admin.status()
    agents = await admin.agents()
    for name, count in status.agents.items():
        assert count == sum(agent.status == name for agent in agents), name
    assert status.broker == "connected"
    ran = await mesh.cli("agent", "list", "--output", "json")
    assert {each["agent"] for each in ran.json} == {agent.agent for agent in agents}
    fields = {"agent", "group", "status", "reason", "since", "admin", "liveness", "certificate"}
    assert fields | {"details", "running", "slots"} <= set(ran.json[0])
