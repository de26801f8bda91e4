"""User, attributes and cells of programs that start through the launcher."""

import asyncio
import ctypes
import json
import os
import pwd
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker_agent.core.program import Ending
from broker_agent.executors import cells as cells_of
from broker_agent.executors.account import find_account
from broker_agent.executors.base import Job
from broker_agent.executors.cells import Cells
from broker_agent.executors.conditions import conditions_of, file_limits
from broker_agent.executors.process import build
from broker_agent.executors.registry import ExecutorPorts
from broker_agent.services.carrier import CarrierPost
from broker_agent.settings import TaskSettings
from broker_agent.store.folders import Folders
from broker_agent.warden.processes import look
from broker_agent.warden.table import WardenTable
from schemas.faults import Refused
from schemas.messages.actions import ProcessArgs
from schemas.states import State
from tests.waiting import eventually

WAIT_S = 60.0
NOBODY = pwd.getpwnam("nobody")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
FACTS = """
import json, os, resource
status = dict(l.split(":", 1) for l in open("/proc/self/status"))
print(json.dumps({
    "uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(), "nice": os.nice(0),
    "caps": status["CapPrm"].strip() + status["CapEff"].strip() + status["CapAmb"].strip(),
    "umask": status["Umask"].strip(), "ignored": status["SigIgn"].strip(),
    "blocked": status["SigBlk"].strip(), "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "oom": open("/proc/self/oom_score_adj").read(),
    "fds": sorted(int(n) for n in os.listdir("/proc/self/fd"))[:-1], "env": dict(os.environ),
    "cwd": os.getcwd(), "sid": os.getsid(0) == os.getpid(), "parent": os.getppid(),
}))
"""
# Other users may not be able to run the interpreter of the tests.
PYTHON = "/usr/bin/python3"

# Source: prctl(2).
PR_SET_CHILD_SUBREAPER = 36


class Stage:
    """Runs programs with the conditions of `settings`, in folders that all users can reach."""

    def __init__(self, settings: TaskSettings, cells: Cells | None = None) -> None:
        self._root = tempfile.TemporaryDirectory(prefix="launcher-")
        root = Path(self._root.name)
        root.chmod(0o711)
        account = find_account(settings.user)
        owner = (account.uid, account.gid) if account.is_other else None
        self.folders = Folders(root, keep=0, owner=owner)
        self.incarnation = secrets.token_hex(8)
        others: set[int] = set()
        self.carrier = CarrierPost(others)
        self.carrying = asyncio.ensure_future(self.carrier.run(asyncio.Event()))
        ports = ExecutorPorts(
            loop=asyncio.get_running_loop(),
            grace_s=lambda: 5.0,
            elapsed=time.monotonic,
            marks={"MESH_AGENT": "a1", "MESH_INCARNATION": self.incarnation},
            carrier=self.carrier,
            table=WardenTable(64),
            others=others,
            conditions=conditions_of(settings, account, file_limits()),
            cells=cells or Cells(None, "", ""),
        )
        self.executor = build(ports)
        self.count = 0

    def start(self, *argv: str, **args: Any) -> tuple[Any, "asyncio.Future[Ending]", Any]:  # noqa: ANN401
        self.count += 1
        folder = self.folders.make(f"c{self.count}", 1)
        ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        job = Job(f"c{self.count}", 1, ProcessArgs(argv=list(argv), **args), folder)
        return self.executor.start(job, lambda: None, ended.set_result), ended, folder

    async def run(self, *argv: str, **args: Any) -> tuple[Ending, bytes, bytes]:  # noqa: ANN401
        _, ended, folder = self.start(*argv, **args)
        async with asyncio.timeout(WAIT_S):
            ending = await ended
        return ending, folder.read(0, 1 << 20, 0), folder.read(1, 1 << 20, 0)

    async def facts(self, **args: Any) -> dict[str, Any]:  # noqa: ANN401
        ending, out, err = await self.run(PYTHON, "-c", FACTS, **args)
        assert ending.state is State.SUCCEEDED, (ending, err)
        found: dict[str, Any] = json.loads(out)
        return found

    def close(self) -> None:
        self.executor.kill_all()
        self.executor.close()
        self.carrying.cancel()
        # Orphans of other tests' programs would stay zombies of this process.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        self._root.cleanup()


@pytest.fixture
async def nobody() -> AsyncIterator[Stage]:
    stage = Stage(TaskSettings(user="nobody"))
    yield stage
    stage.close()


@as_root
async def test_sec_s35_task_of_another_user_has_nothing_left_of_root(nobody: Stage) -> None:
    found = await nobody.facts()
    assert found["uid"] == [NOBODY.pw_uid] * 3
    assert found["gid"] == [NOBODY.pw_gid] * 3
    assert set(found["groups"]) == set(os.getgrouplist("nobody", NOBODY.pw_gid))
    assert set(found["caps"]) == {"0"}
    assert found["fds"] == [0, 1, 2]
    assert found["sid"]
    assert found["parent"] == os.getpid(), "the agent hears of its end itself"
    assert found["env"]["HOME"] == NOBODY.pw_dir
    assert found["env"]["USER"] == found["env"]["LOGNAME"] == "nobody"
    ending, _, err = await nobody.run("/bin/sh", "-c", 'touch here && cat "$PWD/here" && ls -A')
    assert ending.state is State.SUCCEEDED, err


@as_root
async def test_sec_s35_task_cannot_signal_trace_or_read_its_agent(
    nobody: Stage, tmp_path: Path
) -> None:
    secret = tmp_path / "key.pem"
    secret.write_bytes(b"secret")
    launchers = nobody.executor._launchers
    assert launchers is not None
    await nobody.run("true")
    for victim in (os.getpid(), *launchers.pids):
        ending, _, _ = await nobody.run("/bin/sh", "-c", f"kill -0 {victim}")
        assert ending.state is State.FAILED
        for name in ("environ", "mem", "fd/3"):
            ending, out, _ = await nobody.run("head", "-c1", f"/proc/{victim}/{name}")
            assert (ending.state, out) == (State.FAILED, b"")
    ending, out, err = await nobody.run("cat", str(secret))
    assert (ending.state, out) == (State.FAILED, b"")
    assert b"ermission denied" in err


@as_root
async def test_programs_and_folders_are_looked_up_as_the_tasks_user(
    nobody: Stage, tmp_path: Path
) -> None:
    """Programs and folders for root alone are denied, with the exit codes of a shell."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        tool = folder / "tool"
        tool.write_text("#!/bin/sh\necho ran\n")
        tool.chmod(0o700)
        env = {"PATH": f"{folder}:/usr/bin:/bin"}
        ending, _, _ = await nobody.run("tool", env=env)
        assert (ending.exit_code, ending.reason) == (126, "cannot run tool: permission denied")
        tool.chmod(0o755)
        assert (await nobody.run("tool", env=env))[1] == b"ran\n"
    ending, _, _ = await nobody.run("no-such-tool")
    assert (ending.exit_code, ending.reason) == (127, "cannot run no-such-tool: not found in PATH")
    tmp_path.chmod(0o700)
    ending, _, _ = await nobody.run("true", cwd=str(tmp_path))
    assert ending.reason.startswith(f"cannot enter {tmp_path}: permission denied")
    ending, _, _ = await nobody.run("/etc/passwd")
    assert (ending.exit_code, ending.reason) == (126, "cannot run /etc/passwd: permission denied")


ATTRIBUTES = TaskSettings(
    user=str(os.geteuid()),
    umask="027",
    nice=5,
    oom_score_adj=300,
    limits=("nofile=512:1024", "core=0"),
    pass_env=("HTTPS_PROXY",),
    env=("STAGE=test", "LC_ALL=C.UTF-8"),
)


async def test_attributes_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("OTHER", "x")
    stage = Stage(ATTRIBUTES)
    try:
        found = await stage.facts(env={"STAGE": "own"})
    finally:
        stage.close()
    assert found["umask"] == "0027"
    assert found["nice"] == 5
    assert found["oom"] == "300\n"
    assert found["files"] == [512, 1024]
    assert found["core"] == [0, 0]
    assert ignored(found["ignored"]) <= {signal.SIGPIPE, signal.SIGXFSZ}, "by Python itself"
    assert int(found["blocked"], 16) == 0
    env = found["env"]
    assert env["HTTPS_PROXY"] == "http://proxy:3128"
    assert (env["STAGE"], env["LC_ALL"]) == ("own", "C.UTF-8")
    assert "OTHER" not in env


AS_AGENT = """
import asyncio, fcntl, os, resource, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
os.environ["PYTHONPATH"] = sys.argv[1]
held = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
os.set_inheritable(held, True)
fcntl.flock(held, fcntl.LOCK_EX)
if os.geteuid() == 0:  # also where the tests themselves run at another priority
    os.setpriority(os.PRIO_PROCESS, 0, 0)
if sys.argv[4] == "launcher":
    os.nice(3)
resource.setrlimit(resource.RLIMIT_NOFILE, (600, 2048))
os.execv(sys.executable, [sys.executable, "-c", sys.argv[3], sys.argv[4]])
"""
TASK = """
import asyncio, os, sys
from broker_agent.executors.conditions import file_limits
from broker_agent.executors.spawn import keep_descriptors
from broker_agent.settings import TaskSettings
from tests.host.broker_agent.test_launcher import Stage
async def main():
    keep_descriptors()
    stage = Stage(TaskSettings(user=str(os.geteuid())))
    assert (stage.executor._launchers is not None) == (sys.argv[1] == "launcher")
    try:
        look = "cat /proc/self/status; ls -l /proc/self/fd; ulimit -n; nice"
        ending, out, err = await stage.run("sh", "-c", look)
    finally:
        stage.close()
    sys.stdout.buffer.write(out + err)
asyncio.run(main())
"""


@pytest.mark.parametrize("way", ["direct", "launcher"])
async def test_program_inherits_nothing_of_the_agents_parent(tmp_path: Path, way: str) -> None:
    """Covers ignored signals, inherited descriptors with their locks, and the priority."""
    root = str(Path(__file__).parents[3])
    held = tmp_path / "held.lock"
    env = {**os.environ, "PYTHONPATH": root}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", AS_AGENT, root, str(held), TASK, way),
        stdout=asyncio.subprocess.PIPE,
        env=env,
    )
    out, _ = await asyncio.wait_for(child.communicate(), WAIT_S)
    lines = out.decode().splitlines()
    status = dict(line.split(":", 1) for line in lines if ":\t" in line)
    assert not ignored(status["SigIgn"])
    assert "held.lock" not in out.decode()
    assert lines[-2] == "600"
    if os.geteuid() == 0:
        assert lines[-1] == "0"


def test_impossible_settings_are_refused_by_their_names() -> None:
    with pytest.raises(Refused, match=r"tasks\.user: no user 'no-such-user'"):
        find_account("no-such-user")
    if os.geteuid() == 0:
        assert find_account("").name in {"mesh-task", "nobody"}
        assert find_account("root").uid == 0


async def test_killed_launcher_is_replaced(tmp_path: Path) -> None:
    stage = Stage(ATTRIBUTES)
    try:
        assert (await stage.run("true"))[0].state is State.SUCCEEDED
        _, still, _ = stage.start("sleep", "60")
        launchers = stage.executor._launchers
        assert launchers is not None
        await eventually(lambda: any(task.pid for task in stage.executor.tasks), WAIT_S)
        before = launchers.starts
        for pid in launchers.pids:
            os.kill(pid, signal.SIGKILL)
        endings = [(await stage.run("true"))[0] for _ in range(8)]
        assert endings[-1].state is State.SUCCEEDED
        assert launchers.starts > before
        assert not still.done(), "what runs is no child of it"
    finally:
        stage.close()


@pytest.fixture
async def cells() -> AsyncIterator[Cells]:
    parent = cells_of.find_parent()
    if parent is None:
        pytest.skip("no cgroup v2 can be made here")
    made = Cells(parent, f"t{secrets.token_hex(4)}", "inc")
    yield made

    def is_empty() -> bool:
        made.sweep()
        return not list(Path(parent).glob(f"{Path(made.prefix).name}*"))

    await eventually(is_empty, WAIT_S)


ESCAPE = """
import os, sys, time
if {moves}:
    open("{out}/cgroup.procs", "w").write("0")
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
os.execve("/bin/sleep", ["sleep", "{seconds}"], {{}})
"""


@pytest.mark.parametrize("user", ["", pytest.param("nobody", marks=as_root)])
async def test_sec_s35_nothing_that_hides_at_once_outlives_its_task(
    cells: Cells, user: str
) -> None:
    """The program forks twice, takes a session of its own and clears its environment at once."""
    seconds = str(secrets.randbelow(10_000) + 50_000)
    stage = Stage(TaskSettings(user=user or str(os.geteuid())), cells)
    try:
        _, other, _ = stage.start("sleep", "60")
        script = ESCAPE.format(moves=False, out="", seconds=seconds)
        assert (await stage.run(PYTHON, "-c", script))[0].state is State.SUCCEEDED
        assert not sleepers(seconds)
        assert not other.done()
    finally:
        stage.close()


@as_root
async def test_sec_s35_another_user_cannot_leave_its_cell(cells: Cells) -> None:
    stage = Stage(TaskSettings(user="nobody"), cells)
    try:
        out = str(Path(cells.prefix).parent)
        script = ESCAPE.format(moves=True, out=out, seconds="1")
        ending, _, err = await stage.run(PYTHON, "-c", script)
        assert ending.state is State.FAILED
        assert b"Permission denied" in err
        _, told, _ = await stage.run("cat", "/proc/self/cgroup")
        assert f"-inc-c{stage.count}.1" in told.decode()
    finally:
        stage.close()


@as_root
async def test_sec_s35_root_that_left_its_cell_ends_with_the_last_task(cells: Cells) -> None:
    seconds = str(secrets.randbelow(10_000) + 60_000)
    stage = Stage(TaskSettings(user="root"), cells)
    try:
        script = ESCAPE.format(moves=True, out=Path(cells.prefix).parent, seconds=seconds)
        assert (await stage.run(PYTHON, "-c", script))[0].state is State.SUCCEEDED
        assert not sleepers(seconds)
    finally:
        stage.close()


@pytest.mark.parametrize("is_there", [True, False])
async def test_task_without_a_cell_runs_and_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_there: bool
) -> None:
    """The path of its cell is no control group, or cannot be made."""
    parent = tmp_path / "groups"
    if is_there:
        parent.mkdir()
    cells = Cells(str(parent), "a1", "inc")
    stage = Stage(TaskSettings(user=str(os.geteuid())), cells)
    try:
        ending, out, _ = await stage.run("echo", "there")
        assert (ending.state, out) == (State.SUCCEEDED, b"there\n")
        failed, _, _ = await stage.run("/nowhere/none")
        assert (failed.state, failed.exit_code) == (State.FAILED, 127)
    finally:
        stage.close()
    # A program that never ran has no processes to hide.
    assert cells.missed == 1
    assert cells.why in {"bad file descriptor", "no such file or directory"}
    said = capsys.readouterr()
    told = [line for line in (said.out + said.err).splitlines() if "task_without_cell" in line]
    assert len(told) == 1
    assert "c1" in told[0]


def ignored(mask: str) -> set[int]:
    """Return all signals except the two that the C library reserves."""
    found = int(mask, 16)
    return {number for number in range(1, 65) if found >> (number - 1) & 1} - {32, 33}


def sleepers(seconds: str) -> list[int]:
    wanted = f"sleep\0{seconds}\0".encode()
    found = []
    for pid in look():
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes() == wanted:
                found.append(pid)
        except OSError:
            continue
    return found
