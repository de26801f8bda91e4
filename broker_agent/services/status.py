"""State of the running agent for people on the host: `<state>/status.json`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from broker_agent.core.lease import Lease, LeasePhase
from broker_agent.executors.base import Enclosure
from broker_agent.services.handshake import Handshake
from broker_agent.services.profiles import Profiles
from broker_agent.services.resources import ResourceMonitor
from broker_agent.services.running import Running
from broker_agent.services.wire import Station
from broker_client.runtime.files import read_bytes, write_passing
from schemas.faults import MeshError
from schemas.moments import rfc3339

STATUS_FILE: Final = "status.json"

log = structlog.get_logger(__name__)


class AgentState(msgspec.Struct, frozen=True, kw_only=True):
    """Content of the file. link: phase of the lease. since: time of the last change.

    reason: of a refusal, or of a failed renewal. refused_epoch: epoch of a stale master whose
    echoes come and are refused; 0: none. full: resource that is short, or empty.
    lease_age_s: age of the lease in seconds at `read_s`, a reading of the monotonic clock.
    fence_after_s: age at which tasks without a deadline of their own are ended. cells: whether
    tasks start in control groups; None: unknown. uncelled: number of tasks that started without;
    uncelled_why: cause of the newest. profiles: hash of each in use, by name; profile_problems:
    of files that are not in use. profiles_read: number of readings of all files; None: an agent of
    a release without profiles.
    """

    pid: int
    incarnation: str
    epoch: int
    link: str
    connected: bool
    reconciled: bool
    draining: bool
    full: str = ""
    reason: str
    since: str
    read_s: float = 0.0
    lease_age_s: float = 0.0
    fence_after_s: float = 0.0
    refused_epoch: int = 0
    cells: bool | None = None
    uncelled: int = 0
    uncelled_why: str = ""
    profiles: dict[str, str] = {}
    profile_problems: dict[str, str] = {}
    profiles_read: int | None = None

    def lease_age_at(self, now_s: float) -> float | None:
        """Age of the lease in seconds; None while linked, since renewals are not written."""
        return None if self.link == LeasePhase.LINKED else self.lease_age_s + now_s - self.read_s

    def fence_in(self, now_s: float) -> float | None:
        """Seconds until tasks are fenced; None unless the master is silent."""
        age_s = self.lease_age_at(now_s)
        if age_s is None or self.link != LeasePhase.SUSPECT:
            return None
        return max(0.0, self.fence_after_s - age_s)


def refusal(lease: Lease) -> str:
    """Reason why a stale master is refused, and the next step; empty if none is."""
    if not lease.refused_epoch:
        return ""
    return (
        f"epoch_stale: the master that speaks has epoch {lease.refused_epoch}, and this agent has"
        f" obeyed {lease.epoch}: end that master if another one is in charge; if its state was put"
        f" back, broker-master restore --state-dir D --above {lease.epoch}, and start it again"
    )


class StatusFile:
    """Writer of the file, at each change; the agent never reads it.

    trouble: returns the reason of a failed renewal, or an empty text. enclosure: returns how far
    tasks are enclosed.
    """

    def __init__(
        self,
        state_dir: Path,
        station: Station,
        *,
        running: Running,
        handshake: Handshake,
        room: ResourceMonitor,
        trouble: Callable[[], str],
        enclosure: Callable[[], Enclosure],
        profiles: Profiles,
    ) -> None:
        self._profiles = profiles
        self._trouble = trouble
        self._enclosure = enclosure
        self._path = state_dir / STATUS_FILE
        self._station = station
        self._running = running
        self._handshake = handshake
        self._room = room
        self._written: tuple[object, ...] = ()
        station.fitness.listen(self.write)
        station.standing.listen(self.write)

    def _key(self) -> tuple[object, ...]:
        station, lease = self._station, self._station.lease
        return (
            lease.phase,
            lease.epoch,
            lease.reconciled,
            station.wire.is_connected,
            self._running.is_draining,
            self._reason,
            lease.refused_epoch,
            tuple(self._room.lacks),
            self._enclosure().missed,
        )

    @property
    def _reason(self) -> str:
        return refusal(self._station.lease) or self._handshake.said or self._trouble()

    def write_if_changed(self) -> None:
        if self._key() != self._written:
            self.write()

    def write(self) -> None:
        lease, now_s = self._station.lease, self._station.clock.elapsed()
        self._written, enclosure = self._key(), self._enclosure()
        state = AgentState(
            pid=os.getpid(),
            incarnation=lease.incarnation,
            epoch=lease.epoch,
            link=lease.phase,
            connected=self._station.wire.is_connected,
            reconciled=lease.reconciled,
            draining=self._running.is_draining,
            full="; ".join(self._room.lacks.values()),
            reason=self._reason,
            since=rfc3339(self._station.clock.now()),
            read_s=now_s,
            lease_age_s=lease.age_s(now_s),
            fence_after_s=lease.timers.unrecoverable_s,
            refused_epoch=lease.refused_epoch,
            cells=enclosure.is_used,
            uncelled=enclosure.missed,
            uncelled_why=enclosure.why,
            profiles=self._profiles.in_use,
            profile_problems=self._profiles.problems,
            profiles_read=self._profiles.readings,
        )
        try:
            write_passing(self._path, msgspec.json.encode(state))
        except MeshError as error:
            log.warning("status_not_written", error=str(error))

    def remove(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("status_not_removed", error=str(error))


def read_status(state_dir: Path) -> AgentState | None:
    """Read the file; None if it is missing or invalid."""
    try:
        return msgspec.json.decode(read_bytes(state_dir / STATUS_FILE), type=AgentState)
    except (MeshError, msgspec.MsgspecError):
        return None
