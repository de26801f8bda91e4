"""Table of agents: the definition of each column, for display, sorting and filters."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from broker_client.cli.screen.tables import Column, duration, short_time
from schemas.listed import ago_of, unix_of, why
from schemas.messages.api import AgentRecord
from schemas.near import near_names
from schemas.spans import DAY_S
from schemas.states import Admin

# Columns that fit into 80 cells, with names and reasons of usual length.
USUAL: Final = ("agent", "group", "status", "since", "running", "cert", "reason")
# Cells of a wide screen, which has room for more columns.
WIDE_CELLS: Final = 120
WIDE: Final = (*USUAL[:-1], "uptime", "recent", "reason")

Value = float | str


class Trait(NamedTuple):
    """Column of agents. shown: text in a table at a unix time. value: for sorting and filters.

    is_span: the value is a duration in seconds. None: unknown.
    """

    column: Column
    shown: Callable[[AgentRecord, float], str]
    value: Callable[[AgentRecord, float], Value | None]
    is_span: bool = False


def _text(head: str, of: Callable[[AgentRecord], str], *, rank: int = 0, least: int = 0) -> Trait:
    return Trait(Column(head, rank, least=least), lambda a, _: of(a), lambda a, _: of(a))


def _count(head: str, of: Callable[[AgentRecord], int], *, rank: int = 0) -> Trait:
    column = Column(head, rank, right=True)
    return Trait(column, lambda a, _: str(of(a)), lambda a, _: float(of(a)))


def _span(head: str, of: Callable[[AgentRecord, float], float | None], *, rank: int = 0) -> Trait:
    def shown(agent: AgentRecord, now: float) -> str:
        seconds = of(agent, now)
        return "" if seconds is None else duration(max(0.0, seconds))

    return Trait(Column(head, rank, right=True), shown, of, is_span=True)


def _left_s(agent: AgentRecord, now: float) -> float | None:
    end = unix_of(agent.certificate.not_after) if agent.certificate else None
    return None if end is None else end - now


def _days(agent: AgentRecord, now: float) -> str:
    left_s = _left_s(agent, now)
    if left_s is None:
        return ""
    return duration(max(0.0, left_s)) if left_s < DAY_S else f"{left_s / DAY_S:.0f}d"


def _tags(agent: AgentRecord) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(agent.tags.items()))


def _reason(agent: AgentRecord, now: float) -> str:
    """Return the reason of its status, with the end of a pause, and whether it drains."""
    if agent.until:
        return f"until {short_time(agent.until, now)}: {why(agent)}"
    return f"draining: {why(agent)}" if agent.admin == Admin.DRAINING else why(agent)


TRAITS: Final[dict[str, Trait]] = {
    "agent": _text("AGENT", lambda a: a.agent),
    "group": _text("GROUP", lambda a: a.group),
    "status": _text("STATUS", lambda a: a.status),
    "since": Trait(
        Column("SINCE"),
        lambda a, now: short_time(a.since, now),
        lambda a, now: ago_of(a.since, now),
        is_span=True,
    ),
    "running": Trait(
        Column("RUNNING", 2, right=True),
        lambda a, _: f"{a.running}/{a.slots}",
        lambda a, _: float(a.running),
    ),
    "slots": _count("SLOTS", lambda a: a.slots, rank=6),
    "load": Trait(
        Column("LOAD", 6, right=True),
        lambda a, _: f"{100 * a.running / a.slots:.0f}%" if a.slots else "",
        lambda a, _: a.running / a.slots if a.slots else None,
    ),
    "cert": Trait(Column("CERT", 3, right=True), _days, _left_s, is_span=True),
    "uptime": _span("UPTIME", lambda a, _: a.details.uptime_s or None, rank=5),
    "silent": _span("SILENT", lambda a, now: ago_of(a.last_beat_at, now), rank=5),
    "version": _text("VERSION", lambda a: a.details.version, rank=7),
    "host": _text("HOST", lambda a: a.details.host, rank=4, least=12),
    "ip": _text("ADDRESS", lambda a: a.details.ip, rank=8),
    "user": _text("USER", lambda a: a.details.user, rank=9),
    "admin": _text("ADMIN", lambda a: a.admin, rank=8),
    "liveness": _text("LIVENESS", lambda a: a.liveness, rank=9),
    "tags": _text("TAGS", _tags, rank=6, least=12),
    "weight": _count("WEIGHT", lambda a: a.weight, rank=8),
    "priority": _count("PRIORITY", lambda a: a.priority, rank=8),
    "limit": _count("LIMIT", lambda a: a.limit, rank=8),
    "note": _text("NOTE", lambda a: a.note, rank=7, least=12),
    "addresses": _text("ADDRESSES", lambda a: a.addresses, rank=9),
    "joined": Trait(
        Column("JOINED", 6),
        lambda a, now: short_time(a.joined, now),
        lambda a, now: ago_of(a.joined, now),
        is_span=True,
    ),
    "recent": _text("LAST 20", lambda a: a.recent, rank=4),
    "reason": Trait(Column("REASON", least=10), _reason, lambda a, _: why(a)),
}
# Synonyms of columns.
OTHER_NAMES: Final = {
    "name": "agent",
    "expires": "cert",
    "certificate": "cert",
    "address": "ip",
    "badges": "reason",
}


def trait(name: str) -> Trait | None:
    return TRAITS.get(OTHER_NAMES.get(name, name))


def columns_of(text: str | None, width: int = 80) -> tuple[str, ...]:
    """Return the columns of `--columns`: names separated by commas, `all`, or None for the default.

    width: cells of a line; a wide one has more default columns. Raises ValueError that lists the
    known names.
    """
    if text is None:
        return WIDE if width >= WIDE_CELLS else USUAL
    if text == "all":
        return tuple(TRAITS)
    names = [OTHER_NAMES.get(name, name) for name in text.lower().split(",")]
    for name in names:
        if name not in TRAITS:
            near = near_names(name, [*TRAITS, *OTHER_NAMES]) or f": use all, or {', '.join(TRAITS)}"
            raise ValueError(f"no column {name[:64]!a}{near}")
    return tuple(dict.fromkeys(names))


def rows_of(
    agents: Sequence[AgentRecord], names: Sequence[str], now: float
) -> list[tuple[str, ...]]:
    return [tuple(TRAITS[name].shown(agent, now) for name in names) for agent in agents]


def check_columns(_type: object, value: str | None) -> None:
    """Validate a parameter with columns."""
    columns_of(value)


def check_sort(_type: object, value: str | None) -> None:
    """Validate a parameter with a column to sort by."""
    if value is not None:
        sort_key(value)


def sort_key(text: str) -> tuple[str, bool]:
    """Return the column, and whether the order is descending (`-uptime`); may raise ValueError."""
    name = text.lower().removeprefix("-")
    if trait(name) is None:
        near = near_names(name, [*TRAITS, *OTHER_NAMES]) or f": sort by {', '.join(TRAITS)}"
        raise ValueError(f"no column {name[:64]!a}{near}")
    return name, text.startswith("-")


def in_order(agents: Sequence[AgentRecord], by: str, now: float) -> list[AgentRecord]:
    """Sort by a column; agents without a value come last, equal ones are sorted by name."""
    name, is_reversed = sort_key(by)
    found = trait(name)
    if found is None:
        return [*agents]
    known: list[tuple[Value, AgentRecord]] = []
    unknown = []
    for agent in sorted(agents, key=lambda each: each.agent):
        value = found.value(agent, now)
        if value is None or value == "":
            unknown.append(agent)
        else:
            known.append((value, agent))
    known.sort(key=lambda pair: pair[0], reverse=is_reversed)
    return [*(agent for _, agent in known), *unknown]
