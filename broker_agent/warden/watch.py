"""The warden itself: reads the table, waits for deadlines, ends what has outlived its own.

    agent lives ──▶ wakes now and then, looks at a clock, sleeps
    agent hangs ──▶ its tasks end at their deadlines all the same
    agent is gone ─▶ the same, and then this process ends too

It is no parent of the tasks and of nobody: when it dies, nothing happens but that the agent starts
another one.
"""

import os
import select
import signal
import stat
import sys
import time

from broker_agent.warden import cell
from broker_agent.warden.kin import Process, kin, look, send
from broker_agent.warden.table import NEVER, Record, View, read_table

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
# How often it looks at what it has killed, or whether what a dead agent left still lives.
_AGAIN_S = 0.5
# A program that was just being started when the agent died is looked for until so long after it
# would have been killed: its loading goes on without the agent.
_UNBORN_S = 2.0
_LOG_MAX_BYTES = 64 * 1024
TABLE_FD = 3
LIFE_FD = 0


def term_at(view: View, record: Record) -> float:
    """When a task is asked to end. The agent does it first: a program is not to be asked twice."""
    if view.renewed_at == NEVER:
        return 0.0
    return view.renewed_at + record.after_s + view.slack_s


def kill_at(view: View, record: Record) -> float:
    at = term_at(view, record) + view.grace_s
    return min(at, record.kill_at + view.slack_s) if record.kill_at else at


class Watch:
    """Decides. `asked`: the tasks that were asked to end, by it or by the agent."""

    def __init__(self) -> None:
        self._asked: set[tuple[int, str]] = set()

    def due(self, view: View, now: float) -> list[tuple[Record, int]]:
        """What is to be signalled now, and how."""
        self._asked &= {record.key for record in view.records}
        found: list[tuple[Record, int]] = []
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

    def pause_s(self, view: View, now: float, *, is_orphaned: bool) -> float:
        """How long nothing needs to be looked at. Without tasks only the agent's end matters."""
        pause_s = view.tick_s
        for record in view.records:
            next_at = kill_at(view, record)
            if record.key not in self._asked and not record.kill_at:
                next_at = term_at(view, record)
            pause_s = min(pause_s, next_at - now if next_at > now else _AGAIN_S)
        return max(0.01, min(pause_s, _AGAIN_S) if is_orphaned else pause_s)


class Warden:
    """Acts. cells: how the path of each task's control group begins. spare: the agent."""

    def __init__(self, mark: str, cells: str, spare: int, log_path: str) -> None:
        self._mark = mark.encode()
        self._cells = cells
        self._spare = {spare, os.getpid()}
        self._log_path = log_path
        self._watch = Watch()
        self._gone: set[tuple[int, str]] = set()

    def run(self) -> None:
        poll = select.poll()
        poll.register(LIFE_FD, 0)  # its end is reported without being asked for
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

    def _members(self, record: Record, seen: dict[int, Process]) -> list[Process]:
        return kin(seen, record.pid, record.start, record.marks | {self._mark}, self._spare)

    def _living(self, view: View, now: float) -> list[Record]:
        """The tasks of which anything lives, or may yet; nobody enters a task any more."""
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

    def _signal(self, record: Record, number: int) -> None:
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
        """One line in a file of the agent's folder: the agent's own log may be gone."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            # A pipe in its place, which a task may have put there, must not hold us up.
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
    """mark, start of the cells' paths (or empty), pid of the agent, path of the log."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # who ends an agent's group means the agent
    os.chdir("/")
    mark, cells, agent, log_path = arguments[:4]
    Warden(mark, cells, int(agent), log_path).run()


if __name__ == "__main__":
    main(sys.argv[1:])
