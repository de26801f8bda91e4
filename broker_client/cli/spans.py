"""Lengths of time as people write them."""

import re
from typing import Final

_UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw]?)")


def span_s(text: str) -> float:
    """Seconds of `90`, `90s`, `15m`, `2h`, `30d` or `2w`; ValueError for anything else."""
    found = _SPAN.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise ValueError(f"{text!a} is no length of time: write it as 90s, 15m, 2h or 30d")
    return float(found[1]) * _UNITS_S[found[2] or "s"]


def check_span(_type: object, value: str | None) -> None:
    """For parameters that are such a length."""
    if value is not None:
        span_s(value)
