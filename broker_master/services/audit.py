"""Writes the audit trail: actor, action, target, host, time and result.

A changing call is answered once its entry is durable, so that no unrecorded act is ever confirmed.
Submitted commands are in history, not here.
"""

import asyncio
import contextlib
from typing import Final

import msgspec
import structlog

from broker_client.runtime.batch import BatchWriter
from broker_client.runtime.rates import TokenBucket
from broker_client.runtime.signals import Signal
from broker_client.runtime.supervise import TaskSet
from broker_master.core.fit import fit_entry
from broker_master.plane import Plane
from broker_master.services.whereabouts import Whereabouts
from schemas import codec, subjects
from schemas.faults import MeshError
from schemas.messages.audit import AuditEntry

log = structlog.get_logger()

# Longest wait of an answer for its entry; the writer keeps retrying after that.
_DURABLE_S: Final = 2.0
_TASKS_MAX: Final = 500
_TASKS_PER_SPEAKER: Final = 40
_CLOSE_S: Final = 1.0
# Refusals and alarms of one actor that get an entry each: a flood gets one now and then.
_REFUSALS_PER_S: Final = 0.2
_REFUSALS_BURST: Final = 20
_CALLERS_MAX: Final = 10_000
_NOBODY: Final = "?"
_TOLD_TOGETHER: Final = frozenset({"refused", "alarm"})


class Auditor:
    """Takes entries from the plane and from the API; those beyond its limit are counted.

    on_taken: called with each entry that is to be written.
    """

    name = "audit"

    def __init__(self, plane: Plane, writer: BatchWriter, whereabouts: Whereabouts) -> None:
        self._plane = plane
        self._writer = writer
        self._whereabouts = whereabouts
        self._tasks = TaskSet("audit", limit=_TASKS_MAX, share=_TASKS_PER_SPEAKER)
        self._refusals: dict[str, TokenBucket] = {}
        self._untold: dict[str, int] = {}
        self.on_taken: Signal[[AuditEntry]] = Signal()
        plane.telemetry.noted.listen(self.take)

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        self._plane.note(
            "master.started", self._plane.master.mesh, detail=f"epoch {self._plane.master.epoch}"
        )
        try:
            await asyncio.Event().wait()
        finally:
            await self._tasks.aclose(_CLOSE_S)

    def take(self, entry: AuditEntry) -> None:
        """Queue an entry to be written."""
        if not self._is_told(entry):
            return
        self.on_taken(entry)
        speaker = "" if entry.actor == "master" else entry.by
        try:
            _ = self._tasks.spawn(self._write(entry), speaker)
        except MeshError as error:
            if speaker and entry.result in _TOLD_TOGETHER:
                self._leave_out(self._who(entry))
            else:
                self._lose(entry, error)

    async def record(self, entry: AuditEntry) -> None:
        """Write an entry; returns when it is durable, or after a moment if the broker is slow."""
        if self._is_told(entry):
            await self._write(entry)
            self.on_taken(entry)

    async def _write(self, entry: AuditEntry) -> None:
        entry = fit_entry(await self._located(self._with_left_out(entry)))
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
        """Log an entry that could not be queued: the log is its last place."""
        self._plane.count("audit", "lost")
        log.error("audit_lost", entry=msgspec.to_builtins(entry), error=str(error))

    def _is_told(self, entry: AuditEntry) -> bool:
        """False for one of many refusals or alarms of one actor: a later entry counts them."""
        if entry.result not in _TOLD_TOGETHER:
            return True
        who = self._who(entry)
        bucket = self._refusals.setdefault(
            who, TokenBucket(per_s=_REFUSALS_PER_S, burst=_REFUSALS_BURST)
        )
        is_told = bucket.take(self._plane.clock.elapsed())
        if not is_told:
            self._leave_out(who)
        return is_told

    def _leave_out(self, who: str) -> None:
        self._untold[who] = self._untold.get(who, 0) + 1

    def _with_left_out(self, entry: AuditEntry) -> AuditEntry:
        if entry.result not in _TOLD_TOGETHER:
            return entry
        untold = self._untold.pop(self._who(entry), 0)
        if not untold:
            return entry
        what = "refused" if entry.result == "refused" else "alarms"
        detail = f"{entry.detail}; {untold} more {what} before".removeprefix("; ")
        return msgspec.structs.replace(entry, detail=detail)

    def _who(self, entry: AuditEntry) -> str:
        """Key of the rate limit: the actor, or the subject of an alarm by the master."""
        registry = self._plane.registry
        name = entry.by if entry.actor != "master" else entry.target
        is_known = name in registry.clients or name in registry.agents
        if not is_known or len(self._refusals) >= _CALLERS_MAX:
            name = _NOBODY
        return f"{name} {entry.result}"

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
