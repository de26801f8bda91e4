"""Series of agents: one row each, kept between scrapes."""

from collections.abc import Iterator

from broker_client.runtime.exposition import labels
from broker_master.core.certificates import has_candidate
from broker_master.core.liveness import Presence
from broker_master.core.standing import current_certificate
from broker_master.metrics import catalogue as c
from broker_master.metrics.text import lines
from broker_master.plane import Plane
from schemas.messages.liveness import PROTOCOL, Details
from schemas.messages.registry import AgentEntry, CertificateEntry
from schemas.states import AgentStatus, Liveness

# The agent's own start time is used if it is this near to the one from its uptime.
_CLOCK_TRUST_S = 60.0
_STATUSES = tuple(AgentStatus)


class AgentRow:
    """One agent with the texts of its labels, made once."""

    __slots__ = (
        "certificate",
        "details",
        "entry",
        "group",
        "incarnation",
        "info",
        "labels",
        "name",
        "presence",
        "serial",
        "started_at",
        "status",
        "status_labels",
    )

    def __init__(self, entry: AgentEntry) -> None:
        self.name = entry.name
        self.group = entry.group
        self.labels = labels({"agent": entry.name, "group": entry.group})
        inner = self.labels[:-1]
        self.status_labels = [(each, f'{inner},status="{each}"}}') for each in _STATUSES]
        self.entry: AgentEntry | None = None
        self.presence: Presence | None = None
        self.certificate: CertificateEntry | None = None
        self.serial = ""
        self.status: AgentStatus | None = None
        self.incarnation = ""
        self.started_at = 0.0
        self.details: Details | None = None
        self.info = ""

    def update(self, entry: AgentEntry, presence: Presence | None) -> None:
        """Update the row."""
        serial = presence.certificate_serial if presence is not None else ""
        if entry is not self.entry or serial != self.serial:
            self.entry, self.serial = entry, serial
            self.certificate = current_certificate(entry, presence)
        self.presence = presence

    @property
    def is_heard(self) -> bool:
        return self.presence is not None and self.presence.liveness is Liveness.LIVE

    def start_time(self, presence: Presence) -> float:
        """Start time, fixed once per process of the agent: computed again it would jitter."""
        if presence.incarnation == self.incarnation:
            return self.started_at
        counted = presence.heard_at - presence.uptime_s
        said = presence.started_at
        if said:  # its handshake has been received
            self.incarnation = presence.incarnation
            self.started_at = said if abs(said - counted) < _CLOCK_TRUST_S else counted
            return self.started_at
        return counted

    def info_labels(self, presence: Presence) -> str:
        if presence.details is not self.details:
            self.details = said = presence.details
            self.info = labels(
                {
                    "agent": self.name,
                    "group": self.group,
                    "version": said.version,
                    "os": said.os,
                    "arch": said.arch,
                    "protocol": str(PROTOCOL),
                }
            )
        return self.info


class Fleet:
    """Look before reading `rows` and `counts`; they stand still until the next look."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self.rows: dict[str, AgentRow] = {}
        self.counts: dict[str, dict[AgentStatus, int]] = {}

    def look(self) -> None:
        """Bring every row up to date, and count agents by status."""
        plane = self._plane
        get, judge = plane.roster.get, plane.judge
        counts = {name: dict.fromkeys(_STATUSES, 0) for name in plane.registry.groups}
        rows = self.rows
        for name, entry in plane.registry.agents.items():
            row = rows.get(name)
            if row is None or row.group != entry.group:
                row = rows[name] = AgentRow(entry)
            row.update(entry, get(name))
            row.status = judge(entry).status
            counted = counts.get(row.group)
            if counted is not None:
                counted[row.status] += 1
        self.counts = counts
        if len(rows) > len(plane.registry.agents):
            self._forget_deleted()

    def _forget_deleted(self) -> None:
        for name in self.rows.keys() - self._plane.registry.agents.keys():
            del self.rows[name]
            self._plane.telemetry.measures.forget_agent(name)

    def families(self) -> Iterator[str]:
        """The text of all series with an agent label, a family at a time."""
        rows = list(self.rows.values())
        heard = [(row.labels, row.presence) for row in rows if row.presence and row.is_heard]
        known = [(row, row.presence) for row in rows if row.presence and row.presence.incarnation]
        yield lines(
            c.AGENT_INFO,
            [f"mesh_agent_info{row.info_labels(p)} 1\n" for row, p in known if p.details.version],
        )
        yield lines(
            c.AGENT_STATUS,
            [
                f"mesh_agent_status{text} {1 if status is row.status else 0}\n"
                for row in rows
                for status, text in row.status_labels
            ],
        )
        yield lines(
            c.AGENT_UPTIME,
            [f"mesh_agent_uptime_seconds{text} {p.uptime_s:.1f}\n" for text, p in heard],
        )
        name = c.AGENT_START.name
        yield lines(
            c.AGENT_START,
            [f"{name}{row.labels} {row.start_time(p):.3f}\n" for row, p in known],
        )
        name = c.AGENT_HEARD.name
        yield lines(c.AGENT_HEARD, [f"{name}{row.labels} {p.heard_at:.3f}\n" for row, p in known])
        yield from self._loads(heard)
        yield from self._certificates(rows)
        yield from self._losses()

    def _loads(self, heard: list[tuple[str, Presence]]) -> Iterator[str]:
        name = c.AGENT_RTT.name
        yield lines(c.AGENT_RTT, [f"{name}{text} {p.rtt_s:.6f}\n" for text, p in heard if p.rtt_s])
        name = c.AGENT_SKEW.name
        yield lines(c.AGENT_SKEW, [f"{name}{text} {p.clock_skew_s:.3f}\n" for text, p in heard])
        name = c.AGENT_RUNNING.name
        yield lines(c.AGENT_RUNNING, [f"{name}{text} {p.running}\n" for text, p in heard])
        name = c.AGENT_SLOTS.name
        yield lines(c.AGENT_SLOTS, [f"{name}{text} {p.slots}\n" for text, p in heard])
        name = c.AGENT_LACKS.name
        yield lines(
            c.AGENT_LACKS,
            [f'{name}{text[:-1]},lack="{lack}"}} 1\n' for text, p in heard for lack in p.lacks],
        )
        name = c.AGENT_SPOOL.name
        yield lines(c.AGENT_SPOOL, [f"{name}{text} {p.spool_bytes}\n" for text, p in heard])

    def _certificates(self, rows: list[AgentRow]) -> Iterator[str]:
        held = [(row.labels, row.certificate) for row in rows if row.certificate is not None]
        name = c.AGENT_ENDS.name
        yield lines(c.AGENT_ENDS, [f"{name}{text} {each.not_after:.0f}\n" for text, each in held])
        name = c.AGENT_BEGINS.name
        yield lines(
            c.AGENT_BEGINS,
            [f"{name}{text} {each.issued_at:.0f}\n" for text, each in held if each.issued_at],
        )
        yield from self._renewals(rows)

    def _renewals(self, rows: list[AgentRow]) -> Iterator[str]:
        name, at = c.AGENT_ROTATING.name, self._plane.clock.now()
        yield lines(
            c.AGENT_ROTATING,
            [
                f"{name}{row.labels} {int(has_candidate(row.entry.certificates, at))}\n"
                for row in rows
                if row.entry is not None and row.certificate is not None
            ],
        )
        name = c.AGENT_NOT_RENEWED.name
        failed = [row for row in rows if row.is_heard and row.presence and row.presence.renewal]
        yield lines(c.AGENT_NOT_RENEWED, [f"{name}{row.labels} 1\n" for row in failed])

    def _losses(self) -> Iterator[str]:
        ready = []
        for agent, (recovered, unrecoverable) in self._plane.telemetry.measures.losses.items():
            row = self.rows.get(agent)
            if row is not None:
                inner = f"{c.AGENT_LOSSES.name}{row.labels[:-1]}"
                ready.append(f'{inner},outcome="recovered"}} {recovered}\n')
                ready.append(f'{inner},outcome="unrecoverable"}} {unrecoverable}\n')
        yield lines(c.AGENT_LOSSES, ready)
