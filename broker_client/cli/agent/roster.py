"""Table of agents: the definition of each column, for display, sorting and filters."""

from collections.abc import Callable, Sequence
from typing import Final

from broker_client.cli.screen.columns import Columns, Trait
from broker_client.cli.screen.tables import Column, duration, short_time
from schemas.listed import ago_of, room_of, unix_of, why
from schemas.messages.api import AgentRecord
from schemas.spans import DAY_S
from schemas.states import Admin

# Columns that fit into 80 cells, with names and reasons of usual length.
USUAL: Final = ("agent", "group", "status", "since", "running", "cert", "reason")
# Cells of a wide screen, which has room for more columns.
WIDE_CELLS: Final = 120
WIDE: Final = (*USUAL[:-1], "uptime", "recent", "reason")


def _text(
    head: str, of: Callable[[AgentRecord], str], *, rank: int = 0, least: int = 0
) -> Trait[AgentRecord]:
    return Trait(Column(head, rank, least=least), lambda a, _: of(a), lambda a, _: of(a))


def _count(head: str, of: Callable[[AgentRecord], int], *, rank: int = 0) -> Trait[AgentRecord]:
    column = Column(head, rank, right=True)
    return Trait(column, lambda a, _: str(of(a)), lambda a, _: float(of(a)))


def _span(
    head: str, of: Callable[[AgentRecord, float], float | None], *, rank: int = 0
) -> Trait[AgentRecord]:
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


TRAITS: Final[dict[str, Trait[AgentRecord]]] = {
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
        lambda a, _: f"{a.running}/{room_of(a) if a.slots else '?'}",
        lambda a, _: float(a.running),
    ),
    "slots": _count("SLOTS", lambda a: a.slots, rank=6),
    "load": Trait(
        Column("LOAD", 6, right=True),
        lambda a, _: f"{100 * a.running / room_of(a):.0f}%" if room_of(a) else "",
        lambda a, _: a.running / room_of(a) if room_of(a) else None,
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


ROSTER: Final = Columns(TRAITS, usual=USUAL, wide=WIDE, wide_cells=WIDE_CELLS, other=OTHER_NAMES)
columns_of = ROSTER.named
rows_of = ROSTER.rows


def in_order(agents: Sequence[AgentRecord], by: str, now: float) -> list[AgentRecord]:
    """Sort by a column; agents without a value come last, equal ones are sorted by name."""
    return ROSTER.in_order(sorted(agents, key=lambda each: each.agent), by, now)
