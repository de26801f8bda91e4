"""Daily work of operators on one mesh: ping, read output, choose agents, watch results."""

import asyncio
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
from itertools import pairwise
from pathlib import Path

import pytest

from schemas.moments import parse_rfc3339
from tests.harness import MeshProcesses, program
from tests.meshes import mesh_fixture
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

AGENTS = ("db-1", "web-1", "web-2", "web-3")


mesh = mesh_fixture({"web": ("web-1", "web-2", "web-3"), "db": ("db-1",)})


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
    flag = mesh.directory / "seen"
    wait = f'while [ ! -e "{flag}-$i" ]; do sleep 0.05; done'
    script = f"for i in 1 2 3; do echo line $i; echo bad $i >&2; {wait}; done; echo last"
    run = ("run", "--detach", "--id", "lines", "--agent", "web-1", "--", "sh", "-c", script)
    assert (await mesh.cli(*run)).code == 0
    # Each line is stored before the next is printed, so each has a time of its own.
    for number in range(1, 4):
        async with asyncio.timeout(PATIENCE_S):
            while f"line {number}" not in (await mesh.cli("command", "logs", "lines")).out:
                pass
        Path(f"{flag}-{number}").touch()
    assert (await mesh.cli("command", "wait", "lines")).code == 0
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


# -- agents as targets


async def statuses(mesh: MeshProcesses) -> dict[str, str]:
    listed = await mesh.cli("agent", "list", "-o", "json")
    return {each["agent"]: each["status"] for each in listed.json}


async def test_verbs_of_agents_take_filters_and_want_a_yes(mesh: MeshProcesses) -> None:
    asked = await mesh.cli("agent", "disable", "web-*", "!web-3")
    assert asked.code == 2
    assert "disable of 2 agents: nothing is done yet" in asked.err
    assert [line.split()[0] for line in asked.out.splitlines()[1:]] == ["web-1", "web-2"]
    dry = await mesh.cli("agent", "disable", "web-1", "--dry-run")
    assert (dry.code, "web-1" in dry.out) == (0, True)
    assert set((await statuses(mesh)).values()) == {"active"}
    done = await mesh.cli("agent", "disable", "web-*", "!web-3", "--yes", "--note", "disk")
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 2
    found = await statuses(mesh)
    assert [name for name, status in found.items() if status == "disabled"] == ["web-1", "web-2"]
    assert (await mesh.cli("agent", "enable", "web-1", "web-2")).code == 0
    for name in ("web-1", "web-2"):
        await mesh.wait_status(name, "active")


async def test_fault_of_one_agent_is_none_of_the_others(mesh: MeshProcesses) -> None:
    tagged = await mesh.cli("agent", "set", "web-1", "nobody", "web-2", "--tag", "site=a")
    assert tagged.code == 3
    assert [line.split()[1] for line in tagged.out.splitlines()] == ["web-1:", "web-2:"]
    assert "nobody" in tagged.err
    nothing = await mesh.cli("agent", "enable", "zzz-*", "--yes")
    assert (nothing.code, nothing.out) == (0, "")
    assert "0 agents: nothing is done" in nothing.err
    assert (await mesh.cli("agent", "pause", "--for", "2h")).code == 2


async def test_run_takes_the_words_of_a_filter_as_targets(mesh: MeshProcesses) -> None:
    assert (await mesh.cli("agent", "set", "web-*", "!web-3", "--tag", "site=a", "--yes")).code == 0
    words = ("run", "--all", "web-*", "tag:site=a")
    dry = await mesh.cli(*words, "--dry-run", "--batch", "50%", "--", "uname")
    assert dry.code == 0, dry.err
    assert [line.split()[0] for line in dry.out.splitlines()[1:]] == ["web-1", "web-2"]
    assert "2 agents, 1 at the same time: nothing is done" in dry.err
    alone = await mesh.cli(*words, "--dry-run")
    assert (alone.code, alone.out) == (0, dry.out)
    assert "2 agents: nothing is done" in alone.err
    before = (await mesh.cli("fanout", "list", "-o", "json")).json
    ran = await mesh.cli(
        *words, "--id", "chosen", "--batch", "50%", "--", "echo", "tag:x", "--", "y"
    )
    assert ran.code == 0, ran.err
    assert sorted(ran.out.splitlines()) == ["web-1 | tag:x -- y", "web-2 | tag:x -- y"]
    after = (await mesh.cli("fanout", "list", "-o", "json")).json
    assert len(after) == len(before) + 1
    assert after[0]["at_once"] == 1
    none = await mesh.cli("run", "--all", "zzz-*", "--", "uname")
    assert (none.code, "tags_unmatched" in none.err) == (6, True)
    wrong = await mesh.cli("run", "--all", "status:activ", "--", "uname")
    assert (wrong.code, "did you mean active?" in wrong.err) == (2, True)


# -- fan-outs


async def test_batches_rest_and_the_rest_is_kept_and_obeyed(mesh: MeshProcesses) -> None:
    ran = await mesh.cli(
        *("run", "--all", "--group", "web", "--id", "slow", "--batch", "1"),
        *("--batch-sleep", "1s", "--", "true"),
    )
    assert ran.code == 0, ran.err
    record = (await mesh.cli("fanout", "show", "slow", "-o", "json")).json
    assert record["batch_sleep_s"] == 1.0
    starts: list[float] = []
    for member in record["members"]:
        shown = await mesh.cli("command", "show", member["command"], "-o", "json")
        starts.append(parse_rfc3339(shown.json["submitted_at"]))
    assert all(later - sooner >= 0.99 for sooner, later in pairwise(sorted(starts)))
    alone = await mesh.cli("run", "--all", "--group", "web", "--batch-sleep", "1s", "--", "true")
    assert (alone.code, "needs --batch" in alone.err) == (2, True)


SCRIPT = 'echo "hello $MESH_AGENT"; case $MESH_AGENT in web-2) echo bad >&2; exit 3;; esac'


@pytest.mark.parametrize(
    ("display", "shown"),
    [("all", {"web-1", "web-2", "web-3"}), ("ok", {"web-1", "web-3"}), ("failed", {"web-2"})],
)
async def test_display_chooses_whose_output_is_shown(
    mesh: MeshProcesses, display: str, shown: set[str]
) -> None:
    ran = await mesh.cli(
        *("run", "--all", "--group", "web", "--display", display, "--", "sh", "-c", SCRIPT)
    )
    assert ran.code == 5
    printed = [line.split(" | ")[0] for line in ran.out.splitlines() if " | " in line]
    assert set(printed) == shown


async def test_output_of_each_agent_is_kept_whole_in_files(mesh: MeshProcesses) -> None:
    folder = mesh.directory / "outputs"
    script = "seq 20000; echo bad >&2"
    words = ("run", "--all", "web-*", "--out", str(folder), "--", "sh", "-c", script)
    ran = await mesh.cli(*words)
    assert ran.code == 0, ran.err
    assert sorted(each.name for each in folder.iterdir()) == sorted(
        f"web-{number}.{stream}" for number in (1, 2, 3) for stream in ("stdout", "stderr")
    )
    whole = "".join(f"{number}\n" for number in range(1, 20001))
    for number in (1, 2, 3):
        assert (folder / f"web-{number}.stdout").read_text() == whole
    assert (folder / "web-3.stderr").read_text() == "bad\n"
    assert ran.out == ""
    again = await mesh.cli(*words)
    assert (again.code, "not empty" in again.err) == (2, True)


async def test_live_output_comes_before_the_end_behind_names(mesh: MeshProcesses) -> None:
    flag = mesh.directory / "live"
    script = f'echo first; while [ ! -e "{flag}" ]; do sleep 0.05; done; printf last'
    process = subprocess.Popen(
        program(
            *("mesh", "--context", str(mesh.admin_context), "run", "--all", "web-*", "--live"),
            *("--", "sh", "-c", script),
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=mesh.env,
        text=True,
    )
    assert process.stdout is not None
    try:
        lines = {await asyncio.to_thread(process.stdout.readline) for _ in range(3)}
        assert lines == {f"web-{number} | first\n" for number in (1, 2, 3)}
        assert process.poll() is None
        flag.touch()
        rest, said = await asyncio.to_thread(process.communicate, timeout=60)
    finally:
        process.kill()
        process.wait()
    assert sorted(rest.splitlines()) == [f"web-{number} | last" for number in (1, 2, 3)]
    assert process.returncode == 0, said


# -- on a terminal


@pytest.mark.parametrize("words", [("top",), ("agent", "list", "--watch", "--every", "0.2")])
async def test_q_leaves_what_is_shown_live_and_the_terminal_is_as_before(
    mesh: MeshProcesses, words: tuple[str, ...]
) -> None:
    leader, follower = pty.openpty()
    before = termios.tcgetattr(follower)
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = subprocess.Popen(
        program("mesh", "--context", str(mesh.admin_context), *words),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**mesh.env, "TERM": "xterm"},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  (a test)
    )
    try:
        seen = b""
        while b"web-1" not in seen:
            seen += await asyncio.to_thread(os.read, leader, 65536)
        os.write(leader, b"xq")
        while await asyncio.to_thread(_rest, leader, process):
            pass
        assert process.returncode == 0
        assert termios.tcgetattr(follower)[3] == before[3]
    finally:
        process.kill()
        process.wait()
        os.close(leader)
        os.close(follower)


def _rest(leader: int, process: "subprocess.Popen[bytes]") -> bool:
    """Whether the process goes on; what it still writes is read away."""
    readable, _, _ = select.select([leader], [], [], 0.1)
    if readable:
        os.read(leader, 65536)
    return process.poll() is None


async def test_bar_of_a_fan_out_names_who_is_missing(mesh: MeshProcesses) -> None:
    flag = mesh.directory / "bar"
    script = f'[ "$MESH_AGENT" = web-2 ] || exit 0; while [ ! -e "{flag}" ]; do sleep 0.05; done'
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    words = ("run", "--all", "web-*", "--", "sh", "-c", script)
    process = subprocess.Popen(
        program("mesh", "--context", str(mesh.admin_context), *words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=follower,
        env={**mesh.env, "TERM": "xterm"},
    )
    try:
        seen = b""
        while b"2 of 3 agents have ended, 0 not well; missing: web-2" not in seen:
            seen += await asyncio.to_thread(os.read, leader, 65536)
        flag.touch()
        while await asyncio.to_thread(_rest, leader, process):
            pass
        assert process.returncode == 0
    finally:
        flag.touch()
        process.kill()
        process.communicate()
        os.close(leader)
        os.close(follower)
