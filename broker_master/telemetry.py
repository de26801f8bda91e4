"""Measurements, counts and events of a master, and its entries for the audit trail."""

from dataclasses import dataclass, field

import structlog

from broker_client.runtime.signals import Signal
from broker_master.core.eventlog import EventLog
from broker_master.core.measures import Measures
from broker_master.core.statuses import ConnectionChange, GroupChange, StatusChange
from broker_master.core.strays import Strays
from broker_master.core.tallies import Tally
from schemas.messages.audit import AuditEntry

log = structlog.get_logger()


@dataclass(kw_only=True)
class Telemetry:
    """noted: called with each entry for the audit trail. counters: by name and labels."""

    eventlog: EventLog
    measures: Measures = field(default_factory=Measures)
    strays: Strays = field(default_factory=Strays)
    counters: dict[tuple[str, ...], int] = field(default_factory=dict)
    noted: Signal[[AuditEntry]] = field(default_factory=Signal)

    def count(self, tally: Tally, *labels: str) -> None:
        """Count an occurrence; labels are closed sets, so the table stays small."""
        name = (tally, *labels)
        self.counters[name] = self.counters.get(name, 0) + 1

    def tallied(self, tally: Tally, *labels: str) -> int:
        """The sum of the counters whose names begin so."""
        first, counters = (tally, *labels), self.counters.items()
        return sum(count for name, count in counters if name[: len(first)] == first)

    def on_status(self, change: StatusChange) -> None:
        self.measures.on_status(change.group, change.old, change.new)
        log.info(
            "status_changed",
            agent=change.agent,
            old=str(change.old),
            new=str(change.new),
            cause=str(change.cause),
        )
        self.eventlog.add(
            "agent",
            change.agent,
            change.group,
            str(change.new),
            at=change.at,
            was=str(change.old),
            cause=str(change.cause),
            detail=change.reason,
        )

    def on_group_status(self, change: GroupChange) -> None:
        self.eventlog.add(
            "group",
            change.group,
            change.group,
            str(change.new),
            at=change.at,
            was=str(change.old),
            detail=change.reason,
        )

    def on_connection_status(self, change: ConnectionChange) -> None:
        self.eventlog.add(
            "connection",
            change.connection,
            change.group,
            change.new,
            at=change.at,
            was=change.old,
            detail=change.reason,
        )
