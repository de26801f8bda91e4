"""Losses at the command line: what is unknown, what waits for a word, what nobody acknowledged."""

import asyncio
import contextlib
import re
import signal
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest

from broker_client.runtime.clock import SystemClock
from schemas import codec, subjects
from schemas.messages.liveness import PROTOCOL, Beat, Hello, Welcome
from tests.harness import MeshProcesses
from tests.meshes import issuer, mesh_fixture, raw, state_reached
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.integration

# Tasks are ended 0.8 + 8 x 0.5 = 4.8 s after the master was heard last.
TIMERS = {
    "MESH_TIMERS__RESENDS": "8",
    "MESH_TIMERS__LOST_S": "6",
    "MESH_TIMERS__ADOPT_S": "6",
}
INCARNATION = "deaf"


mesh = mesh_fixture({"web": ("web-1",), "db": ("db-1",)}, env=TIMERS)


@contextlib.asynccontextmanager
async def agent_that_takes_nothing(
    mesh: MeshProcesses, name: str, group: str
) -> AsyncIterator[None]:
    """An agent that beats and shakes hands, and drops every request to run a task."""
    await mesh.add_agent(name, group=group, start=False)
    async with raw(issuer(mesh).issue("agent", name, group=group)) as client:
        inbox = await client.subscribe(subjects.down(group, name, "welcome"))
        await client.flush()

        async def say(kind: str, body: Beat | Hello) -> None:
            await client.publish(subjects.up(group, name, kind), codec.encode(body))

        async def beat() -> None:
            for seq in range(1, 10_000):
                now = SystemClock().now()
                await say("beat", Beat(incarnation=INCARNATION, seq=seq, slots=4, at=now))
                await asyncio.sleep(0.1)

        beating = asyncio.ensure_future(beat())
        try:
            hello = Hello(incarnation=INCARNATION, protocol=PROTOCOL, slots=4, complete=True)
            await say("hello", hello)
            welcome = codec.decode(Welcome, (await inbox.next_msg(timeout=PATIENCE_S)).data)
            assert welcome.refused == ""
            done = Hello(
                incarnation=INCARNATION,
                protocol=PROTOCOL,
                epoch=welcome.epoch,
                slots=4,
                complete=True,
                done=True,
            )
            await say("hello", done)
            await mesh.wait_status(name, "active")
            yield
        finally:
            beating.cancel()


async def test_dead_letter_is_listed_shown_and_submitted_again(mesh: MeshProcesses) -> None:
    await mesh.add_group("deaf")
    async with agent_that_takes_nothing(mesh, "deaf-1", "deaf"):
        await mesh.cli("run", "--detach", "--id", "letter", "--group", "deaf", "--", "echo", "hi")
        waited = await mesh.cli("command", "wait", "letter")
    assert (waited.code, waited.out) == (121, "undeliverable\n")
    assert "mesh deadletter retry letter" in waited.err
    listed = await mesh.cli("deadletter", "list", "--output", "json")
    assert [record["id"] for record in listed.json] == ["letter"]
    table = await mesh.cli("deadletter", "list", "--group", "deaf")
    assert re.search(r"^letter +undeliverable +deaf-1 ", table.out, re.MULTILINE), table.out
    elsewhere = await mesh.cli("deadletter", "list", "--group", "web")
    assert (elsewhere.out, elsewhere.err) == ("", "mesh: no dead letters\n")
    assert "undeliverable" in (await mesh.cli("deadletter", "show", "letter")).out
    await mesh.add_agent("deaf-2", group="deaf", slots=4)
    await mesh.wait_status("deaf-2", "active")
    again = await mesh.cli("deadletter", "retry", "letter", "--id", "letter-2")
    assert (again.code, again.out, again.err) == (0, "letter-2\n", "")
    assert (await mesh.cli("command", "wait", "letter-2")).code == 0
    assert (await mesh.cli("command", "logs", "letter-2")).out == "hi\n"
    record = (await mesh.cli("command", "show", "letter-2", "--output", "json")).json
    assert record["labels"] == {"retry-of": "letter"}
    twice = await mesh.cli("deadletter", "retry", "letter", "--id", "letter-2")
    assert (twice.code, twice.out) == (0, "letter-2\n")
    assert twice.err == "mesh: letter-2 was submitted before and is succeeded\n"
    ended = await mesh.cli("deadletter", "show", "letter-2")
    assert (ended.code, "(command_unknown)" in ended.err) == (3, True)


async def test_unknown_state_is_shown_and_the_return_too(mesh: MeshProcesses) -> None:
    agent = mesh.agents["web-1"]
    run = ("run", "--detach", "--id", "quiet", "--group", "web", "--hold", "60", "--")
    assert (await mesh.cli(*run, "sh", "-c", "echo so far; sleep 600")).code == 0
    async with mesh.client() as client:
        output = client.logs("quiet", follow=True)
        async for part in output:
            assert part.data == b"so far\n"
            break
        await output.aclose()
        agent.signal(signal.SIGSTOP)
        try:
            await state_reached(client, "quiet", "unknown")
            shown = await mesh.cli("command", "show", "quiet")
            record = await client.show("quiet")
        finally:
            agent.signal(signal.SIGCONT)
        assert record.last_output_at is not None
        assert re.search(r"^state +unknown since ", shown.out, re.MULTILINE), shown.out
        assert re.search(r"^last output +\d{4}-", shown.out, re.MULTILINE)
        assert re.search(r"^next +given up at .* \(in (1m|[45]\d)", shown.out, re.MULTILINE)
        assert "attempt 1 unknown since then" in shown.out
        moment = datetime.fromisoformat(record.next.split()[3])
        assert moment.timestamp() - time.time() > 40, "60 s and what it takes to end it"
        await state_reached(client, "quiet", "running")
        agents = await mesh.cli("agent", "show", "web-1")
        assert re.search(r"^returned +after \d+ s: 1 task went on", agents.out, re.MULTILINE)
        await client.cancel("quiet")
        assert (await client.wait("quiet")).state == "cancelled"


async def test_task_that_its_agent_has_ended_during_the_silence_never_went_on(
    mesh: MeshProcesses,
) -> None:
    agent = mesh.agents["web-1"]
    run = ("run", "--detach", "--id", "fenced", "--group", "web", "--")
    # Its last output is under way when its agent is back.
    script = "trap 'head -c 300000 /dev/zero; exit' TERM; echo begun; sleep 600 & wait"
    assert (await mesh.cli(*run, "sh", "-c", script)).code == 0
    async with mesh.client() as client:
        async for _ in client.logs("fenced", follow=True):
            break
        agent.signal(signal.SIGSTOP)
        try:
            await state_reached(client, "fenced", "unknown")
            # Beyond the agent's own deadline. If also beyond the master's, it is lost: as true.
            await asyncio.sleep(4.6)
        finally:
            agent.signal(signal.SIGCONT)
        assert (await client.wait("fenced")).state in ("killed_fenced", "lost")
        await mesh.wait_status("web-1", "active")
        events = [event.what async for event in client.events("kind:command fenced", since=1.0)]
        assert "running" not in events
        agents = await mesh.cli("agent", "show", "web-1")
        assert re.search(
            r"^returned +after \d+ s: 0 tasks went on, [01] ended", agents.out, re.MULTILINE
        )


async def test_command_that_waits_for_a_word_is_decided(
    mesh: MeshProcesses, tmp_path: Path
) -> None:
    agent = mesh.agents["db-1"]
    mark = tmp_path / "mark"
    script = f"if [ -e {mark} ]; then echo again; else touch {mark}; sleep 600; fi"
    for name, program in (("first", ("sleep", "600")), ("second", ("sh", "-c", script))):
        run = ("run", "--detach", "--id", name, "--group", "db", "--on-lost", "wait", "--")
        assert (await mesh.cli(*run, *program)).code == 0
    async with mesh.client() as client:
        for name in ("first", "second"):
            await state_reached(client, name, "running")
        early = await mesh.cli("command", "decide", "first", "fail")
        assert (early.code, "(not_undecided)" in early.err) == (6, True)
        agent.kill()
        async with asyncio.timeout(PATIENCE_S):
            for name in ("first", "second"):
                while "mesh command decide" not in (await client.show(name)).next:
                    await asyncio.sleep(0.05)
    shown = await mesh.cli("command", "show", "first")
    assert "command waits for a word: fail or" in shown.out, shown.out
    failed = await mesh.cli("command", "decide", "first", "fail")
    assert (failed.code, failed.out) == (0, "command first ends as lost\n")
    assert (await mesh.cli("command", "wait", "first")).code == 120
    rerun = await mesh.cli("command", "decide", "second", "rerun")
    assert (rerun.code, rerun.out) == (0, "command second will run again\n")
    await agent.start()
    assert (await mesh.cli("command", "wait", "second")).code == 0
    assert (await mesh.cli("command", "logs", "second")).out == "again\n"
    record = (await mesh.cli("command", "show", "second", "--output", "json")).json
    assert [attempt["state"] for attempt in record["attempts"]] == ["lost", "succeeded"]
