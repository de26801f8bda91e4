"""The warden: its decisions, and its acts when the agent hangs or is gone."""

import asyncio
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from broker_agent.services.warden import WardenPost
from broker_agent.warden.processes import children, look, process_start, task_processes
from broker_agent.warden.table import NEVER, TableView, WardenTable, read_table
from broker_agent.warden.watch import Warden, WardenDecisions, kill_at, term_at
from broker_client.runtime.clock import SystemClock
from schemas.timers import Timers
from tests.children import rss_bytes
from tests.host.broker_agent.rig import WAIT_S, Rig
from tests.host.broker_agent.test_process import is_alive
from tests.waiting import eventually

RSS_MAX = 12 * 1024 * 1024


def view_of(table: WardenTable) -> TableView:
    return read_table(table.fd)


def renewed(table: WardenTable, at: float = 100.0) -> None:
    table.renew(at, grace_s=10.0, slack_s=0.5, tick_s=1.0)


def test_table_returns_the_entered_tasks() -> None:
    table = WardenTable(3)
    assert view_of(table).renewed_at == NEVER
    renewed(table)
    first = table.enter("c1.1", 35.0)
    second = table.enter("x" * 64 + ".999999999", 7200.0)
    assert [(r.pid, r.start) for r in view_of(table).records] == [(0, 0), (0, 0)]
    table.note_process(first, 4711, 99)
    table.note_process(second, 4712, 0)
    table.note_kill(second, 123.5)
    view = view_of(table)
    assert (view.renewed_at, view.grace_s, view.slack_s, view.tick_s) == (100.0, 10.0, 0.5, 1.0)
    found = {(r.name, r.pid, r.start, r.after_s, r.kill_at) for r in view.records}
    assert found == {
        ("c1.1", 4711, 99, 35.0, 0.0),
        ("x" * 64 + ".999999999", 4712, 0, 7200.0, 123.5),
    }
    table.clear(first)
    table.clear(first)
    assert [record.pid for record in view_of(table).records] == [4712]
    assert not view_of(table).is_over
    table.end()
    assert view_of(table).is_over
    table.close()


def test_full_table_refuses_tasks_and_a_cleared_place_is_reused() -> None:
    table = WardenTable(1)
    place = table.enter("c1.1", 1.0)
    assert table.enter("c2.1", 1.0) == -1
    table.note_process(-1, 1, 5)
    table.clear(-1)
    table.clear(place)
    assert table.enter("c2.1", 1.0) == place
    assert [record.key for record in view_of(table).records] == [(place, "c2.1")]
    table.close()


def decisions(watch: WardenDecisions, table: WardenTable, now: float) -> list[tuple[str, int]]:
    return [(record.name, number) for record, number in watch.due(view_of(table), now)]


def test_task_gets_one_term_and_a_kill_after_its_grace() -> None:
    table, watch = WardenTable(2), WardenDecisions()
    renewed(table)
    table.enter("c1.1", 35.0)
    table.enter("c2.1", 7200.0)
    assert decisions(watch, table, 135.4) == []
    assert decisions(watch, table, 135.5) == [("c1.1", signal.SIGTERM)]
    assert decisions(watch, table, 140.0) == []
    assert decisions(watch, table, 145.5) == [("c1.1", signal.SIGKILL)]
    assert decisions(watch, table, 146.0) == [("c1.1", signal.SIGKILL)]
    table.close()


def test_echo_moves_the_deadline() -> None:
    table, watch = WardenTable(1), WardenDecisions()
    renewed(table)
    table.enter("c1.1", 35.0)
    renewed(table, 130.0)
    assert decisions(watch, table, 160.0) == []
    assert term_at(view_of(table), view_of(table).records[0]) == 165.5
    table.close()


def test_task_stopped_by_the_agent_gets_only_the_kill() -> None:
    table, watch = WardenTable(1), WardenDecisions()
    renewed(table)
    place = table.enter("c1.1", 35.0)
    table.note_kill(place, 140.0)
    assert decisions(watch, table, 139.0) == []
    assert decisions(watch, table, 140.5) == [("c1.1", signal.SIGKILL)]
    assert kill_at(view_of(table), view_of(table).records[0]) == 140.5
    table.close()


def test_task_without_a_lease_is_ended_at_once() -> None:
    table, watch = WardenTable(1), WardenDecisions()
    table.enter("c1.1", 35.0)
    assert decisions(watch, table, 10.0) == [("c1.1", signal.SIGKILL)]
    table.close()


def test_warden_sleeps_until_the_next_deadline() -> None:
    table, watch = WardenTable(1), WardenDecisions()
    renewed(table)
    assert watch.pause_s(view_of(table), 100.0, is_orphaned=False) == 1.0
    table.enter("c1.1", 35.0)
    assert watch.pause_s(view_of(table), 100.0, is_orphaned=False) == 1.0
    assert watch.pause_s(view_of(table), 135.2, is_orphaned=False) == pytest.approx(0.3)
    assert watch.pause_s(view_of(table), 100.0, is_orphaned=True) == 0.5
    table.close()


def test_task_being_started_when_the_agent_died_is_looked_for_until_its_deadline(
    tmp_path: Path,
) -> None:
    """Its start goes on without the agent, so that no process may be found at first."""
    warden = Warden("MESH_INCARNATION=none", "", os.getpid(), str(tmp_path / "log"))
    table = WardenTable(2)
    renewed(table)
    table.enter("c1.1", 35.0)
    table.note_process(table.enter("c2.1", 35.0), 2**22 + 1, 7)
    view = view_of(table)
    assert [record.name for record in warden._living(view, 100.0)] == ["c1.1"]
    assert [record.name for record in warden._living(view, 146.0)] == ["c1.1"]
    assert warden._living(view, 148.0) == []
    table.close()


def test_task_gets_one_term_even_if_its_pid_is_known_later() -> None:
    table, watch = WardenTable(1), WardenDecisions()
    renewed(table)
    place = table.enter("c1.1", 35.0)
    assert decisions(watch, table, 135.5) == [("c1.1", signal.SIGTERM)]
    table.note_process(place, 4711, 99)
    assert decisions(watch, table, 136.0) == []
    table.close()


# With real processes.


class Post:
    """A running warden, and tasks as an agent starts them."""

    def __init__(self, rig: Rig, state_dir: Path) -> None:
        self.table = WardenTable(8)
        self.others: set[int] = set()
        self.post = WardenPost(rig.station, self.table, state_dir, cells="", others=self.others)
        self.log = state_dir / "warden.log"
        self._service = asyncio.create_task(self.post.run(asyncio.Event()))
        self._pids: list[int] = []
        self.incarnation = rig.lease.incarnation

    async def up(self) -> "Post":
        await eventually(lambda: self.post.pid, WAIT_S)
        return self

    def task(self, name: str, code: str, after_s: float) -> int:
        command, _, attempt = name.rpartition(".")
        env = {
            "MESH_COMMAND": command,
            "MESH_ATTEMPT": attempt,
            "MESH_INCARNATION": self.incarnation,
        }
        pid = os.posix_spawn(sys.executable, [sys.executable, "-c", code], env, setsid=True)
        self._pids.append(pid)
        self.table.note_process(self.table.enter(name, after_s), pid, process_start(pid))
        return pid

    async def die(self) -> None:
        """Crash as by kill -9: the pipe closes, and the table has no note of an orderly end."""
        self.table.end = lambda: None  # type: ignore[method-assign]
        await self.leave()

    async def leave(self) -> None:
        self._service.cancel()
        await asyncio.gather(self._service, return_exceptions=True)

    def bury(self) -> None:
        for pid in [*self._pids, *self.others]:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                continue


@pytest.fixture
async def post(tmp_path: Path) -> AsyncIterator[Post]:
    timers = Timers(beat_s=0.1, suspect_s=0.2, ack_s=0.1, resends=3, grace_s=0.5, lost_s=60)
    rig = Rig(tmp_path, timers=timers)
    rig.link()
    post = Post(rig, tmp_path)
    yield await post.up()
    await post.leave()
    post.bury()
    await rig.close()


SLEEP = "import time; time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1); {SLEEP}"


def ignores_term(pid: int) -> bool:
    """Whether a process ignores SIGTERM; the warden does once its imports are done."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(mask.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def gone(*pids: int) -> Callable[[], bool]:
    return lambda: not any(is_alive(pid) for pid in pids)


async def test_warden_is_small_and_ends_with_an_orderly_agent(post: Post) -> None:
    pid = post.post.pid
    assert is_alive(pid)
    assert os.getsid(pid) == pid
    await eventually(lambda: ignores_term(pid), WAIT_S)
    assert rss_bytes(pid) < RSS_MAX
    await post.leave()
    await eventually(gone(pid), WAIT_S)


async def test_tasks_of_a_dead_agent_end_at_their_deadlines_and_then_the_warden(post: Post) -> None:
    began = time.monotonic()
    short = post.task("c1.1", SLEEP, 0.8)
    stubborn = post.task("c2.1", STUBBORN, 0.8)
    held = post.task("c3.1", SLEEP, 6.0)
    warden = post.post.pid
    await post.die()
    await eventually(gone(short), WAIT_S)
    await eventually(gone(stubborn), WAIT_S)
    assert is_alive(held)
    assert is_alive(warden)
    await eventually(gone(held, warden), WAIT_S)
    assert time.monotonic() - began > 5.5
    assert "c1.1: sent signal 15 to 1 processes" in post.log.read_text()


async def test_task_of_an_agent_that_hangs_is_ended(post: Post) -> None:
    pid = post.task("c1.1", SLEEP, 0.8)
    await eventually(gone(pid), WAIT_S)
    assert is_alive(post.post.pid)


async def test_hidden_processes_of_a_task_are_found(post: Post) -> None:
    """The task forks twice, takes its own session and closes its files: only marks are left."""
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.closerange(0, 3); time.sleep(60)\n"
        "    os._exit(0)\n"
    )
    pid = post.task("c1.1", code, 0.8)
    os.waitpid(pid, 0)
    mark = f"MESH_INCARNATION={post.incarnation}".encode()
    marks = {b"MESH_COMMAND=c1", b"MESH_ATTEMPT=1", mark}

    def found() -> list[int]:
        return [each.pid for each in look().values() if marks <= each.marks]

    await eventually(lambda: len(found()) == 1, WAIT_S)
    hidden = found()
    await post.die()
    await eventually(gone(*hidden), WAIT_S)


async def test_reused_pid_is_left_alone(post: Post) -> None:
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {}, setsid=True)
    post._pids.append(pid)
    post.table.note_process(post.table.enter("c1.1", 0.2), pid, process_start(pid) + 1)
    post.table.note_process(post.table.enter("c2.1", 0.2), pid, 0)
    warden = post.post.pid
    await post.die()
    await eventually(gone(warden), WAIT_S)
    assert is_alive(pid)


async def test_killed_warden_is_replaced_and_the_next_has_all_tasks(post: Post) -> None:
    first = post.post.pid
    pid = post.task("c1.1", SLEEP, 3.0)
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: post.post.pid != first and is_alive(post.post.pid), WAIT_S)
    assert first not in post.others
    assert is_alive(pid)
    await post.die()
    await eventually(gone(pid), WAIT_S)


async def test_start_of_a_companion_is_retried_on_a_host_without_free_processes(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent and its tasks go on meanwhile."""
    first, start, refused = post.post.pid, post.post._start, []

    def cannot() -> int:
        refused.append(1)
        monkeypatch.setattr(post.post, "_start", start)
        raise BlockingIOError("no process is left")

    monkeypatch.setattr(post.post, "_start", cannot)
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: post.post.pid != first and is_alive(post.post.pid), WAIT_S)
    assert refused


async def test_signal_to_the_agents_group_does_not_end_the_warden(post: Post) -> None:
    await eventually(lambda: ignores_term(post.post.pid), WAIT_S)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(post.post.pid, number)
    pid = post.task("c1.1", SLEEP, 0.3)
    await eventually(gone(pid), WAIT_S)
    assert is_alive(post.post.pid)


def test_processes_of_a_task_are_found_exactly() -> None:
    command = f"k-{secrets.token_hex(4)}"
    env = {"MESH_COMMAND": command, "MESH_ATTEMPT": "1"}
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "env -i sleep 60 & wait"], env, setsid=True)
    other = os.posix_spawn("/bin/sleep", ["sleep", "60"], env | {"MESH_ATTEMPT": "2"}, setsid=True)
    try:
        until = time.monotonic() + WAIT_S
        while not children(pid) or Path(f"/proc/{children(pid)[0]}/comm").read_text() != "sleep\n":
            assert time.monotonic() < until
        marks = {f"MESH_COMMAND={command}".encode(), b"MESH_ATTEMPT=1"}
        child = children(pid)[0]
        seen, start = look(), process_start(pid)
        for known in (start, 0):
            assert {each.pid for each in task_processes(seen, pid, known, marks, set())} == {
                pid,
                child,
            }
        assert {each.pid for each in task_processes(seen, pid, start, {b"NO=1"}, set())} == {
            pid,
            child,
        }
        assert task_processes(seen, pid, start + 1, {b"NO=1"}, set()) == []
        assert task_processes(seen, pid, 0, {b"NO=1"}, set()) == []
    finally:
        for each in (pid, other):
            os.killpg(each, signal.SIGKILL)
            os.waitpid(each, 0)


def test_warden_and_agent_use_the_same_monotonic_clock() -> None:
    from broker_agent.warden import watch

    before = SystemClock().elapsed()
    read = time.clock_gettime(watch._CLOCK)
    assert before <= read <= SystemClock().elapsed()
