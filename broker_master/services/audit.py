"""Writes the audit trail: who did what to what, from where, when, and what came of it.

An answer to a changing call is given once its entry is durable, so that nobody is told of an act
that the trail does not know. Commands submitted are in history, and pass by here.
"""

import asyncio
import contextlib
from typing import Final

import msgspec
import structlog

from broker_client.runtime.batch import BatchWriter
from broker_client.runtime.rates import TokenBucket
from broker_client.runtime.supervise import TaskSet
from broker_master.core.fit import fit_entry
from broker_master.plane import Plane
from broker_master.services.whereabouts import Whereabouts
from schemas import codec, subjects
from schemas.faults import MeshError
from schemas.messages.audit import AuditEntry

log = structlog.get_logger()

# An answer waits so long for its entry at most; the writer goes on trying after that.
_DURABLE_S: Final = 2.0
_TASKS_MAX: Final = 500
_CLOSE_S: Final = 1.0
# Refusals of one caller that get an entry each: a flood of them is one story, told now and then.
_REFUSALS_PER_S: Final = 0.2
_REFUSALS_BURST: Final = 20
_CALLERS_MAX: Final = 10_000
_NOBODY: Final = "?"


class Auditor:
    """Takes entries from the plane and from the api. Bounded: what it cannot take, it counts."""

    name = "audit"

    def __init__(self, plane: Plane, writer: BatchWriter, whereabouts: Whereabouts) -> None:
        self._plane = plane
        self._writer = writer
        self._whereabouts = whereabouts
        self._tasks = TaskSet("audit", limit=_TASKS_MAX)
        self._refusals: dict[str, TokenBucket] = {}
        self._untold: dict[str, int] = {}
        plane.noted.append(self.take)

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        self._plane.note("master.started", self._plane.mesh, detail=f"epoch {self._plane.epoch}")
        try:
            await asyncio.Event().wait()
        finally:
            await self._tasks.aclose(_CLOSE_S)

    def take(self, entry: AuditEntry) -> None:
        """Write it soon."""
        told = self._told(entry)
        if told is None:
            return
        try:
            _ = self._tasks.spawn(self._write(told))
        except MeshError as error:
            self._lose(told, error)

    async def record(self, entry: AuditEntry) -> None:
        """Write an entry; returns when it is durable, or after a moment if the broker is slow."""
        told = self._told(entry)
        if told is not None:
            await self._write(told)

    async def _write(self, entry: AuditEntry) -> None:
        entry = fit_entry(await self._located(entry))
        try:
            stored = self._writer.append(
                subjects.audit(entry.action.partition(".")[0]), codec.encode(entry)
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(stored), _DURABLE_S)
                return
            stored.add_done_callback(lambda done: self._look_back(entry, done))
        except MeshError as error:
            self._lose(entry, error)

    def _look_back(self, entry: AuditEntry, done: "asyncio.Future[int]") -> None:
        error = None if done.cancelled() else done.exception()
        if isinstance(error, MeshError):
            self._lose(entry, error)

    def _lose(self, entry: AuditEntry, error: MeshError) -> None:
        """The log is the last place where it can be kept."""
        self._plane.count("audit", "lost")
        log.error("audit_lost", entry=msgspec.to_builtins(entry), error=str(error))

    def _told(self, entry: AuditEntry) -> AuditEntry | None:
        """None for one of many refusals of one caller: it is counted, and told with a later one."""
        if entry.result != "refused":
            return entry
        registry = self._plane.registry
        known = entry.by in registry.clients or entry.by in registry.agents
        who = entry.by if known and len(self._refusals) < _CALLERS_MAX else _NOBODY
        bucket = self._refusals.setdefault(
            who, TokenBucket(per_s=_REFUSALS_PER_S, burst=_REFUSALS_BURST)
        )
        if not bucket.take(self._plane.clock.elapsed()):
            self._untold[who] = self._untold.get(who, 0) + 1
            return None
        untold = self._untold.pop(who, 0)
        if not untold:
            return entry
        detail = f"{entry.detail}; {untold} more refused before".removeprefix("; ")
        return msgspec.structs.replace(entry, detail=detail)

    async def _located(self, entry: AuditEntry) -> AuditEntry:
        if entry.actor == "master":
            return entry
        address = self._address(entry)
        if not address:
            with contextlib.suppress(MeshError):
                await self._whereabouts.refresh()
            address = self._address(entry)
        return msgspec.structs.replace(entry, address=address)

    def _address(self, entry: AuditEntry) -> str:
        registry = self._plane.registry
        if entry.actor == "client":
            client = registry.clients.get(entry.by)
            certificates = client.certificates if client is not None else []
        else:
            agent = registry.agents.get(entry.by)
            certificates = agent.certificates if agent is not None else []
        users = [certificate.user_nkey for certificate in certificates]
        if entry.actor == "token":
            return self._whereabouts.hosts_of_strangers(entry.by, users)
        return self._whereabouts.hosts(users)
