"""Notices to a person about a command that waits, with the reason."""

from typing import Final

from broker_client.cli.screen.tables import in_local_time
from schemas.messages.facts import CommandRecord
from schemas.states import State

_WAITS: Final = frozenset({State.QUEUED, State.UNKNOWN, State.STOPPING})


def goes_on(id: str) -> str:
    """Return what an outage does to a command whose terms are not known here."""
    return f"{id} goes on on its agent, as its --loss says"


def told(record: CommandRecord, now: float | None = None) -> str:
    """Return one line with the reason of a wait and the next step; empty without a wait.

    now: unix time, for the time left. Reason and next step are texts of the master.
    """
    state = record.state
    if state in _WAITS:
        since = f" since {record.since}" if state == State.UNKNOWN and record.since else ""
        return _line(record, f"is {state}{since}", record.reason or "no agent is free", now)
    if state == State.SENT and record.reason:
        return _line(record, "is not acknowledged", record.reason, now)
    return ""


def _line(record: CommandRecord, what: str, why: str, now: float | None) -> str:
    then = f"; {record.next}" if record.next else ""
    return in_local_time(f"{record.id} {what}: {why}{then}", now)
