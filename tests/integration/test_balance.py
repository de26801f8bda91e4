"""Groups share work evenly, with real agents: shares, slow members, limits, tags, what is said."""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path

import pytest

from broker_client.api import MeshClient
from schemas.messages.actions import NoopArgs
from schemas.messages.api import CommandList, GroupRecord, NameQuery, SubmitAnswer
from schemas.messages.facts import AttemptRecord, CommandRecord
from tests.harness import MeshProcesses
from tests.meshes import mesh_fixture, refused

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-balance")]

AGENTS = ("web-1", "web-2", "web-3", "slow-1")
SLOTS = 2
# Commands that other slots may take before a free slot is used again: two for each.
AHEAD = 2 * SLOTS * len(AGENTS)


mesh = mesh_fixture({"web": AGENTS, "idle": ()}, slots=SLOTS)


async def at_once(
    run_one: Callable[[], Awaitable[CommandRecord]], count: int, in_flight: int
) -> list[CommandRecord]:
    left, records = count, []

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            records.append(await run_one())

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())
    return records


def last(record: CommandRecord) -> AttemptRecord:
    assert record.state == "succeeded", (record.state, record.reason)
    return record.attempts[-1]


async def test_thousand_equal_commands_are_shared_evenly(admin: MeshClient) -> None:
    records = await at_once(lambda: admin.run(NoopArgs(), group="web"), 1000, 8)
    counts = Counter(last(record).agent for record in records)
    assert set(counts) == set(AGENTS)
    assert max(counts.values()) - min(counts.values()) <= 20, counts
    assert all("slots taken" in last(r).why or "slot became free" in last(r).why for r in records)
    group = await admin.ask("group", "show", NameQuery(name="web"), GroupRecord)
    for row in group.spread:
        assert row.actual >= counts[row.agent]
        assert abs(row.expected - row.actual) <= 25, group.spread


async def test_slow_member_gets_little_and_no_free_slot_idles_while_work_waits(
    admin: MeshClient, tmp_path: Path
) -> None:
    """The folder of a task is below that of its agent, so a program can tell where it runs."""
    gate, ran = tmp_path / "gate", 0
    slow = f"while [ ! -e {gate} ]; do sleep 0.05; done"
    program = ["sh", "-c", f"case $PWD in *slow-1*) {slow};; *) sleep 0.1;; esac"]

    async def run_one() -> CommandRecord:
        nonlocal ran
        record = await admin.run(program, group="web")
        ran += 1
        if ran == 140:
            gate.touch()
        return record

    await at_once(run_one, 150, 16)
    page = await admin.list(CommandList(group="web", limit=150))
    records = [record for record in page.commands if record.action == "process"]
    counts = Counter(last(record).agent for record in records)
    assert 0 < counts["slow-1"] < 0.1 * len(records), counts
    assert idle_while_waited_for(records) == []


def idle_while_waited_for(records: list[CommandRecord]) -> list[str]:
    """Ends of attempts after which waiting commands went elsewhere, and the slot stayed empty."""
    tries = [(moment(each.submitted_at), last(each)) for each in records]
    found = []
    for _, each in tries:
        ended = moment(each.ended_at)
        used = min(
            (
                moment(other.accepted_at)
                for _, other in tries
                if other.agent == each.agent and moment(other.accepted_at) >= ended
            ),
            default=math.inf,
        )
        ahead = [
            other
            for submitted, other in tries
            if submitted < ended < moment(other.accepted_at) < used and other.agent != each.agent
        ]
        if len(ahead) > AHEAD:
            found.append(f"{each.agent} at {each.ended_at}: {len(ahead)} went elsewhere")
    return found


def moment(text: str | None) -> float:
    assert text is not None
    return datetime.fromisoformat(text).timestamp()


async def test_policy_is_set_and_shown_on_the_command_line(mesh: MeshProcesses) -> None:
    for ran in (
        await mesh.cli("group", "create", "cli", "--balance", "weighted", "--limit", "5"),
        await mesh.cli("group", "set", "cli", "--balance", "sticky:customer", "--queue-limit", "9"),
    ):
        assert ran.code == 0, ran.err
    assert ran.out == "group cli: sticky:customer, at most 5 at once, at most 9 waiting\n"
    shown = (await mesh.cli("group", "show", "cli", "--output", "json")).json
    policy = {"balance": "sticky", "sticky_label": "customer", "limit": 5, "queue_limit": 9}
    assert shown["policy"] == policy
    wrong = await mesh.cli("group", "set", "cli", "--balance", "fair")
    assert wrong.code == 2
    assert "least_load" in wrong.err
    table = await mesh.cli("group", "show", "web")
    assert "balance" in table.out
    assert "SHARE OF THE LAST HOUR" in table.out
    assert all(len(line) <= 80 for line in table.out.splitlines())


async def test_tags_weight_and_limit_of_an_agent(mesh: MeshProcesses, admin: MeshClient) -> None:
    ran = await mesh.cli("agent", "set", "web-2", "--tag", "disk=ssd", "--limit", "1")
    assert ran.out == "agent web-2: tags disk=ssd, weight 1, priority 2, limit 1\n"
    record = await admin.run(NoopArgs(), group="web", tags={"disk": "ssd"})
    assert last(record).agent == "web-2"
    assert last(record).why.endswith("has the tags that are asked for")
    with refused("tags_unmatched"):
        await admin.submit(NoopArgs(), group="web", tags={"disk": "tape"})
    with refused("tags_unmatched"):
        await admin.submit(NoopArgs(), agent="web-1", tags={"disk": "ssd"})
    ran = await mesh.cli("agent", "set", "web-2", "--untag", "disk", "--limit", "0")
    assert ran.out == "agent web-2: tags none, weight 1, priority 2\n"


async def test_inactive_target_queues_or_refuses_and_the_answer_says_which(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    await mesh.add_agent("idle-1", group="idle", start=False)
    answer = await admin.submit(NoopArgs(), group="idle", queue_ttl_s=60)
    assert (answer.state, answer.target) == ("queued", "inactive")
    why = "no agent is set up yet; set one up: broker-agent setup"
    assert answer.next.startswith(f"waits for an agent of idle to be active: {why}; expires at ")
    with refused("group_inactive"):
        await admin.submit(NoopArgs(), group="idle", on_inactive="refuse")
    group = await admin.ask("group", "show", NameQuery(name="idle"), GroupRecord)
    assert (group.status, group.reason) == ("inactive", "no agent is set up yet")
    assert group.next
    assert group.badges == ["0 of 1 active"]
    active = await admin.submit(NoopArgs(), group="web")
    assert active == SubmitAnswer(id=active.id, state="queued", duplicate=False)
    await admin.cancel(answer.id)


async def test_queue_limit_is_named_when_it_is_reached(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    await mesh.cli("group", "set", "idle", "--queue-limit", "1")
    if "idle-1" not in mesh.agents:
        await mesh.add_agent("idle-1", group="idle", start=False)
    first = await admin.submit(NoopArgs(), group="idle")
    with refused("queue_full"):
        await admin.submit(NoopArgs(), group="idle", timeout_s=3)
    await admin.cancel(first.id)
