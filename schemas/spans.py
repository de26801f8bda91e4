"""Lengths of time, and moments, as people write them."""

import re
from datetime import UTC, datetime
from typing import Final

DAY_S: Final = 86_400.0
_UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S, "w": 7 * DAY_S}
_PART: Final = r"(?:\d{1,12}(?:\.\d{1,9})?)"
# Each unit at most once, the greater first: `1h30m`.
_SPAN: Final = re.compile("".join(rf"(?:({_PART}){unit})?" for unit in reversed(_UNITS_S)))
_BARE: Final = re.compile(_PART)
_SIZES: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_SIZE: Final = re.compile(rf"({_PART})(?:([kmgt])(ib?|b)?|b)?", re.IGNORECASE)


def span_s(text: str) -> float:
    """Return the seconds of `90`, `90s`, `5m`, `1h30m`, `30d` or `2w`; the default unit is seconds.

    Raises ValueError for any other text, an empty one included.
    """
    bare = text.strip()
    found = _SPAN.fullmatch(bare)
    if _BARE.fullmatch(bare):
        seconds = float(bare)
    elif found is not None:
        units = zip(found.groups(), reversed(_UNITS_S.values()), strict=True)
        seconds = sum(float(count) * unit_s for count, unit_s in units if count)
    else:
        seconds = 0.0
    if not seconds:
        is_less = bare.startswith("-") and bare[1:2].isdigit()
        is_none = not is_less and (found is not None or _BARE.fullmatch(bare)) and bare
        wrong = "is negative, " if is_less else "is zero, " if is_none else "is "
        example = "write it as 90 (seconds), 5m, 1h30m or 30d"
        raise ValueError(f"{text[:64]!a} {wrong}no length of time: {example}")
    return seconds


def size_bytes(text: str) -> int:
    """Return the bytes of `1048576`, `64KiB`, `500MB` or `1.5GiB`; the default unit is bytes.

    `K`, `KB` and `KiB` are all 1024 bytes, and so on. Raises ValueError for any other text.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        example = "write it as 1048576 (bytes), 64KiB, 500MiB or 2GiB"
        raise ValueError(f"{text[:64]!a} is no size: {example}")
    return int(float(found[1]) * _SIZES[(found[2] or "").lower()])


def time_left(seconds: float) -> str:
    """Format a long remaining time: in days, and under a day down to the second."""
    days, rest = divmod(int(max(0.0, seconds)), int(DAY_S))
    if days:
        return "1 day" if days == 1 else f"{days} days"
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    parts = [(hours, "h"), (minutes, "m"), (secs, "s")]
    return " ".join(f"{count}{unit}" for count, unit in parts if count) or "0s"


def moment_of(text: str, now: float) -> float:
    """Return the unix time of a date, or of a span before `now`. Raises ValueError for other texts.

    A time without a zone is in UTC.
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
