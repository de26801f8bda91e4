"""What operators do all day on one mesh: ping, read output, choose agents, watch results."""

import asyncio
import re
import signal
from collections.abc import Iterator

import pytest

from tests.harness import MeshProcesses
from tests.meshes import shared_mesh
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

AGENTS = ("db-1", "web-1", "web-2", "web-3")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcesses]:
    groups = {"web": ("web-1", "web-2", "web-3"), "db": ("db-1",)}
    with shared_mesh(tmp_path_factory.mktemp("mesh"), groups) as made:
        yield made


# -- ping


async def test_ping_shows_each_answer_and_the_least_middle_and_greatest(
    mesh: MeshProcesses,
) -> None:
    answered = await mesh.cli("ping")
    assert answered.code == 0, answered.err
    lines = sorted(answered.out.splitlines())
    assert [line.split()[0] for line in lines] == [*AGENTS]
    assert all(re.fullmatch(r"\S+ +\d+\.\d ms", line) for line in lines)
    assert "4 of 4 agents answered: min " in answered.err
    chosen = await mesh.cli("ping", "web-*", "!agent:web-3", "-o", "jsonl")
    assert chosen.out.count("\n") == 2
    unknown = await mesh.cli("ping", "web-1", "web-9")
    assert (unknown.code, "web-9" in unknown.err) == (3, True)


async def test_ping_names_who_is_missing(mesh: MeshProcesses) -> None:
    mesh.agents["web-3"].signal(signal.SIGSTOP)
    try:
        missing = await mesh.cli("ping", "--wait", "0.5", "web-1", "web-3")
        assert missing.code == 5
        assert "1 of 2 agents answered" in missing.err
        assert "missing: web-3" in missing.err
        assert "web-3" in missing.out
    finally:
        mesh.agents["web-3"].signal(signal.SIGCONT)
    await mesh.wait_status("web-3", "active")


async def test_viewer_may_ping(mesh: MeshProcesses) -> None:
    folder = mesh.directory / "eve"
    made = await mesh.cli(
        *("client", "create", "eve", "--role", "viewer", "--group", "web", "--out", str(folder))
    )
    assert made.code == 0, made.err
    context = folder / "context.toml"
    assert (await mesh.cli("ping", "web-1", context=context)).code == 0
    assert (await mesh.cli("ping", "db-1", context=context)).code != 0


# -- output


async def test_logs_show_the_last_lines_and_when_they_were_printed(mesh: MeshProcesses) -> None:
    script = "for i in 1 2 3; do echo line $i; echo bad $i >&2; sleep 0.6; done; echo last"
    ran = await mesh.cli("run", "--id", "lines", "--agent", "web-1", "--", "sh", "-c", script)
    assert ran.code == 0, ran.err
    tail = await mesh.cli("command", "logs", "lines", "--tail", "2")
    assert (tail.out, tail.err) == ("line 3\nlast\n", "bad 2\nbad 3\n")
    stamped = (await mesh.cli("command", "logs", "lines", "--timestamps")).out.splitlines()
    times = [line.split(" ", 1)[0] for line in stamped]
    assert [line.split(" ", 1)[1] for line in stamped] == ["line 1", "line 2", "line 3", "last"]
    assert times == sorted(times)
    assert times[0] < times[2]
    whole = await mesh.cli("command", "logs", "lines", "--since", "1h")
    assert whole.out.count("\n") == 4
    since = await mesh.cli("command", "logs", "lines", "--since", times[2])
    assert since.out.splitlines()[0] == "line 3"


async def test_tail_of_what_runs_is_shown_and_then_what_follows(mesh: MeshProcesses) -> None:
    flag = mesh.directory / "go-on"
    script = f'seq 1000; while [ ! -e "{flag}" ]; do sleep 0.05; done; echo end'
    started = await mesh.cli(
        *("run", "--detach", "--id", "long-lines", "--agent", "web-2", "--", "sh", "-c", script)
    )
    assert started.code == 0, started.err
    async with mesh.client() as client, asyncio.timeout(PATIENCE_S):
        async for part in client.logs("long-lines", follow=True):
            if part.data.endswith(b"1000\n"):
                break
    following = asyncio.ensure_future(
        mesh.cli("command", "logs", "long-lines", "--tail", "3", "--follow")
    )
    try:
        await asyncio.sleep(0)
    finally:
        flag.touch()
    lines = (await following).out.splitlines()
    assert lines[-1] == "end"
    assert lines[-2:] == ["1000", "end"]
    assert len(lines) <= 4


async def test_small_output_that_came_with_its_result_has_the_time_of_its_end(
    mesh: MeshProcesses,
) -> None:
    ran = await mesh.cli("run", "--id", "small", "--agent", "web-1", "--", "echo", "hello")
    assert ran.code == 0, ran.err
    record = (await mesh.cli("command", "show", "small", "-o", "json")).json
    stamped = await mesh.cli("command", "logs", "small", "--timestamps")
    at, text = stamped.out.split(" ", 1)
    assert text == "hello\n"
    assert at <= record["ended_at"]


# -- results in lists


async def test_list_and_show_have_the_last_results_uptime_and_joined(mesh: MeshProcesses) -> None:
    for code in (0, 1, 0):
        await mesh.cli("run", "--agent", "db-1", "--", "sh", "-c", f"exit {code}")
    shown = await mesh.cli("agent", "show", "db-1")
    assert "last results  .F." in shown.out
    assert "joined" in shown.out
    listed = await mesh.cli("agent", "list", "db-*", "--columns", "agent,recent,uptime,joined")
    heading, row = listed.out.splitlines()
    assert heading.split() == ["AGENT", "LAST", "20", "UPTIME", "JOINED"]
    assert row.split()[:2] == ["db-1", ".F."]
    assert (await mesh.cli("agent", "list", "recent:*f*", "-o", "jsonl")).out.count("\n") == 1


async def test_list_names_the_end_of_a_pause_and_a_drain(mesh: MeshProcesses) -> None:
    started = await mesh.cli(
        *("run", "--detach", "--id", "holds", "--agent", "web-3", "--", "sleep", "600")
    )
    assert started.code == 0, started.err
    assert (await mesh.cli("agent", "pause", "db-1", "--for", "2h")).code == 0
    assert (await mesh.cli("agent", "disable", "web-3")).code == 0
    rows = (await mesh.cli("agent", "list", "status:disabled", "--columns", "agent,reason")).out
    assert re.search(r"^db-1 +until \S+", rows, re.MULTILINE)
    assert re.search(r"^web-3 +draining: ", rows, re.MULTILINE)
    await mesh.cli("command", "cancel", "holds")
    for name in ("db-1", "web-3"):
        assert (await mesh.cli("agent", "enable", name)).code == 0
        await mesh.wait_status(name, "active")
