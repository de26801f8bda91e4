"""The warden's process: reads the table, waits for deadlines, ends tasks that have passed them.

    agent lives ──▶ the warden wakes now and then, reads the clock, sleeps
    agent hangs ──▶ the warden ends its tasks at their deadlines
    agent is gone ─▶ the same, and then the warden ends too

The warden has no children. When the warden dies, the agent starts another one, and no task notices.
"""

import os
import select
import signal
import stat
import sys
import time

from broker_agent.warden import cell
from broker_agent.warden.processes import Process, look, send, task_processes
from broker_agent.warden.table import NEVER, TableView, TaskRecord, read_table

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
# Interval of looks at killed tasks, and at the tasks of an agent that is gone.
_AGAIN_S = 0.5
# Time after its KILL for which a program that was being started when the agent died is looked for:
# its start goes on without the agent.
_UNBORN_S = 2.0
_LOG_MAX_BYTES = 64 * 1024
TABLE_FD = 3
LIFE_FD = 0


def term_at(view: TableView, record: TaskRecord) -> float:
    """Time of the warden's TERM, after that of the agent: a program gets one TERM."""
    if view.renewed_at == NEVER:
        return 0.0
    return view.renewed_at + record.after_s + view.slack_s


def kill_at(view: TableView, record: TaskRecord) -> float:
    at = term_at(view, record) + view.grace_s
    return min(at, record.kill_at + view.slack_s) if record.kill_at else at


class WardenDecisions:
    """Decisions of the warden. `asked`: tasks that got TERM, from the warden or the agent."""

    def __init__(self) -> None:
        self._asked: set[tuple[int, str]] = set()

    def due(self, view: TableView, now: float) -> list[tuple[TaskRecord, int]]:
        """Tasks to be signalled now, each with the number of the signal."""
        self._asked &= {record.key for record in view.records}
        found: list[tuple[TaskRecord, int]] = []
        for record in view.records:
            if now >= kill_at(view, record):
                found.append((record, signal.SIGKILL))
            elif (
                now >= term_at(view, record)
                and not record.kill_at
                and record.key not in self._asked
            ):
                self._asked.add(record.key)
                found.append((record, signal.SIGTERM))
        return found

    def pause_s(self, view: TableView, now: float, *, is_orphaned: bool) -> float:
        """Seconds until the next look. Without tasks only the agent's end wakes the warden."""
        pause_s = view.tick_s
        for record in view.records:
            next_at = kill_at(view, record)
            if record.key not in self._asked and not record.kill_at:
                next_at = term_at(view, record)
            pause_s = min(pause_s, next_at - now if next_at > now else _AGAIN_S)
        return max(0.01, min(pause_s, _AGAIN_S) if is_orphaned else pause_s)


class Warden:
    """Acts on the decisions. cells: path prefix of the control groups. spare: pid of the agent."""

    def __init__(self, mark: str, cells: str, spare: int, log_path: str) -> None:
        self._mark = mark.encode()
        self._cells = cells
        self._spare = {spare, os.getpid()}
        self._log_path = log_path
        self._watch = WardenDecisions()
        self._gone: set[tuple[int, str]] = set()

    def run(self) -> None:
        poll = select.poll()
        poll.register(LIFE_FD, 0)  # poll always reports the hang-up
        is_orphaned = False
        pause_s = 0.0
        while True:
            ended = poll.poll(pause_s * 1000)
            if ended and not is_orphaned:
                is_orphaned = True
                poll.unregister(LIFE_FD)
            view = read_table(TABLE_FD)
            if is_orphaned and view.is_over:
                return
            now = time.clock_gettime(_CLOCK)
            view.records = [record for record in view.records if record.key not in self._gone]
            if is_orphaned:
                view.records = self._living(view, now)
                if not view.records:
                    return
            for record, number in self._watch.due(view, now):
                self._signal(record, number)
            pause_s = self._watch.pause_s(view, now, is_orphaned=is_orphaned)

    def _members(self, record: TaskRecord, seen: dict[int, Process]) -> list[Process]:
        return task_processes(
            seen, record.pid, record.start, record.marks | {self._mark}, self._spare
        )

    def _living(self, view: TableView, now: float) -> list[TaskRecord]:
        """Tasks with live processes, or with a start under way. The agent enters no more tasks."""
        if not view.records:
            return []
        seen = look()
        living = []
        for record in view.records:
            if not record.pid and now < kill_at(view, record) + _UNBORN_S:
                living.append(record)
                continue
            path = self._cells + record.name
            if (self._cells and cell.is_inhabited(path)) or self._members(record, seen):
                living.append(record)
            else:
                self._gone.add(record.key)
                if self._cells:
                    cell.remove(path)
        return living

    def _signal(self, record: TaskRecord, number: int) -> None:
        seen = look()
        found = {process.pid: process for process in self._members(record, seen)}
        if self._cells:
            path = self._cells + record.name
            found |= {pid: seen[pid] for pid in cell.members(path) if pid in seen}
            if number == signal.SIGKILL:
                cell.kill(path)
        sent = sum(send(process, number) for process in found.values())
        if sent:
            self._note(f"{record.name}: sent signal {number} to {sent} processes")

    def _note(self, text: str) -> None:
        """Write one line to a file in the agent's folder: the agent's own log may be gone."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            # A task may have put a pipe in its place, which must not block the warden.
            fd = os.open(self._log_path, flags | os.O_NONBLOCK, 0o600)
            try:
                found = os.fstat(fd)
                if stat.S_ISREG(found.st_mode) and found.st_size < _LOG_MAX_BYTES:
                    os.write(fd, f"{stamp} {text}\n".encode())
            finally:
                os.close(fd)
        except OSError:
            return


def main(arguments: list[str]) -> None:
    """arguments: mark, path prefix of the cells (or empty), pid of the agent, path of the log."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a signal to the agent's group is for the agent
    os.chdir("/")
    mark, cells, agent, log_path = arguments[:4]
    Warden(mark, cells, int(agent), log_path).run()


if __name__ == "__main__":
    main(sys.argv[1:])
