"""Recovers from earlier starts of the agent: kills orphans, reports ends."""

import structlog

from broker_agent.executors.base import OrphanedAttempt
from broker_agent.executors.registry import Executors
from broker_agent.services.runner import Runner
from broker_agent.store.folders import Folders
from broker_agent.store.journal import Journal
from broker_agent.store.rows import AttemptRow

log = structlog.get_logger(__name__)


class Recovery:
    def __init__(
        self, *, journal: Journal, folders: Folders, executors: Executors, runner: Runner
    ) -> None:
        self._journal = journal
        self._folders = folders
        self._executors = executors
        self._runner = runner

    def recover(self) -> None:
        """Kill orphans, adopt folders, report ends, before any service starts."""
        rows = self._journal.take_rows()
        for row in rows:
            if row.report is None:
                log.warning("attempt_lost", command_id=row.command, killed=self._end_orphans(row))
        self._folders.adopt({self._folders.name(row.command, row.attempt) for row in rows})
        for row in rows:
            self._runner.recover(row)

    def _end_orphans(self, row: AttemptRow) -> int:
        """Kill the orphans of an attempt; none exist after a boot of the host."""
        if not self._journal.is_same_boot:
            return 0
        mark = (row.pid, row.pid_start)
        left = OrphanedAttempt(row.command, row.attempt, row.incarnation, mark)
        return sum(executor.end_orphans(left) for executor in self._executors)
