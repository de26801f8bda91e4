"""Measures now and then whether this host has room for more tasks, and notifies of changes."""

import asyncio
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from broker_agent.core.resources import (
    FDS_PER_TASK,
    FDS_RESERVED,
    MIB,
    WARN_SHARE,
    Bounds,
    Reading,
    lacks,
)
from broker_agent.store.journal import Journal, WriteResult
from schemas.states import Lack

LOOK_S: Final = 1.0

log = structlog.get_logger(__name__)


class ResourceMonitor:
    """Resources of the host. waiting_bytes: returns the bytes of output that wait for the broker.

    on_change: called when a shortage begins or ends. every_look: called at each measurement.
    """

    name = "resources"

    def __init__(
        self,
        state_dir: Path,
        bounds: Bounds,
        *,
        journal: Journal,
        waiting_bytes: Callable[[], int],
        on_change: Callable[[], object],
        every_look: Callable[[], None],
    ) -> None:
        self._state_dir = state_dir
        self._bounds = bounds
        self._journal = journal
        self._waiting_bytes = waiting_bytes
        self._on_change = on_change
        self._every_look = every_look
        self._is_spool_high = False
        self._fds_free = 0
        self._is_probing = False
        self.lacks: dict[Lack, str] = {}

    def refusal(self) -> str:
        """Reason why no task can be taken now, or empty; an empty answer reserves room for one.

        A failed journal refuses by its own code.
        """
        for lack, text in self.lacks.items():
            if lack is not Lack.JOURNAL:
                return text
        self._fds_free -= FDS_PER_TASK
        if self._fds_free < FDS_RESERVED:
            self._fds_free = _fds_free() - FDS_PER_TASK
        if self._fds_free < FDS_RESERVED:
            return "too few file descriptors are left"
        return ""

    async def run(self, ready: asyncio.Event) -> None:
        self.look()
        ready.set()
        while True:
            await asyncio.sleep(LOOK_S)
            self._every_look()
            self.look()

    def look(self) -> None:
        waiting = self._waiting_bytes()
        self._fds_free = _fds_free()
        reading = Reading(waiting, _disk_free(self._state_dir), self._fds_free, self._journal.fault)
        self._note_spool(waiting)
        self._probe_journal()
        before, self.lacks = self.lacks, lacks(reading, self._bounds)
        if before.keys() == self.lacks.keys():
            return
        for lack in self.lacks.keys() - before.keys():
            log.error("refusing_work", lack=lack.value, reason=self.lacks[lack])
        for lack in before.keys() - self.lacks.keys():
            log.info("room_again", lack=lack.value)
        self._on_change()

    def _note_spool(self, waiting: int) -> None:
        is_high = waiting >= WARN_SHARE * self._bounds.spool_bytes
        if is_high and not self._is_spool_high:
            most = self._bounds.spool_bytes // MIB
            log.warning("spool_filling", waiting_mib=waiting // MIB, most_mib=most)
        self._is_spool_high = is_high

    def _probe_journal(self) -> None:
        """Retry a failed journal, since the master sends no work that would."""
        if not self._journal.fault or self._is_probing:
            return

        def done(_outcome: WriteResult) -> None:
            self._is_probing = False

        self._is_probing = True
        self._journal.probe(done)


def _disk_free(path: Path) -> float:
    """Share of the file system that is free for this user, 0 to 1; 1 if unknown."""
    try:
        found = os.statvfs(path)
    except OSError:
        return 1.0
    return found.f_bavail / found.f_blocks if found.f_blocks else 1.0


def _fds_free() -> int:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return 1_000_000
    try:
        return limit - len(os.listdir("/proc/self/fd"))  # noqa: PTH208  (names alone)
    except OSError:
        return 0  # no descriptor was left for the listing
