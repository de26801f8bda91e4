"""Table of commands: the definition of each column, for display and sorting."""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from broker_client.cli.outcomes import program_code
from broker_client.cli.screen.columns import Columns, Trait
from broker_client.cli.screen.tables import Column, duration, short_time
from schemas.listed import RETRY_OF, last_agent
from schemas.messages.facts import CommandRecord

# Columns that fit into 80 cells, with ids, groups and programs of usual length.
USUAL: Final = ("id", "state", "exit", "on", "submitted", "program", "reason")
# Column of the program, cut to the room of the line.
PROGRAM: Final = Column("PROGRAM", least=7, is_cut=True)


def _text(
    head: str, of: Callable[[CommandRecord], str], *, rank: int = 0, least: int = 0
) -> Trait[CommandRecord]:
    return Trait(
        Column(head, rank, least=least), lambda record, _: of(record), lambda record, _: of(record)
    )


def _moment(
    head: str, of: Callable[[CommandRecord], str | None], *, rank: int
) -> Trait[CommandRecord]:
    # RFC 3339 in UTC sorts as text.
    return Trait(
        Column(head, rank),
        lambda record, now: short_time(of(record), now),
        lambda record, _: of(record),
    )


def exit_of(record: CommandRecord) -> str:
    code = program_code(record)
    return "" if code is None else str(code)


def _exit(record: CommandRecord) -> float | None:
    code = program_code(record)
    return None if code is None else float(code)


def _took(record: CommandRecord) -> float | None:
    last = record.attempts[-1] if record.attempts else None
    if last is None or not last.started_at or not last.ended_at:
        return None
    ended, started = (datetime.fromisoformat(each) for each in (last.ended_at, last.started_at))
    return max(0.0, (ended - started).total_seconds())


def _took_shown(record: CommandRecord, _now: float) -> str:
    took = _took(record)
    return "" if took is None else duration(took)


def _labels(record: CommandRecord) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(record.labels.items()))


TRAITS: Final[dict[str, Trait[CommandRecord]]] = {
    "id": _text("ID", lambda r: r.id),
    "state": _text("STATE", lambda r: r.state),
    "exit": Trait(Column("EXIT", 2, right=True), lambda r, _: exit_of(r), lambda r, _: _exit(r)),
    "on": _text("ON", lambda r: last_agent(r) or f"any of {r.group}"),
    "group": _text("GROUP", lambda r: r.group, rank=4),
    "submitted": _moment("SUBMITTED", lambda r: r.submitted_at, rank=1),
    "ended": _moment("ENDED", lambda r: r.ended_at, rank=5),
    "took": Trait(Column("TOOK", 3, right=True), _took_shown, lambda r, _: _took(r), is_span=True),
    "client": _text("CLIENT", lambda r: r.client, rank=5),
    "connection": _text("CONNECTION", lambda r: r.connection or "", rank=5),
    "attempts": Trait(
        Column("ATTEMPTS", 6, right=True),
        lambda r, _: str(len(r.attempts)),
        lambda r, _: float(len(r.attempts)),
    ),
    "labels": _text("LABELS", _labels, rank=6, least=12),
    "retry-of": _text("RETRY OF", lambda r: r.labels.get(RETRY_OF, ""), rank=7),
    "program": Trait(PROGRAM, lambda r, _: r.program, lambda r, _: r.program),
    "reason": _text("REASON", lambda r: r.reason, least=8),
}
# Names of the fields of a filter.
OTHER_NAMES: Final = {"agent": "on", "label": "labels", "argv": "program", "by": "client"}


LEDGER: Final = Columns(TRAITS, usual=USUAL, other=OTHER_NAMES)
