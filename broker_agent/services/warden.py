"""Keeps the warden: starts it, starts another when it dies, lets it go when the agent ends."""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from broker_agent.services.wire import Station
from broker_agent.warden.table import NEVER, Table
from broker_agent.warden.watch import LIFE_FD, TABLE_FD
from schemas.timers import Timers

# The warden waits so much longer than the agent, which is to be the first.
SLACK_S: Final = 0.5
RESTART_S: Final = 1.0
LEAVE_S: Final = 1.0

_PROGRAM: Final = (
    "import sys; sys.path.append(sys.argv.pop(1));"
    " from broker_agent.warden.watch import main; main(sys.argv[1:])"
)

log = structlog.get_logger(__name__)


class WardenPost:
    """table: what it reads. cells: how the paths of the tasks' control groups begin.

    others: where the pid of a child that is no task is noted, for whoever buries orphans.
    """

    name = "warden"

    def __init__(
        self, station: Station, table: Table, state_dir: Path, *, cells: str, others: set[int]
    ) -> None:
        self._lease = station.lease
        self._table = table
        self._cells = cells
        self._others = others
        self._log_path = state_dir / "warden.log"
        self._told: Timers | None = None
        self.pid = 0
        self.starts = 0

    def tell(self) -> None:
        """The lease was renewed, or the timers have changed."""
        timers, renewed_at = self._lease.timers, self._lease.renewed_at
        self._table.renew(
            NEVER if renewed_at is None else renewed_at,
            grace_s=timers.grace_s,
            slack_s=min(SLACK_S, timers.beat_s / 10),
            tick_s=min(1.0, timers.unrecoverable_s / 4),
        )

    async def run(self, ready: asyncio.Event) -> None:
        self.tell()
        try:
            while True:
                try:
                    await self._keep_one(ready)
                    log.error("warden_ended", pid=self.pid)
                except OSError as error:
                    if not self.starts:
                        raise
                    # The host is out of processes, memory or descriptors, which may have ended the
                    # last one as well. The tasks are not to be ended for that: it is tried again.
                    log.exception("warden_not_started", error=str(error))
                await asyncio.sleep(RESTART_S)
        finally:
            self._let_go()

    async def _keep_one(self, ready: asyncio.Event) -> None:
        life = self._start()
        try:
            ready.set()
            await self._wait_end()
        finally:
            os.close(life)

    def _start(self) -> int:
        """Start it; its life ends with the descriptor that is returned, or soon after."""
        theirs, ours = os.pipe()
        root = str(Path(__file__).resolve().parents[2])
        mark = f"MESH_INCARNATION={self._lease.incarnation}"
        arguments = [root, mark, self._cells, str(os.getpid()), str(self._log_path)]
        try:
            self.pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", "-B", "-c", _PROGRAM, *arguments],
                {},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs, LIFE_FD),
                    (os.POSIX_SPAWN_DUP2, self._table.fd, TABLE_FD),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ],
                setsid=True,
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self.starts += 1
        self._others.add(self.pid)
        log.info("warden_started", pid=self.pid)
        return ours

    async def _wait_end(self) -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        handle = os.pidfd_open(self.pid)
        loop.add_reader(handle, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)
        self._bury()

    def _bury(self) -> None:
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        self._others.discard(self.pid)

    def _let_go(self) -> None:
        """Nothing is left to guard. It goes by itself; nobody waits for it."""
        self._table.end()
