"""Supervises the warden: starts it, and restarts it when it dies."""

import asyncio
import os
from pathlib import Path
from typing import Final

from broker_agent.services.companion import Companion
from broker_agent.services.wire import Station
from broker_agent.warden.table import NEVER, WardenTable
from broker_agent.warden.watch import LIFE_FD, TABLE_FD

# Delay of the warden's deadlines after those of the agent, which acts first.
SLACK_S: Final = 0.5


class WardenPost(Companion):
    """The warden's parent. table: tasks, for the warden. cells: path prefix of control groups."""

    name = "warden"

    def __init__(
        self, station: Station, table: WardenTable, state_dir: Path, *, cells: str, others: set[int]
    ) -> None:
        super().__init__(others)
        self._lease = station.lease
        self._table = table
        self._cells = cells
        self._log_path = state_dir / "warden.log"

    def tell(self) -> None:
        """Write a renewed lease, or changed timers, to the table."""
        timers, renewed_at = self._lease.timers, self._lease.renewed_at
        self._table.renew(
            NEVER if renewed_at is None else renewed_at,
            grace_s=timers.grace_s,
            slack_s=min(SLACK_S, timers.beat_s / 10),
            tick_s=min(1.0, timers.unrecoverable_s / 4),
        )

    async def run(self, ready: asyncio.Event) -> None:
        self.tell()
        await super().run(ready)

    def _start(self) -> int:
        theirs, ours = os.pipe()
        mark = f"MESH_INCARNATION={self._lease.incarnation}"
        arguments = [mark, self._cells, str(os.getpid()), str(self._log_path)]
        files = [
            (os.POSIX_SPAWN_DUP2, theirs, LIFE_FD),
            (os.POSIX_SPAWN_DUP2, self._table.fd, TABLE_FD),
        ]
        try:
            self._spawn("warden.watch", "sys.argv[1:]", arguments, files)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return ours

    def _retire(self) -> None:
        self._table.end()
