"""`make demo` as a new user starts it: no terminal, an empty HOME, nothing set."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_master.demo.crew import Crew, DemoFailed
from broker_master.demo.interrupts import Interrupts
from broker_master.demo.relay import Relay
from tests.servers import server_binary
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.integration

ONCE_S = 120.0
LOSS_S = 90.0
STOP_S = 60.0
DEMO = [sys.executable, "-m", "broker_master.demo"]


@pytest.fixture(autouse=True)
def server() -> None:
    server_binary()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Settings of another mesh lie around; the demo must not hear of them."""
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESH_")}
    return {
        **kept,
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "MESH_CONTEXT": "/nowhere.toml",
        "MESH_NATS_URL": "tls://127.0.0.1:1",
    }


def processes_of(folder: Path) -> Iterator[str]:
    """Every process that was started with `folder`, or a path below it, in sight."""
    mark = os.fsencode(folder)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            seen = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            where = os.fsencode((entry / "cwd").readlink())
        except OSError:
            continue
        if mark in seen or where.startswith(mark):
            yield f"{entry.name} {seen[:200]!r}"


def test_demo_once_runs_its_commands_and_leaves_nothing(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    ended = subprocess.run(
        [*DEMO, "--once"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ONCE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "line 1\nline 2\nline 3\nline 4\nline 5\n" in ended.stdout
    assert ended.stderr.startswith("disk is full\n")
    assert os.uname().release in ended.stdout
    for agent in ("web-1", "web-2", "db-1"):
        assert re.search(rf"^{agent} +\w+ +active ", ended.stdout, re.MULTILINE), agent
    assert re.search(r"^\S+ +failed +3 +db-1 ", ended.stdout, re.MULTILINE)
    assert re.search(r"^Console: http://127\.0\.0\.1:\d+$", ended.stdout, re.MULTILINE)
    assert "\x1b" not in ended.stdout
    for command in commands_on_the_page():
        assert f"$ {command}\n" in ended.stdout, "the README shows another demo"
    assert max(len(line) for line in ended.stdout.splitlines() if str(tmp_path) not in line) <= 80
    assert list(processes_of(tmp_path)) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_demo_loss_shows_both_countdowns_and_loses_nothing(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    ended = subprocess.run(
        [*DEMO, "--loss"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LOSS_S,
        check=False,
    )
    said = ended.stdout
    assert ended.returncode == 0, said + ended.stderr
    assert ended.stderr == ""
    assert re.search(r"^ +\d+\.\d s +suspect, .* fence in \d+\.\d s", said, re.MULTILINE)
    assert re.search(r" unknown, given up in \d+\.\d s$", said, re.MULTILINE)
    assert re.search(r"^state +unknown since \d{4}-", said, re.MULTILINE)
    silence = re.search(r"^returned +after (\d+) s: 1 task went on, 0 ended", said, re.MULTILINE)
    assert silence is not None, said
    assert int(silence[1]) >= 8
    assert said.count("\n  yes  ") == 5
    assert "60 of 60 lines arrived, once and in order" in said
    # The temporary folder of a test has a longer name than that of a user.
    lines = [line for line in said.splitlines() if str(tmp_path) not in line]
    assert max(len(line) for line in lines) <= 80
    assert list(processes_of(tmp_path)) == []
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_relay_lets_nothing_through_while_it_is_cut_and_serves_who_came_meanwhile() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    with Relay(server.sockets[0].getsockname()[1]) as relay:
        async with server, asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            writer.write(b"before\n")
            assert await reader.readline() == b"before\n"
            relay.cut()
            writer.write(b"meanwhile\n")
            late_reader, late_writer = await asyncio.open_connection("127.0.0.1", relay.port)
            late_writer.write(b"late\n")
            answers = [asyncio.ensure_future(each.readline()) for each in (reader, late_reader)]
            arrived, _ = await asyncio.wait(answers, timeout=0.3)
            assert arrived == set()
            relay.heal()
            assert await answers[1] == b"late\n"
            with contextlib.suppress(ConnectionError):
                assert await answers[0] == b""
            for each in (writer, late_writer):
                each.close()


def commands_on_the_page() -> list[str]:
    page = (Path(__file__).parents[2] / "README.md").read_text()
    block = page.split("$ make demo ONCE=1\n")[1].split("```")[0]
    return [line[2:] for line in block.splitlines() if line.startswith("$ ")]


def test_demo_stays_until_it_is_asked_to_end_and_keeps_a_folder_that_was_named(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    said = tmp_path / "said"
    folder = tmp_path / "state"
    with said.open("wb") as file:
        demo = subprocess.Popen(
            [*DEMO, "--state-dir", str(folder)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        wait_said(demo, said, "Ctrl-C ends all of it")
        context = re.search(r"export MESH_CONTEXT=(/\S+)", said.read_text())
        assert context is not None
        run_on_it(environment, context[1])
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(STOP_S) == 0
    finally:
        demo.kill()
        demo.wait()
    assert list(processes_of(folder)) == []
    assert (folder / "mesh" / "mesh.toml").exists()


def wait_said(demo: subprocess.Popen[bytes], said: Path, words: str) -> None:
    def is_said() -> bool:
        assert demo.poll() is None, said.read_text()
        return words in said.read_text()

    asyncio.run(eventually(is_said, ONCE_S, what=words))


def run_on_it(environment: dict[str, str], context: str) -> None:
    """A command of the user's own that is still running when the demo is asked to end."""
    mesh = str(Path(sys.executable).with_name("mesh"))
    program = [mesh, "--context", context, "run", "--group", "web", "--detach", "--"]
    subprocess.run([*program, "sleep", "600"], env=environment, check=True, timeout=60)


@pytest.mark.parametrize("words", ["A broker", "$ broker-master serve", "$ mesh group create db"])
def test_demo_that_is_interrupted_leaves_nothing(
    tmp_path: Path, environment: dict[str, str], words: str
) -> None:
    demo = subprocess.Popen(
        DEMO, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        assert demo.stdout is not None
        while not demo.stdout.readline().startswith(words):
            assert demo.poll() is None
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=STOP_S)
        assert demo.returncode == 128 + signal.SIGINT
    finally:
        demo.kill()
        demo.communicate()
    assert list(processes_of(tmp_path)) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_demo_refuses_a_folder_that_holds_something(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "mine").write_text("kept")
    ended = subprocess.run(
        [*DEMO, "--once", "--state-dir", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=ONCE_S,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == f"demo: {tmp_path} is not empty: name a new folder\n"


def test_demo_refuses_a_folder_that_is_a_file(tmp_path: Path, environment: dict[str, str]) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file where a folder is wanted")
    ended = subprocess.run(
        [*DEMO, "--once", "--state-dir", str(taken)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=ONCE_S,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == f"demo: cannot use {taken}: File exists\n"


def test_process_that_does_not_start_is_quoted_and_its_log_named(tmp_path: Path) -> None:
    crew = Crew(tmp_path, Interrupts())
    crew.start("master", ["broker-master", "serve", "--state-dir", "mesh"])
    try:
        with pytest.raises(DemoFailed) as failed:
            crew.wait_ready("master")
    finally:
        crew.stop()
    said, where = str(failed.value).splitlines()
    assert said.startswith("master did not start: broker-master: ")
    assert "(state_missing)" in said
    assert where == f"  log: {tmp_path}/logs/master.log"


def test_command_that_fails_is_quoted_on_one_line(tmp_path: Path) -> None:
    with pytest.raises(DemoFailed) as failed:
        Crew(tmp_path, Interrupts()).take(["mesh", "group", "list"])
    said, where = str(failed.value).splitlines()
    assert said.startswith("`mesh group list` ended with 78: mesh: there is no context at ")
    assert where == f"  logs: {tmp_path}/logs"
    assert "context_invalid" in (tmp_path / "logs" / "commands.log").read_text()
