"""Real programs, started and ended: no process of a task may outlive its end."""

import asyncio
import errno
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker_agent.core import program
from broker_agent.core.program import Ending
from broker_agent.executors.base import Job
from broker_agent.executors.conditions import own_conditions
from broker_agent.executors.process import ProcessExecutor, ProcessTask
from broker_agent.executors.process_groups import TaskProcesses, kill_orphans, process_start
from broker_agent.executors.registry import ExecutorPorts
from broker_agent.executors.spawn import CannotStart, SpawnOrder, find_program
from broker_agent.executors.starter import OnSpawned, Starter
from broker_agent.services.carrier import CarrierPost
from broker_agent.store.folders import Folders, TaskFolder
from broker_agent.warden.processes import read_marks
from broker_agent.warden.table import WardenTable
from schemas.messages.actions import ProcessArgs
from schemas.states import State
from tests.waiting import eventually

WAIT_S = 60.0
# Unique, as several test workers share one host.
ORPHANED = f"orphaned-{secrets.token_hex(4)}"


class Bench:
    """Starts programs in fresh folders and waits for their ends."""

    def __init__(self, root: Path, grace_s: float = 5.0) -> None:
        self.folders = Folders(root, keep=0)
        others: set[int] = set()
        self.carrier = CarrierPost(others)
        self.carrying = asyncio.ensure_future(self.carrier.run(asyncio.Event()))
        self.executor = ProcessExecutor(
            ExecutorPorts(
                loop=asyncio.get_running_loop(),
                grace_s=lambda: grace_s,
                elapsed=time.monotonic,
                marks={"MESH_AGENT": "a1", "MESH_INCARNATION": secrets.token_hex(8)},
                carrier=self.carrier,
                table=WardenTable(64),
                others=others,
                conditions=own_conditions(),
            )
        )
        self.count = 0
        self.pids: list[int] = []

    def start(self, args: ProcessArgs) -> tuple[ProcessTask, "asyncio.Future[Ending]", TaskFolder]:
        self.count += 1
        folder = self.folders.make(f"c{self.count}", 1)
        ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        job = Job(f"c{self.count}", 1, args, folder)
        task = self.executor.start(job, lambda: self.pids.append(task.pid), ended.set_result)
        return task, ended, folder

    async def run(self, *argv: str, **args: object) -> tuple[Ending, bytes, bytes]:
        _, ended, folder = self.start(ProcessArgs(argv=list(argv), **args))  # type: ignore[arg-type]
        async with asyncio.timeout(WAIT_S):
            ending = await ended
        return ending, folder.read(0, 1 << 20, 0), folder.read(1, 1 << 20, 0)


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def shell(text: str) -> ProcessArgs:
    return ProcessArgs(argv=["/bin/sh", "-c", text])


def python(text: str) -> ProcessArgs:
    return ProcessArgs(argv=[sys.executable, "-c", text])


async def until_printed(folder: TaskFolder, wanted: bytes) -> bytes:
    async with asyncio.timeout(WAIT_S):
        while True:
            printed = folder.read(0, 1 << 16, 0)
            if wanted in printed:
                return printed
            await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] not in {"Z", "X"}


async def test_streams_are_kept_apart_and_whole(bench: Bench) -> None:
    ending, out, err = await bench.run("/bin/sh", "-c", "echo out; echo err >&2; exit 3")
    assert (ending, out, err) == (Ending(State.FAILED, 3, ""), b"out\n", b"err\n")


async def test_success(bench: Bench) -> None:
    assert (await bench.run("true"))[0] == Ending(State.SUCCEEDED, 0, "")


async def test_arguments_reach_the_program_as_they_are(bench: Bench) -> None:
    words = ["*", "$HOME", "a b", "ä", "", "'\"\\"]
    _, out, _ = await bench.run("printf", "%s|", *words)
    assert out.decode() == "".join(f"{word}|" for word in words)


async def test_environment_is_small_and_the_marks_cannot_be_forged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_AGENT", "x")
    _, out, _ = await bench.run(
        "env", env={"OWN": "1", "MESH_AGENT": "forged", "MESH_COMMAND": "forged"}
    )
    env = dict(line.split("=", 1) for line in out.decode().splitlines())
    assert "SECRET_OF_THE_AGENT" not in env
    assert env["OWN"] == "1"
    assert (env["MESH_COMMAND"], env["MESH_ATTEMPT"], env["MESH_AGENT"]) == ("c1", "1", "a1")


async def test_standard_input_is_what_was_given_and_then_ends(bench: Bench) -> None:
    data = os.urandom(200_000)
    _, out, _ = await bench.run("cat", stdin=data)
    assert out == data
    assert (await bench.run("cat"))[1] == b""


async def test_folder_of_its_own_by_default(bench: Bench, tmp_path: Path) -> None:
    assert (await bench.run("pwd"))[1].decode().strip() == bench.folders.name("c1", 1) + "/work"
    assert (await bench.run("pwd", cwd="/"))[1] == b"/\n"
    assert Path.cwd() == Path("/") or Path.cwd().exists()


@pytest.mark.parametrize(
    ("argv", "code", "reason"),
    [
        (["no-such-program-here"], 127, "not found in PATH"),
        (["/no/such/program"], 127, "no such file"),
        (["/etc/passwd"], 126, "permission denied"),
    ],
)
async def test_program_that_cannot_start_gets_the_code_of_a_shell(
    bench: Bench, argv: list[str], code: int, reason: str
) -> None:
    ending = (await bench.run(*argv))[0]
    assert (ending.state, ending.exit_code) == (State.FAILED, code)
    assert reason in ending.reason
    assert not bench.pids
    assert not bench.executor.tasks


async def test_working_directory_that_cannot_be_entered_is_reported(bench: Bench) -> None:
    for cwd in ("/no/such/place", "no/such/place", "/etc/passwd"):
        ending = (await bench.run("true", cwd=cwd))[0]
        assert (ending.state, ending.exit_code) == (State.FAILED, 126)
        assert f"cannot enter {cwd}" in ending.reason


async def test_relative_names_are_those_of_its_folder(bench: Bench, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "here").symlink_to("/bin/pwd")
    assert (await bench.run("./here", cwd=str(place)))[1].decode() == f"{place}\n"
    env = {"PATH": ".:/bin"}
    assert (await bench.run("here", cwd="../../place", env=env))[1].decode() == f"{place}\n"
    assert Path.cwd() != place


class Hesitant(Starter):
    """A spawn that starts programs, and returns on request, or never."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.held: list[tuple[OnSpawned, int | CannotStart]] = []
        self.asked: list[Callable[[], bool]] = []

    def start(
        self,
        order: SpawnOrder,
        done: OnSpawned,
        is_wanted: Callable[[], bool] = lambda: True,
        prepare: Callable[[SpawnOrder], SpawnOrder] = lambda order: order,
    ) -> None:
        self.asked.append(is_wanted)
        super().start(order, lambda started: self.held.append((done, started)), prepare=prepare)

    async def tell(self) -> None:
        await eventually(lambda: self.held, WAIT_S)
        done, started = self.held.pop()
        done(started)


async def test_stop_before_the_start_ends_the_program_once_it_runs(tmp_path: Path) -> None:
    bench = Bench(tmp_path, grace_s=30.0)
    bench.executor._starter = starter = Hesitant(asyncio.get_running_loop())
    task, ended, _ = bench.start(ProcessArgs(argv=["sleep", "60"]))
    assert starter.asked[0]()
    task.stop(State.CANCELLED, "cancelled")
    task.stop(State.TIMED_OUT, "too late to matter")
    assert (task.pid, starter.asked[0]()) == (0, False)
    await starter.tell()
    async with asyncio.timeout(WAIT_S):
        assert await ended == Ending(State.CANCELLED, 128 + signal.SIGTERM, "cancelled")
    assert bench.pids == [task.pid]
    assert not is_alive(task.pid)


async def test_stop_of_a_queued_program_cancels_its_start(bench: Bench) -> None:
    tasks = [bench.start(ProcessArgs(argv=["sleep", "60"])) for _ in range(20)]
    for task, _, _ in tasks:
        task.stop(State.CANCELLED, "cancelled", 0.0)
    async with asyncio.timeout(WAIT_S):
        endings = [await ended for _, ended, _ in tasks]
    assert {ending.state for ending in endings} == {State.CANCELLED}
    assert {ending.exit_code for ending in endings} <= {None, 128 + signal.SIGKILL}
    assert None in {ending.exit_code for ending in endings}


async def test_hanging_start_does_not_delay_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "GIVE_UP_S", 0.1)
    bench = Bench(tmp_path, grace_s=0.1)
    bench.executor._starter = starter = Hesitant(asyncio.get_running_loop())
    task, ended, _ = bench.start(ProcessArgs(argv=["sleep", "60"]))
    task.stop(State.KILLED_FENCED, "fenced")
    async with asyncio.timeout(WAIT_S):
        assert await ended == Ending(State.KILLED_FENCED, None, "fenced")
    assert not bench.executor.tasks
    await eventually(lambda: starter.held, WAIT_S)
    pid = starter.held[0][1]
    assert isinstance(pid, int)
    assert is_alive(pid)
    await starter.tell()  # now it comes after all
    assert not is_alive(pid)
    assert not bench.pids


async def test_grace_counts_from_the_stop_even_before_the_start(tmp_path: Path) -> None:
    bench = Bench(tmp_path, grace_s=30.0)
    bench.executor._starter = starter = Hesitant(asyncio.get_running_loop())
    task, ended, _ = bench.start(shell("trap '' TERM; while :; do sleep 0.01; done"))
    task.stop(State.KILLED_FENCED, "fenced")
    task.stop(State.KILLED_FENCED, "fenced", 0.0)
    await starter.tell()
    async with asyncio.timeout(WAIT_S):
        assert await ended == Ending(State.KILLED_FENCED, 128 + signal.SIGKILL, "fenced")


async def test_program_being_started_when_the_agent_ends_is_killed(bench: Bench) -> None:
    tasks = [bench.start(ProcessArgs(argv=["sleep", "60"])) for _ in range(5)]
    bench.executor.kill_all()
    bench.executor.close()
    for pid in bench.pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert len(bench.pids) + sum(ended.done() for _, ended, _ in tasks) == 5
    with pytest.raises(CannotStart):
        bench.start(ProcessArgs(argv=["sleep", "60"]))


async def test_program_whose_end_would_not_be_noticed_does_not_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def refuse(pid: int, _: object) -> None:
        seen.append(pid)
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(bench.executor.exits, "watch", refuse)
    ending = (await bench.run("sleep", "60"))[0]
    assert ending == Ending(State.FAILED, None, "cannot watch it: too many open files")
    assert not is_alive(seen[0])
    assert not bench.executor.tasks


async def test_loop_is_not_blocked_during_exec(bench: Bench) -> None:
    turns = 0
    _, ended, _ = bench.start(ProcessArgs(argv=["true"]))
    while not bench.pids:
        turns += 1
        await asyncio.sleep(0)
    assert turns > 1
    async with asyncio.timeout(WAIT_S):
        await ended


def test_file_that_is_no_program_is_126_and_a_directory_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "plain").touch(mode=0o644)
    (tmp_path / "folder").mkdir()
    if os.geteuid():
        with pytest.raises(CannotStart) as caught:
            find_program("plain", str(tmp_path))
        assert caught.value.exit_code == 126
    with pytest.raises(CannotStart) as caught:
        find_program("folder", str(tmp_path))
    assert caught.value.exit_code == 127


async def test_end_by_signal_is_128_and_its_number(bench: Bench) -> None:
    ending = (await bench.run("/bin/sh", "-c", "kill -SEGV $$"))[0]
    assert ending == Ending(State.FAILED, 128 + signal.SIGSEGV, "ended by signal SIGSEGV")


async def test_broken_pipe_ends_a_program_as_everywhere_else(bench: Bench) -> None:
    """Python ignores SIGPIPE; programs that inherit this write to a closed pipe forever."""
    _, out, _ = await bench.run("/bin/sh", "-c", "(yes; echo $? >&2) | head -1")
    assert out == b"y\n"


async def test_timeout_ends_it(bench: Bench) -> None:
    ending = (await bench.run("sleep", "60", timeout_s=0.05))[0]
    assert ending.state is State.TIMED_OUT
    assert ending.exit_code == 128 + signal.SIGTERM
    assert "timeout_s (0.05)" in ending.reason


async def test_program_may_use_its_grace(bench: Bench) -> None:
    task, ended, folder = bench.start(
        shell("trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 0.01; done")
    )
    await until_printed(folder, b"up")
    task.stop(State.CANCELLED, "cancelled")
    async with asyncio.timeout(WAIT_S):
        assert await ended == Ending(State.CANCELLED, 4, "cancelled")
    assert folder.read(0, 100, 0) == b"up\nbye\n"


ESCAPES = {
    "ignores TERM": """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", __import__("os").getpid(), flush=True); time.sleep(60)
""",
    "child ignores TERM": """
import os, signal, time
pid = os.fork()
if pid == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("up", os.getpid(), flush=True); time.sleep(60)
os.waitpid(pid, 0)
""",
    "double fork, files closed": """
import os, signal, time
if os.fork() == 0:
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(1, b"up %d\\n" % os.getpid())
        for fd in range(3): os.close(fd)
        time.sleep(60)
    os._exit(0)
time.sleep(60)
""",
    "own group in the session": """
import os, signal, time
if os.fork() == 0:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("up", os.getpid(), flush=True); time.sleep(60)
time.sleep(60)
""",
    "stopped": """
import os, signal, time
if os.fork() == 0:
    print("up", os.getpid(), flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(60)
""",
}


@pytest.mark.parametrize("escape", ESCAPES)
async def test_nothing_escapes_a_stop(tmp_path: Path, escape: str) -> None:
    bench = Bench(tmp_path, grace_s=0.2)
    task, ended, folder = bench.start(python(ESCAPES[escape]))
    printed = await until_printed(folder, b"\n")
    pid = int(printed.split()[1])
    assert is_alive(pid)
    task.stop(State.CANCELLED, "cancelled")
    async with asyncio.timeout(WAIT_S):
        assert (await ended).state is State.CANCELLED
    assert not is_alive(pid)
    assert not bench.executor.tasks


@pytest.mark.parametrize("trap", ["", "trap '' TERM;"])
async def test_orphans_of_a_program_end_before_its_end_is_reported(
    tmp_path: Path, trap: str
) -> None:
    bench = Bench(tmp_path, grace_s=0.2)
    _, ended, folder = bench.start(shell(f"({trap} echo $$; exec sleep 60) & echo $!; exit 5"))
    async with asyncio.timeout(WAIT_S):
        assert await ended == Ending(State.FAILED, 5, "")
    pids = [int(word) for word in folder.read(0, 100, 0).split()]
    assert pids
    assert not any(is_alive(pid) for pid in pids)


async def test_descriptors_do_not_pile_up(bench: Bench) -> None:
    await bench.run("true")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        _, ended, folder = bench.start(ProcessArgs(argv=["true"], stdin=b"x"))
        async with asyncio.timeout(WAIT_S):
            await ended
        folder.close()
    # Companions of earlier tests may still be starting.
    await eventually(lambda: len(list(Path("/proc/self/fd").iterdir())) < before + 10, WAIT_S)


async def test_program_sees_no_descriptor_of_the_agent(bench: Bench, tmp_path: Path) -> None:
    held = (tmp_path / "held").open("w")
    _, out, _ = await bench.run("ls", "-l", "/proc/self/fd")
    held.close()
    assert b"held" not in out


@pytest.fixture
def orphan() -> Iterator[int]:
    """An orphan of a killed agent: in its own session, with its marks."""
    env = {"PATH": os.defpath, "MESH_COMMAND": ORPHANED, "MESH_ATTEMPT": "2"}
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], env, setsid=True)
    # Just after exec its environment cannot be read.
    until = time.monotonic() + WAIT_S
    while not read_marks(pid):
        assert time.monotonic() < until
    yield pid
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def test_orphan_is_found_by_its_journalled_pid(orphan: int) -> None:
    assert kill_orphans("other", 1, orphan, process_start(orphan)) == 1
    assert os.waitstatus_to_exitcode(os.waitpid(orphan, 0)[1]) == -signal.SIGKILL


def test_orphan_is_found_by_its_marks(orphan: int) -> None:
    assert kill_orphans(ORPHANED, 2, 0, 0) == 1


def test_process_that_reuses_the_pid_is_left_alone(orphan: int) -> None:
    assert kill_orphans("other", 1, orphan, process_start(orphan) + 1) == 0
    assert kill_orphans(ORPHANED, 1, 0, 0) == 0
    assert kill_orphans(ORPHANED, 2, 0, 0, mark=b"MESH_INCARNATION=other") == 0
    assert is_alive(orphan)


def test_session_is_found_as_a_whole(orphan: int) -> None:
    start = process_start(orphan)
    assert [each.pid for each in TaskProcesses().members(orphan, start, {b"NOT=ITS"})] == [orphan]
    assert TaskProcesses().members(orphan, start + 1, {b"NOT=ITS"}) == []
