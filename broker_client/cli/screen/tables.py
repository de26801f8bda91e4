"""Plain aligned tables that fit the screen.

Texts are broken into lines if necessary; columns that still do not fit are hidden and named.
"""

import re
import textwrap
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from broker_client.cli.screen.terminal import shown
from schemas.spans import DAY_S, time_left

GAP: Final = "  "
# Lines of a text in a cell; `show` has the whole text.
_LINES: Final = 4
# Lines that are readable, in shortest ones.
_READABLE: Final = 2
# A name and the following gap.
_LABEL: Final = re.compile(r" *\S+(?: \S+)* {2,}")
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


class Column(msgspec.Struct, frozen=True):
    """A column. head: heading. least: shortest lines, in cells, of a broken text; 0: never broken.

    is_cut: texts stay on one line, and are cut to no less than `least` cells instead.

    rank: columns with the highest rank are hidden first when space is short; 0 never.
    """

    head: str
    rank: int = 0
    right: bool = False
    least: int = 0
    is_cut: bool = False


class Table(msgspec.Struct, frozen=True):
    """A laid-out table. lines: the heading, then rows of one line or more.

    hidden: headings of hidden columns.
    """

    lines: list[str]
    hidden: list[str]


def fit(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> Table:
    """Lay `rows` out in at most `width` cells a line.

    First breaks texts, then hides columns by their rank, and at last cuts the widest cells. Escapes
    all cells, so that no caller forgets it.
    """
    cells = [[shown(cell) for cell in row] for row in rows]
    widths = [
        max([cells_of(column.head), *(cells_of(row[index]) for row in cells)])
        for index, column in enumerate(columns)
    ]
    kept = list(range(len(columns)))
    wanted = list(widths)
    _shorten(columns, widths, kept, width)
    while _total(widths, kept) > width and any(columns[index].rank for index in kept):
        kept.remove(max(kept, key=lambda index: (columns[index].rank, index)))
        # The other columns take the room of a hidden one.
        widths[:] = wanted
        _shorten(columns, widths, kept, width)
    _narrow(widths, kept, width)
    head = [column.head for column in columns]
    lines = [line for row in (head, *cells) for line in _lines(columns, widths, kept, row)]
    return Table(lines, [columns[index].head for index in range(len(columns)) if index not in kept])


def cells_of(text: str) -> int:
    """Return the cells of `text` on a terminal: 2 for wide characters, 0 for combining ones."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return `text` in at most `width` cells; a cut text ends with an ellipsis."""
    if cells_of(text) <= width:
        return text
    taken, used = [], 0
    for character in text:
        used += _cells(character)
        if used > width - 1:
            break
        taken.append(character)
    return "".join(taken) + "…"


def _total(widths: Sequence[int], kept: Sequence[int]) -> int:
    return sum(widths[index] for index in kept) + len(GAP) * (len(kept) - 1)


def _shorten(columns: Sequence[Column], widths: list[int], kept: Sequence[int], width: int) -> None:
    # Breaking a text loses nothing, so it comes before cuts, but short lines are hard to read.
    for is_cut, times in ((False, _READABLE), (True, 1), (False, 1)):
        for index in (each for each in kept if columns[each].is_cut is is_cut):
            excess = _total(widths, kept) - width
            least = times * max(columns[index].least, cells_of(columns[index].head))
            if excess > 0 and columns[index].least:
                widths[index] = max(min(least, widths[index]), widths[index] - excess)


def _narrow(widths: list[int], kept: Sequence[int], width: int) -> None:
    """Narrow the widest column until all kept ones fit; none gets narrower than one cell."""
    while (excess := _total(widths, kept) - width) > 0:
        widest = max(kept, key=lambda index: widths[index])
        if widths[widest] <= 1:
            return
        second = max((widths[index] for index in kept if index != widest), default=1)
        widths[widest] = max(1, min(widths[widest] - 1, max(second, widths[widest] - excess)))


def _lines(
    columns: Sequence[Column], widths: Sequence[int], kept: Sequence[int], row: Sequence[str]
) -> list[str]:
    """Return the lines of one row: as many as its longest text needs, at least one."""
    parts = [
        broken(row[index], widths[index])
        if columns[index].least and not columns[index].is_cut
        else [cut(row[index], widths[index])]
        for index in kept
    ]
    lines = []
    for number in range(max((len(part) for part in parts), default=0)):
        cells = [
            _padded(part[number] if number < len(part) else "", widths[index], columns[index].right)
            for index, part in zip(kept, parts, strict=True)
        ]
        lines.append(GAP.join(cells).rstrip())
    return lines


def broken(text: str, width: int) -> list[str]:
    """Break `text` into lines of at most `width` cells, between words if possible; at least one."""
    characters = width if cells_of(text) == len(text) else max(1, width // 2)
    lines = [cut(line, width) for line in textwrap.wrap(text, characters)] or [""]
    if len(lines) > _LINES:
        lines[_LINES - 1 :] = [cut(" ".join(lines[_LINES - 1 :]), width)]
    return lines


def _padded(text: str, width: int, right: bool) -> str:  # noqa: FBT001  (a column's own field)
    padding = " " * (width - cells_of(text))
    return padding + text if right else text + padding


def facts(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Return named values, one per line; empty ones are left out.

    Escapes names too: those of a result are of an agent.
    """
    filled = [(shown(name), value) for name, value in pairs if value]
    width = max((len(name) for name, _ in filled), default=0)
    return [f"{name:<{width}}{GAP}{shown(value)}" for name, value in filled]


def hung(line: str, width: int) -> list[str]:
    """Break `line` into lines of at most `width` cells, indented below the text of the first.

    Breaks are between words only: a long address or number stays whole, so that it can be copied.
    """
    if cells_of(line) <= width:
        return [line]
    label = _LABEL.match(line)
    indent = " " * (label.end() if label and label.end() <= width // 2 else len(GAP))
    characters = width if cells_of(line) == len(line) else max(1, width // 2)
    return textwrap.wrap(
        line,
        characters,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )


def local_time(text: str | None) -> str:
    """Format a time of a record in the local time zone, to the second; other texts stay."""
    moment = _moment(text)
    if moment is None:
        return text or ""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def utc_time(text: str | None) -> str:
    """Format a time of a record in UTC, to the second; other texts stay."""
    moment = _moment(text)
    return (text or "") if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def short_time(text: str | None, now: float) -> str:
    """Format a time in the local time zone, short: the time of today, or day and minute.

    now: unix time. `show` and JSON have full times.
    """
    moment = _moment(text)
    if moment is None:
        return text or ""
    local, today = moment.astimezone(), datetime.fromtimestamp(now, UTC).astimezone()
    if local.date() == today.date():
        return f"{local:%H:%M:%S}"
    return f"{local:%m-%d %H:%M}" if local.year == today.year else f"{local:%Y-%m-%d}"


def local_and_utc(text: str | None) -> str:
    """As `local_time`, with the zone, and the same time in UTC."""
    moment = _moment(text)
    if moment is None:
        return text or ""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %z} ({moment.astimezone(UTC):%H:%M:%S} UTC)"


def moment_in(text: str) -> str | None:
    """Return the first time in `text`, unchanged."""
    found = _MOMENT.search(text)
    return found.group() if found else None


def in_local_time(text: str, now: float | None = None) -> str:
    """Return `text` with its times in the local time zone.

    now: unix time; future times get the time left as well.
    """

    def said(found: re.Match[str]) -> str:
        moment = _moment(found.group())
        left_s = 0.0 if moment is None or now is None else moment.timestamp() - now
        left = f" (in {duration(left_s)})" if left_s > 0 else ""
        return local_time(found.group()) + left

    return _MOMENT.sub(said, text)


def _moment(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text or "")
        return moment if moment.tzinfo else None
    except ValueError:
        return None


def left_of(end: str, now: float) -> str:
    """Return the time left until a time of a record; empty if it has none. now: unix time."""
    moment = _moment(end)
    return "" if moment is None else time_left(moment.timestamp() - now)


def duration(seconds: float) -> str:
    """Format seconds in the two largest units: `3d 4h`, `12m 5s`, `0.4s`."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    days, rest = divmod(int(seconds), int(DAY_S))
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (secs, "s")]
    first = next(index for index, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2] if count)
