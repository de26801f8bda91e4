"""A state that was put back: agents obey its master, and what ended since is told truthfully."""

import asyncio
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from broker_client.api import MeshClient
from schemas.messages.actions import ProcessArgs
from schemas.messages.api import AuditPage, AuditQuery, AuditRecord
from tests.harness import FAST_TIMERS, MeshProcesses
from tests.meshes import LONG_LEASE, mesh_fixture, state_reached
from tests.old_release import programs_of, unpacked

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-restore")]

SOON_S: Final = 120.0
AGENTS: Final = ("web-1", "web-2", "web-3")
FAN: Final = [f"__fan_{agent}" for agent in AGENTS]


# Tasks outlive a stop of the master, and what no agent knows is lost soon after.
TIMERS: Final = {
    **FAST_TIMERS,
    "MESH_TIMERS__SUSPECT_S": "2",
    "MESH_TIMERS__RESENDS": "8",
    "MESH_TIMERS__LOST_S": "7",
}


mesh = mesh_fixture({"web": ()}, env=TIMERS, scope="function")
# Its tasks go on while the master is away for as long as a restore takes.
patient_mesh = mesh_fixture(
    {"web": ()},
    env={
        **LONG_LEASE,
        "MESH_TIMERS__ACK_S": "2.5",
        "MESH_TIMERS__LOST_S": "60",
        "MESH_TIMERS__ADOPT_S": "5",
    },
    scope="function",
    name="patient_mesh",
)


def put_back(mesh: MeshProcesses, copy: Path) -> None:
    shutil.rmtree(mesh.state_dir)
    shutil.copytree(copy, mesh.state_dir)


async def restarts(mesh: MeshProcesses, times: int) -> None:
    """Each in a second of its own, as in life."""
    for _ in range(times):
        await asyncio.sleep(1.0)
        await mesh.restart_master()


async def agent_says(mesh: MeshProcesses, name: str, words: str) -> str:
    """The reason in the agent's own status, once it has these words in it."""
    where = ("--state-dir", str(mesh.agent_dir(name)))
    reason = ""
    try:
        async with asyncio.timeout(SOON_S):
            while words not in reason:
                said = await mesh._run("broker-agent", "status", *where, "--output", "json")
                reason = json.loads(said.out)["reason"] or ""
    except TimeoutError:
        pytest.fail(f"{name} says {reason!r}, without {words!r}")
    return reason


async def audited(client: MeshClient, action: str) -> list[AuditRecord]:
    page = await client.ask("audit", "list", AuditQuery(action=action), AuditPage)
    return page.entries


async def how(client: MeshClient, command: str) -> tuple[str, int | None, str, bytes]:
    """State, exit code, agent and output of a command, once it has ended."""
    record = await client.wait(command, timeout_s=SOON_S, with_output=True)
    last = record.attempts[-1]
    said = record.output.stdout if record.output is not None else b""
    return record.state, last.exit_code, last.agent, said


async def test_agents_of_both_releases_obey_a_copy_that_was_put_back(
    mesh: MeshProcesses, tmp_path: Path
) -> None:
    """A restore without `--restored`. An agent of now remembers the ends of meanwhile."""
    go, agents = tmp_path / "go", ("now-1", "old-1")
    work = ["sh", "-c", f"until [ -e {go} ]; do sleep 0.05; done; echo done; exit 3"]
    with unpacked() as old:
        await mesh.add_agent("now-1", group="web")
        with programs_of(mesh, old):
            await mesh.add_agent("old-1", group="web")
        async with mesh.client() as client:
            for agent in agents:
                await client.submit(work, agent=agent, id=f"on-{agent}")
                await state_reached(client, f"on-{agent}", "running")
        await mesh.master.stop()
        go.touch()
        shutil.copytree(mesh.state_dir, tmp_path / "copy")
        await mesh.start_master()
        async with mesh.client() as client:
            for agent in agents:
                ended = await how(client, f"on-{agent}")
                assert ended == ("failed", 3, agent, b"done\n")
        await restarts(mesh, 1)
        for agent in agents:
            await mesh.wait_status(agent, "active")
        await mesh.master.stop()
        put_back(mesh, tmp_path / "copy")
        await mesh.start_master()
        async with mesh.client() as client:
            assert await how(client, "on-now-1") == ("failed", 3, "now-1", b"done\n")
            lost = await client.wait("on-old-1", timeout_s=SOON_S)
            assert (lost.state, "restored from" in lost.reason) == ("lost", True)
            alarms = await audited(client, "group.restore")
            assert [(each.target, each.result) for each in alarms] == [("web", "alarm")]
            for agent in agents:
                await mesh.wait_status(agent, "active")
                assert (await client.run(["true"], agent=agent, timeout_s=SOON_S)).state == (
                    "succeeded"
                )


async def test_old_master_is_refused_after_a_restore_and_all_sides_say_why(
    mesh: MeshProcesses, tmp_path: Path
) -> None:
    """A second start of the replaced state gets no agent, and its log names the next step."""
    await mesh.add_agent("web-1", group="web")
    await mesh.master.stop()
    shutil.copytree(mesh.state_dir, tmp_path / "replaced")
    ran = await mesh._run("broker-master", "restore", "--state-dir", str(mesh.state_dir))
    assert ran.code == 0, ran.err
    await mesh.start_master()
    await mesh.wait_status("web-1", "active")
    await mesh.master.stop()
    put_back(mesh, tmp_path / "replaced")
    await mesh.start_master()
    record = await mesh.wait_status("web-1", "no_response")
    async with asyncio.timeout(SOON_S):
        while "refuses this master" not in record.reason:
            await asyncio.sleep(0.05)
            record = await mesh.wait_status("web-1", "no_response")
    assert "broker-master restore" in record.next
    above = record.next.rsplit(maxsplit=1)[-1]
    where = ("--state-dir", str(mesh.agent_dir("web-1")))
    await agent_says(mesh, "web-1", f"obeyed {above}")
    doctor = await mesh._run("broker-agent", "doctor", *where)
    assert doctor.code != 0
    assert "it refuses the master" in doctor.out
    assert "refuse this master" in (await mesh.cli("status")).out
    assert "connection_deaf" not in mesh.agents["web-1"].stderr
    await mesh.master.stop()
    ran = await mesh._run(
        "broker-master", "restore", "--state-dir", str(mesh.state_dir), "--above", above
    )
    assert ran.code == 0, ran.err
    await mesh.start_master()
    await mesh.wait_status("web-1", "active")
    async with mesh.client() as client:
        assert (await client.run(["true"], group="web")).state == "succeeded"


async def test_restored_state_is_right_on_commands_open_then_and_submitted_since(
    patient_mesh: MeshProcesses, tmp_path: Path
) -> None:
    """Three agents at work, a backup, more commands, a restore: nothing runs twice.

    What has ended since is told by who ran it, also of a fan-out, and of a command that no agent
    had when the backup was made.
    """
    mesh, ran_file, go = patient_mesh, tmp_path / "ran", tmp_path / "go"
    await asyncio.gather(*(mesh.add_agent(name, group="web", slots=2) for name in AGENTS))

    def work(name: str, then: str = "true") -> list[str]:
        return ["sh", "-c", f"echo {name} >> {ran_file}; {then}"]

    until = f"while [ ! -e {go} ]; do sleep 0.05; done"
    meanwhile = f"while [ ! -e {tmp_path}/short ]; do sleep 0.05; done; echo $MESH_AGENT"
    async with mesh.client() as client:
        await client.run(work("before"), group="web", id="before", timeout_s=SOON_S)
        for name, agent in (("long-1", "web-1"), ("long-2", "web-2"), ("short", "web-3")):
            then = meanwhile if name == "short" else until
            await client.submit(work(name, then), agent=agent, id=name)
            await state_reached(client, name, "running")
        await client.submit(work("fill", until), agent="web-3", id="fill")
        await client.submit(work("queued", "exit 4"), agent="web-3", id="queued")
        await state_reached(client, "queued", "queued")
        await fan_out(client, work("fan", meanwhile))
        backup = await backed_up(mesh, tmp_path)
        (tmp_path / "short").touch()
        assert (await client.wait("short", timeout_s=SOON_S)).state == "succeeded"
        assert (await client.wait("queued", timeout_s=SOON_S)).state == "failed"
        assert (await client.fanouts.wait("fan", timeout_s=SOON_S)).state == "succeeded"
        await client.run(work("since"), group="web", id="since", timeout_s=SOON_S)
        await client.submit(work("found", until), agent="web-1", id="found")
        await state_reached(client, "found", "running")
    await mesh.add_agent("web-4", group="web")
    await mesh.master.stop()
    shutil.move(mesh.state_dir, tmp_path / "replaced")
    put = await mesh._run(
        "broker-master", "restore", "--state-dir", str(mesh.state_dir), "--backup", str(backup)
    )
    assert put.code == 0, put.err
    await mesh.start_master()
    for name in AGENTS:
        await mesh.wait_status(name, "active")
    async with mesh.client() as client:
        for name in ("long-1", "long-2", "fill", "found"):
            await state_reached(client, name, "running")
        assert (await client.show("found")).labels == {"restored": "adopted"}
        for name, agent in (("short", "web-3"), (FAN[0], "web-1"), (FAN[1], "web-2")):
            said = f"{agent}\n".encode()
            assert await how(client, name) == ("succeeded", 0, agent, said), name
        assert await how(client, "queued") == ("failed", 4, "web-3", b"")
        fan = await client.fanouts.wait("fan", timeout_s=SOON_S)
        assert (fan.state, fan.counts) == ("partial", {"skipped": 1, "succeeded": 2})
        assert "it may have been asked since" in fan.members[2].reason
        await told(mesh, client)
        go.touch()
        for name in ("long-1", "long-2", "fill", "found"):
            assert (await client.wait(name, timeout_s=SOON_S)).state == "succeeded", name
        assert (await client.show("before")).state == "succeeded"
        assert (await client.run(work("after"), group="web", timeout_s=SOON_S)).state == "succeeded"
    names = ["before", "long-1", "long-2", "short", "fill", "queued", "since", "found", "after"]
    names += ["fan"] * 3
    assert Counter(ran_file.read_text().split()) == Counter(names)
    await comes_back(mesh, "web-4")


async def fan_out(client: MeshClient, argv: list[str]) -> None:
    """Begin one that has asked two of three agents when this returns."""
    await client.fanouts.submit(
        *("process", ProcessArgs(argv=argv)), id="fan", agents=[*AGENTS], at_once=2
    )
    for child in FAN[:2]:
        await state_reached(client, child, "running")


async def backed_up(mesh: MeshProcesses, folder: Path) -> Path:
    backup = folder / "mesh.backup"
    where = ("--state-dir", str(mesh.state_dir), "--out", str(backup))
    made = await mesh._run("broker-master", "backup", *where)
    assert made.code == 0, made.err
    assert backup.stat().st_mode & 0o777 == 0o600
    return backup


async def told(mesh: MeshProcesses, client: MeshClient) -> None:
    """The restore is in the audit trail and in the metrics."""
    entries = await audited(client, "master.restore")
    assert [(each.actor, each.result) for each in entries] == [("master", "done")]
    assert "7 commands open in it" in entries[0].detail
    page = (await asyncio.to_thread(mesh._metrics)).splitlines()
    assert {
        'mesh_restores_total{how="announced"} 1',
        'mesh_restores_total{how="noticed"} 0',
        "mesh_restore_doubtful_commands 0",
        'mesh_restored_attempts_total{result="recalled"} 4',
        'mesh_restored_attempts_total{result="lost"} 0',
    } <= set(page)


async def comes_back(mesh: MeshProcesses, name: str) -> None:
    """An agent that was enrolled after the backup: told why it is refused, and let in again."""
    where = ("--state-dir", str(mesh.agent_dir(name)))
    reason = await agent_says(mesh, name, "agent_unknown")
    assert f"mesh agent create {name} --group web" in reason
    made = await mesh.cli("agent", "create", name, "--group", "web", "--output", "json")
    assert made.code == 0, made.err
    mesh.agents[name].kill()
    token = made.json["token"]
    set_up = await mesh._run("broker-agent", "setup", *where, "--token=-", stdin=token)
    assert set_up.code == 0, set_up.err
    await mesh.agents[name].start()
    await mesh.wait_status(name, "active")
    async with mesh.client() as client:
        assert (await client.run(["true"], agent=name, timeout_s=SOON_S)).state == "succeeded"


async def test_backup_of_a_stopped_mesh_is_whole_or_refused(
    mesh: MeshProcesses, tmp_path: Path
) -> None:
    """Damaged, cut short, or into a folder that is not empty: nothing is made of it."""
    async with mesh.client() as client:
        status = await client.status()
    await mesh.master.stop()
    backup = tmp_path / "mesh.backup"
    where = ("--state-dir", str(mesh.state_dir))
    made = await mesh._run("broker-master", "backup", *where, "--out", str(backup))
    assert made.code == 0, made.err
    whole = backup.read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mesh.backup"]
    put = ("broker-master", "restore", "--backup", str(backup), "--state-dir")
    at = whole.index(b"streams/MESH_AUDIT/00000") + 700
    damaged = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]

    async def refuse(number: int, bad: bytes) -> None:
        spoilt, new = tmp_path / f"bad-{number}", tmp_path / f"new-{number}"
        spoilt.write_bytes(bad)
        where = ("--backup", str(spoilt), "--state-dir", str(new))
        ran = await mesh._run("broker-master", "restore", *where)
        assert ran.code == 78, ran.err
        assert not new.exists()

    cases = enumerate((whole[: len(whole) // 2], b"", damaged))
    await asyncio.gather(*(refuse(number, bad) for number, bad in cases))
    refused = await mesh._run(*put, str(mesh.state_dir))
    assert "is not empty" in refused.err
    shutil.rmtree(mesh.state_dir)
    ran = await mesh._run(*put, str(mesh.state_dir))
    assert ran.code == 0, ran.err
    await mesh.start_master()
    async with mesh.client() as client:
        after = await client.status()
        assert (after.mesh, after.groups) == (status.mesh, status.groups)
        assert after.epoch > status.epoch
