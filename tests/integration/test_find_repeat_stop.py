"""Find, repeat and stop many commands: the command line and the SDK on one mesh."""

import asyncio
import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from schemas.faults import Refused
from schemas.messages.actions import ProcessArgs
from schemas.messages.fanouts import FanoutRecord
from tests.harness import MeshProcesses, program
from tests.meshes import mesh_fixture
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

SECRET = "value-of-a-variable"


mesh = mesh_fixture({"web": ("web-1", "web-2")})


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def commands(mesh: MeshProcesses) -> AsyncIterator[None]:
    """A handful that have ended, and one that runs."""
    async with mesh.client() as client:
        await asyncio.gather(
            client.run(["sh", "-c", "exit 3"], id="bad-1", group="web", labels={"deploy": "42"}),
            client.run(["/bin/false"], id="bad-2", group="web", labels={"deploy": "43"}),
            client.run(["true", "a b", "c\nd"], id="good-1", group="web", labels={"deploy": "42"}),
        )
        await client.submit(["sleep", "600"], id="long-1", agent="web-1", labels={"deploy": "42"})
    shown = await mesh.cli(
        *("run", "--id", "env-1", "--agent", "web-1", "--env", f"KEY={SECRET}", "--", "true")
    )
    assert shown.code == 0, shown.err
    yield
    await mesh.cli("command", "cancel", "long-1")


async def found(mesh: MeshProcesses, *words: str) -> list[str]:
    listed = await mesh.cli("command", "list", *words, "--output", "json")
    assert listed.code == 0, listed.err
    return sorted(each["id"] for each in listed.json)


async def test_filter_finds_open_and_ended_commands_alike(mesh: MeshProcesses) -> None:
    assert await found(mesh, "label:deploy=42") == ["bad-1", "good-1", "long-1"]
    assert await found(mesh, "state:failed,lost", "exit:!=0", "since:1d") == ["bad-1", "bad-2"]
    assert await found(mesh, "program:fals*") == ["bad-2"]
    assert await found(mesh, "argv:*600") == ["long-1"]
    assert await found(mesh, "*-1", "!client:admin") == []
    async with mesh.client() as client:
        records = await client.find("bad-* exit:3")
        assert [record.id for record in records] == ["bad-1"]
        assert {each.agent for each in await client.agents(filter="*-2 !group:db")} == {"web-2"}


async def test_pages_of_a_filter_are_whole(mesh: MeshProcesses) -> None:
    limited = await mesh.cli("command", "list", "label:deploy", "--limit", "1", "-o", "jsonl")
    assert len(limited.out.splitlines()) == 1
    assert "--limit" in limited.err
    ordered = await mesh.cli(
        *("command", "list", "bad-*", "--sort", "-exit", "--columns", "id,exit,labels")
    )
    assert ordered.out.splitlines()[0].split() == ["ID", "EXIT", "LABELS"]
    assert [line.split()[0] for line in ordered.out.splitlines()[1:]] == ["bad-1", "bad-2"]


async def test_wrong_word_is_refused_by_the_master_too(mesh: MeshProcesses) -> None:
    wrong = await mesh.cli("agent", "list", "group:web", "status:activ")
    assert (wrong.code, wrong.out) == (2, "")
    assert "'status:activ' at character 11: no status 'activ': did you mean active?" in wrong.err
    async with mesh.client() as client:
        with pytest.raises(Refused, match="did you mean failed") as caught:
            await client.find("state:faild")
    assert caught.value.code == "filter_invalid"


async def test_running_program_is_shown_without_values_of_variables(mesh: MeshProcesses) -> None:
    record = (await mesh.cli("command", "show", "env-1", "--output", "json")).json
    assert (record["program"], record["arguments"]["env"]) == ("true", ["KEY"])
    for words in (("command", "show", "env-1"), ("command", "list", "-o", "json")):
        shown = await mesh.cli(*words)
        assert SECRET not in shown.out
    story = (await mesh.cli("command", "show", "good-1")).out
    assert r"program    true 'a b' $'c\nd'" in story
    assert "\narguments " not in story
    trail = await mesh.cli("audit", "list", "--action", "command", "--output", "json")
    assert "600" not in "".join(each["detail"] for each in trail.json)


def on_terminal(mesh: MeshProcesses, width: int, *words: str) -> list[str]:
    """Lines that a command writes to a terminal of that width, colours taken off."""
    leader, follower = pty.openpty()
    try:
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
        env = {**mesh.env, "NO_COLOR": "1", "TERM": "xterm"}
        env.pop("COLUMNS", None)
        process = subprocess.Popen(
            program("mesh", "--context", str(mesh.admin_context), *words),
            stdin=subprocess.DEVNULL,
            stdout=follower,
            stderr=subprocess.PIPE,
            env=env,
        )
        os.close(follower)
        data = b""
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            data += part
        process.communicate(timeout=60)
    finally:
        os.close(leader)
    return data.decode().replace("\r\n", "\n").splitlines()


@pytest.mark.parametrize("width", [80, 120])
async def test_program_is_cut_at_the_width_of_the_terminal(mesh: MeshProcesses, width: int) -> None:
    long = ["echo", *[f"argument-{number}" for number in range(40)]]
    async with mesh.client() as client:
        await client.run(long, id=f"wide-{width}", group="web")
    lines = await asyncio.to_thread(on_terminal, mesh, width, "command", "list", "*-*")
    assert "PROGRAM" in lines[0]
    assert max(map(len, lines)) <= width
    row = next(line for line in lines if line.startswith(f"wide-{width} "))
    assert "echo argu" in row
    assert "…" in row


async def test_retry_keeps_the_body_takes_a_new_id_and_says_of_what(mesh: MeshProcesses) -> None:
    again = await mesh.cli("command", "retry", "bad-1", "--id", "bad-1-again")
    assert (again.code, again.out) == (0, "bad-1-again\n")
    ended = await mesh.cli("command", "wait", "bad-1-again", "--output", "json")
    record = ended.json
    assert (ended.code, record["program"]) == (3, "sh -c 'exit 3'")
    assert record["labels"] == {"deploy": "42", "retry-of": "bad-1"}
    repeated = await mesh.cli("command", "retry", "bad-1", "--id", "bad-1-again")
    assert "was submitted before" in repeated.err
    assert "retry of   bad-1" in (await mesh.cli("command", "show", "bad-1-again")).out
    is_open = await mesh.cli("command", "retry", "long-1")
    assert (is_open.code, "command_open" in is_open.err) == (6, True)


async def test_retry_and_cancel_by_filter_want_a_yes(mesh: MeshProcesses) -> None:
    asked = await mesh.cli("command", "retry", "label:deploy=43", "!label:retry-of")
    assert asked.code == 2
    assert "retry of 1 command: nothing is done yet" in asked.err
    dry = await mesh.cli("command", "retry", "label:deploy=43", "--dry-run")
    assert (dry.code, "bad-2" in dry.out) == (0, True)
    done = await mesh.cli("command", "retry", "label:deploy=43", "!label:retry-of", "--yes")
    assert done.code == 0, done.err
    assert (await mesh.cli("command", "wait", done.out.strip())).code == 1

    async with mesh.client() as client:
        for number in range(3):
            await client.submit(["sleep", "600"], agent="web-2", labels={"stop": str(number)})
    unsure = await mesh.cli("command", "cancel", "label:stop")
    assert (unsure.code, "3 commands" in unsure.err) == (2, True)
    assert len(await found(mesh, "label:stop", "!state:cancelled")) == 3
    stopped = await mesh.cli("command", "cancel", "label:stop", "--yes")
    assert stopped.code == 0, stopped.err
    async with mesh.client() as client:
        for each in await client.find("label:stop"):
            assert (await client.wait(each.id, timeout_s=PATIENCE_S)).state == "cancelled"
    several = await mesh.cli("command", "cancel", "good-1", "bad-2")
    assert several.code == 6
    assert several.err.count("command_ended") == 2


async def test_viewer_retries_and_cancels_nothing(mesh: MeshProcesses) -> None:
    folder = mesh.directory / "eve"
    made = await mesh.cli("client", "create", "eve", "--role", "viewer", "--out", str(folder))
    assert made.code == 0, made.err
    for words in (("retry", "bad-1"), ("cancel", "long-1")):
        refused = await mesh.cli("command", *words, context=folder / "context.toml")
        assert (refused.code, "forbidden" in refused.err) == (6, True)


async def test_fan_out_is_retried_where_it_failed(mesh: MeshProcesses) -> None:
    flag = mesh.directory / "flag"
    script = f'mkdir "{flag}" 2>/dev/null || exit 1'
    async with mesh.client() as client:
        first = await client.fanouts.submit(
            "process",
            ProcessArgs(argv=["sh", "-c", script]),
            id="patch",
            group="web",
            at_once=1,
        )
        assert first.program.startswith("sh -c")
        ended = await client.fanouts.wait("patch", timeout_s=PATIENCE_S)
        assert ended.counts == {"failed": 1, "succeeded": 1}
    flag.rmdir()
    again = await mesh.cli("fanout", "retry", "patch", "--failed", "--id", "patch-2")
    assert (again.code, again.out) == (0, "patch-2\n")
    assert (await mesh.cli("fanout", "wait", "patch-2")).code == 0
    record: dict[str, object] = (await mesh.cli("fanout", "show", "patch-2", "-o", "json")).json
    assert (record["retry_of"], record["agents"]) == ("patch", 1)
    nothing = await mesh.cli("fanout", "retry", "patch-2", "--failed")
    assert nothing.code == 6
    assert "has no agent on which it did not succeed (nothing_to_retry)" in nothing.err
    async with mesh.client() as client:
        flag.rmdir()
        whole: FanoutRecord = await client.fanouts.retry("patch")
        assert (await client.fanouts.wait(whole.id, timeout_s=PATIENCE_S)).agents == 2
