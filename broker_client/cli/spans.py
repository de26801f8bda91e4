"""Lengths of time, and moments, as people write them."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from schemas.spans import span_s

if TYPE_CHECKING:
    from cyclopts import Token

__all__ = ["check_moment", "check_span", "moment_of", "span_s", "to_seconds"]


def to_seconds(_type: object, tokens: "Sequence[Token]") -> float:
    """For parameters that are such a length, with a number of seconds as their value."""
    return span_s(tokens[0].value)


def check_span(_type: object, value: str | None) -> None:
    """For parameters that are such a length."""
    if value is not None:
        span_s(value)


def moment_of(text: str, now: float | None = None) -> float:
    """Unix time of a date, or of so long ago; a time without a zone is one of this host's zone.

    ValueError if it is neither.
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
    """For parameters that are such a moment."""
    if value is not None:
        moment_of(value)
