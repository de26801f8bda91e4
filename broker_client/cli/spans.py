"""Durations and times in parameters of the command line."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from schemas.spans import span_s

if TYPE_CHECKING:
    from cyclopts import Token

__all__ = ["check_moment", "check_span", "moment_of", "span_s", "to_seconds"]


def to_seconds(_type: object, tokens: "Sequence[Token]") -> float:
    """Convert a duration in a parameter to seconds."""
    return span_s(tokens[0].value)


def check_span(_type: object, value: str | None) -> None:
    """Validate a parameter with a duration."""
    if value is not None:
        span_s(value)


def moment_of(text: str, now: float | None = None) -> float:
    """Return the unix time of a date, or of a duration ago; the default zone is this host's.

    Raises ValueError for other texts.
    """
    try:
        return (time.time() if now is None else now) - span_s(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        raise ValueError("give a date, or how long ago: 2026-01-31, 12h, 30d") from None


def check_moment(_type: object, value: str | None) -> None:
    """Validate a parameter with a time."""
    if value is not None:
        moment_of(value)
