"""Moments as people and records write them: RFC 3339, UTC, to the millisecond."""

from datetime import UTC, datetime


def rfc3339(unix_s: float) -> str:
    """`1763686800.5` -> `2025-11-21T01:00:00.500Z`."""
    moment = datetime.fromtimestamp(unix_s, UTC)
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"


def rfc3339_or_none(unix_s: float) -> str | None:
    """As `rfc3339`; None for 0, which stands for a moment that is not known."""
    return rfc3339(unix_s) if unix_s else None


def parse_rfc3339(text: str) -> float:
    """Unix seconds of a moment that `rfc3339` wrote; raises ValueError for anything else."""
    return datetime.fromisoformat(text).timestamp()
