"""Stores statuses and their start times for the next master: after changes, and at the end."""

import asyncio
from pathlib import Path
from typing import Final

import structlog

from broker_master.plane import Plane
from broker_master.store.statuses import Pasts, write_pasts
from schemas.faults import MeshError

log = structlog.get_logger()

# Beats between two looks for changes, and until last beats are stored anyway.
_LOOK_BEATS: Final = 2
_ALL_BEATS: Final = 12


class StatusKeeper:
    name = "statuses"

    def __init__(self, plane: Plane, state_dir: Path) -> None:
        self._plane = plane
        self._state_dir = state_dir
        self._stored = -1
        self._stored_s = float("-inf")

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        beat_s = self._plane.timers.beat_s
        try:
            while True:
                await asyncio.sleep(_LOOK_BEATS * beat_s)
                age_s = self._plane.clock.elapsed() - self._stored_s
                if self._plane.statuses.changes != self._stored or age_s > _ALL_BEATS * beat_s:
                    self.store()
        finally:
            self.store()

    def store(self) -> None:
        """Write the file; a fault is logged, and the next look retries."""
        plane = self._plane
        statuses, groups = plane.statuses, plane.registry.groups
        connections = plane.registry.connections
        pasts = Pasts(
            at=plane.clock.now(),
            agents=statuses.pasts(plane.registry.agents.values(), plane.roster),
            groups={name: kept for name, kept in statuses.groups().items() if name in groups},
            connections={
                name: kept for name, kept in statuses.connections().items() if name in connections
            },
        )
        try:
            write_pasts(self._state_dir, pasts)
        except MeshError as error:
            log.warning("statuses_not_stored", error=str(error))
            return
        self._stored, self._stored_s = statuses.changes, plane.clock.elapsed()
