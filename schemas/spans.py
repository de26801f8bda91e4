"""Lengths of time, and moments, as people write them."""

import re
from datetime import UTC, datetime
from typing import Final

DAY_S: Final = 86_400.0
_UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S, "w": 7 * DAY_S}
_SPAN: Final = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)([smhdw]?)")


def span_s(text: str) -> float:
    """Seconds of `90`, `90s`, `15m`, `2h`, `30d` or `2w`; ValueError for anything else."""
    found = _SPAN.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise ValueError(f"{text!a} is no length of time: write it as 90s, 15m, 2h or 30d")
    return float(found[1]) * _UNITS_S[found[2] or "s"]


def moment_of(text: str, now: float) -> float:
    """Unix time of a date, or of so long before `now`; ValueError if it is neither.

    A time without a zone is one of UTC.
    """
    try:
        return now - span_s(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        raise ValueError("give a date, or how long ago: 2026-01-31, 12h, 30d") from None
