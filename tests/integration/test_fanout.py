"""One command for many agents: who did it, who is silent, and that it outlives the master."""

import json

import pytest

from broker_client.api import MeshClient
from schemas.messages.actions import ProcessArgs
from schemas.messages.fanouts import FanoutRecord
from tests.harness import MeshProcesses
from tests.meshes import LONG_LEASE, mesh_fixture
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

WITHIN_S = 60.0


async def tag_and_kill(mesh: MeshProcesses) -> None:
    await mesh.cli("agent", "set", "web-2", "--tag", "site=a")
    await mesh.cli("agent", "set", "db-1", "--tag", "site=a")
    mesh.agents["web-3"].kill()
    await mesh.wait_status("web-3", "no_response")


# Three agents in web, of which web-3 is dead, and one in db.
mesh = mesh_fixture(
    {"web": ("web-1", "web-2", "web-3"), "db": ("db-1",)},
    slots=4,
    env=LONG_LEASE,
    prepare=tag_and_kill,
)


async def test_all_of_a_group_are_asked_and_the_silent_one_is_listed(mesh: MeshProcesses) -> None:
    run = ("run", "--id", "hosts", "--all", "--group", "web", "--", "sh", "-c")
    ran = await mesh.cli(*run, "echo out; echo err >&2")
    assert ran.code == 5
    lines = ran.out.splitlines()
    assert sorted(lines[:2]) == ["web-1 | out", "web-2 | out"]
    assert sorted(ran.err.splitlines()[:2]) == ["web-1 | err", "web-2 | err"]
    assert lines[-1].split()[:2] == ["web-3", "skipped"]
    assert "silent" in lines[-1]
    assert "2 of 3 agents succeeded, 1 skipped (partial)" in ran.err
    assert max(map(len, lines)) <= 80
    # The same again is the same: nothing runs, the answer is the record.
    again = await mesh.cli(*run, "echo out; echo err >&2")
    assert (again.code, sorted(again.out.splitlines()[:2])) == (5, sorted(lines[:2]))
    conflict = await mesh.cli(*run, "echo other")
    assert (conflict.code, "(id_conflict)" in conflict.err) == (6, True)
    taken = await mesh.cli("run", "--id", "hosts", "--group", "web", "--", "true")
    assert (taken.code, "(id_conflict)" in taken.err) == (6, True)


async def test_each_agent_has_a_command_of_its_own(mesh: MeshProcesses) -> None:
    ran = await mesh.cli(
        *("run", "--id", "own", "--agent", "web-1", "--agent", "db-1", "--output", "json"),
        *("--", "sh", "-c", "exit 3"),
    )
    assert (ran.code, ran.json["state"], ran.json["counts"]) == (5, "failed", {"failed": 2})
    members = [(each["agent"], each["command"], each["exit_code"]) for each in ran.json["members"]]
    assert members == [("db-1", "__own_db-1", 3), ("web-1", "__own_web-1", 3)]
    child = (await mesh.cli("command", "show", "__own_db-1", "--output", "json")).json
    assert (child["agent"], child["labels"]["fanout"]) == ("db-1", "own")
    unknown = await mesh.cli("command", "show", "own")
    assert (unknown.code, "is a fan-out" in unknown.err) == (3, True)


async def test_tags_choose_agents_of_all_groups(mesh: MeshProcesses) -> None:
    ran = await mesh.cli("run", "--all", "--tag", "site=a", "--", "true")
    assert (ran.code, "2 of 2 agents succeeded (succeeded)" in ran.err) == (0, True), ran.err
    nobody = await mesh.cli("run", "--all", "--tag", "site=mars", "--", "true")
    assert (nobody.code, "(tags_unmatched)" in nobody.err) == (6, True)
    await mesh.cli("group", "create", "hollow")
    hollow = await mesh.cli("run", "--all", "--group", "hollow", "--", "true")
    assert (hollow.code, "(group_empty)" in hollow.err) == (6, True), hollow.err


async def test_failure_limit_stops_a_batch_and_says_who_was_not_asked(mesh: MeshProcesses) -> None:
    ran = await mesh.cli(
        *("run", "--id", "limit", "--all", "--group", "web", "--batch", "1"),
        *("--max-failures", "0", "--", "false"),
    )
    assert ran.code == 5
    assert "stopped: more than the 0 failures that may be" in ran.err
    shown = (await mesh.cli("fanout", "show", "limit", "--output", "json")).json
    assert shown["counts"] == {"failed": 1, "skipped": 2}
    assert [each["state"] for each in shown["members"]] == ["failed", "skipped", "skipped"]
    assert (await mesh.cli("command", "show", "__limit_web-2")).code == 3
    listed = await mesh.cli("fanout", "list", "--output", "jsonl")
    assert json.loads(listed.out.splitlines()[0])["id"] == "limit"
    for arguments in (("fanout", "list"), ("fanout", "show", "limit")):
        text = await mesh.cli(*arguments)
        # A column that finds no room is named.
        assert (text.code, text.err[:35]) in {(0, ""), (0, "mesh: hidden for lack of width: SUB")}
        assert max(map(len, text.out.splitlines())) <= 80


async def test_cancel_ends_what_runs_and_asks_nobody_else(mesh: MeshProcesses) -> None:
    run = ("run", "--id", "long", "--all", "--group", "web", "--batch", "1", "--detach", "--")
    assert (await mesh.cli(*run, "sleep", "600")).out == "long\n"
    waited = await mesh.cli("fanout", "wait", "long", "--timeout", "0.2")
    assert (waited.code, "(wait_timeout)" in waited.err) == (4, True)
    assert (await mesh.cli("fanout", "cancel", "long")).code == 0
    ended = await mesh.cli("fanout", "wait", "long")
    assert (ended.code, ended.out.splitlines()[0]) == (123, "cancelled")
    assert "1 cancelled, 2 skipped; cancelled by admin" in ended.err
    again = await mesh.cli("fanout", "cancel", "long")
    assert (again.code, "(command_ended)" in again.err) == (6, True)
    assert (await mesh.cli("fanout", "show", "nope")).code == 3


async def test_fan_out_outlives_its_client_and_a_killed_master_and_asks_each_agent_once(
    mesh: MeshProcesses,
) -> None:
    """The second agent's turn comes after the restart; the first one's program runs on over it."""
    marks = mesh.directory / "marks"
    go = mesh.directory / "go"
    script = f"echo $$ >>{marks}; until test -e {go}; do sleep 0.05; done"
    work = ProcessArgs(argv=["sh", "-c", script])
    # Under load the agents may be late to be heard by the new master: so long they are waited for.
    async with mesh.client() as client:
        record = await submit(client, work)
    assert record.counts["waiting"] >= 1
    await eventually(marks.exists, WITHIN_S, what="the first program")
    await mesh.restart_master(kill=True)
    go.touch()
    async with mesh.client() as client:
        ended = await client.fanouts.wait("durable", timeout_s=WITHIN_S)
        assert ended.counts == {"succeeded": 2}, ended
        assert [each.agent for each in ended.members] == ["web-1", "web-2"]
        again = await submit(client, work)
        assert (again.duplicate, again.state) == (True, "succeeded")
    assert len(marks.read_text().splitlines()) == 2
    await mesh.restart_master()
    shown = await mesh.cli("fanout", "show", "durable")
    assert (shown.code, "succeeded" in shown.out) == (0, True)


async def submit(client: MeshClient, work: ProcessArgs) -> FanoutRecord:
    return await client.fanouts.submit(
        *("process", work),
        id="durable",
        agents=["web-2", "web-1"],
        at_once=1,
        queue_ttl_s=WITHIN_S,
        loss="continue",
    )
