"""Table of commands: the definition of each column, for display and sorting."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from broker_client.cli.outcomes import program_code
from broker_client.cli.screen.tables import Column, duration, short_time
from schemas.listed import RETRY_OF, last_agent
from schemas.messages.facts import CommandRecord
from schemas.near import near_names

# Columns that fit into 80 cells, with ids, groups and programs of usual length.
USUAL: Final = ("id", "state", "exit", "on", "submitted", "program", "reason")
# Column of the program, cut to the room of the line.
PROGRAM: Final = Column("PROGRAM", least=7, is_cut=True)

Value = float | str


class Trait(NamedTuple):
    """Column of commands. shown: text at a unix time. value: to sort by, None or empty last."""

    column: Column
    shown: Callable[[CommandRecord, float], str]
    value: Callable[[CommandRecord], Value | None]


def _text(head: str, of: Callable[[CommandRecord], str], *, rank: int = 0, least: int = 0) -> Trait:
    return Trait(Column(head, rank, least=least), lambda record, _: of(record), of)


def _moment(head: str, of: Callable[[CommandRecord], str | None], *, rank: int) -> Trait:
    # RFC 3339 in UTC sorts as text.
    return Trait(Column(head, rank), lambda record, now: short_time(of(record), now), of)


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


TRAITS: Final[dict[str, Trait]] = {
    "id": _text("ID", lambda r: r.id),
    "state": _text("STATE", lambda r: r.state),
    "exit": Trait(Column("EXIT", 2, right=True), lambda r, _: exit_of(r), _exit),
    "on": _text("ON", lambda r: last_agent(r) or f"any of {r.group}"),
    "group": _text("GROUP", lambda r: r.group, rank=4),
    "submitted": _moment("SUBMITTED", lambda r: r.submitted_at, rank=1),
    "ended": _moment("ENDED", lambda r: r.ended_at, rank=5),
    "took": Trait(Column("TOOK", 3, right=True), _took_shown, _took),
    "client": _text("CLIENT", lambda r: r.client, rank=5),
    "attempts": Trait(
        Column("ATTEMPTS", 6, right=True),
        lambda r, _: str(len(r.attempts)),
        lambda r: float(len(r.attempts)),
    ),
    "labels": _text("LABELS", _labels, rank=6, least=12),
    "retry-of": _text("RETRY OF", lambda r: r.labels.get(RETRY_OF, ""), rank=7),
    "program": Trait(PROGRAM, lambda r, _: r.program, lambda r: r.program),
    "reason": _text("REASON", lambda r: r.reason, least=8),
}
# Names of the fields of a filter.
OTHER_NAMES: Final = {"agent": "on", "label": "labels", "argv": "program", "by": "client"}


def columns_of(text: str | None) -> tuple[str, ...]:
    """Return the columns of `--columns`: names separated by commas, `all`, or None for the default.

    Raises ValueError that lists the known names.
    """
    if text is None:
        return USUAL
    if text == "all":
        return tuple(TRAITS)
    return tuple(dict.fromkeys(_known(name) for name in text.lower().split(",")))


def check_columns(_type: object, value: str | None) -> None:
    """Validate a parameter with columns."""
    columns_of(value)


def check_sort(_type: object, value: str | None) -> None:
    """Validate a parameter with a column to sort by; `-COLUMN` is descending."""
    if value is not None:
        _known(value.lower().removeprefix("-"))


def _known(name: str) -> str:
    found = OTHER_NAMES.get(name, name)
    if found not in TRAITS:
        near = near_names(name, [*TRAITS, *OTHER_NAMES]) or f": use all, or {', '.join(TRAITS)}"
        raise ValueError(f"no column {name[:64]!a}{near}")
    return found


def in_order(records: Sequence[CommandRecord], by: str) -> list[CommandRecord]:
    """Sort by a column; commands without a value come last, equal ones keep their order."""
    value = TRAITS[_known(by.lower().removeprefix("-"))].value
    known: list[tuple[Value, CommandRecord]] = []
    unknown = []
    for record in records:
        found = value(record)
        if found is None or found == "":
            unknown.append(record)
        else:
            known.append((found, record))
    known.sort(key=lambda pair: pair[0], reverse=by.startswith("-"))
    return [*(record for _, record in known), *unknown]


def rows_of(
    records: Sequence[CommandRecord], names: Sequence[str], now: float
) -> list[tuple[str, ...]]:
    return [tuple(TRAITS[name].shown(record, now) for name in names) for record in records]
