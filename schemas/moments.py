"""Moments as people and records write them: RFC 3339, UTC, to the millisecond."""

from datetime import UTC, datetime
from functools import lru_cache


@lru_cache(maxsize=256)
def rfc3339(unix_s: float) -> str:
    """`1763686800.5` -> `2025-11-21T01:00:00.500Z`, cut to the millisecond."""
    second, milliseconds = divmod(int(unix_s * 1000), 1000)
    return f"{_to_the_second(second)}.{milliseconds:03d}Z"


@lru_cache(maxsize=64)
def _to_the_second(unix_s: int) -> str:
    """Records of one moment share their second, and this is the costly part."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def rfc3339_or_none(unix_s: float) -> str | None:
    """As `rfc3339`; None for 0, which stands for a moment that is not known."""
    return rfc3339(unix_s) if unix_s else None


def parse_rfc3339(text: str) -> float:
    """Unix seconds of a moment that `rfc3339` wrote; raises ValueError for anything else."""
    return datetime.fromisoformat(text).timestamp()
