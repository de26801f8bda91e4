"""Lines of a TOML file, by the path of a value: its parser does not tell them.

Where a file is checked elsewhere, the places of its names travel, and none of its values.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

# A line, and the full name of the table or key in it.
Place: TypeAlias = tuple[int, list[str]]

ANY: Final = "*"
_TABLE: Final = re.compile(r"\s*\[\[?([^\[\]]+)\]\]?\s*(?:#.*)?")
_KEY: Final = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*[^\s=.]+)*)\s*=(.*)"""
)
_PART: Final = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")
_FENCES: Final = ('"""', "'''")
_PARSER_LINE: Final = re.compile(r" ?\(at line (\d+), column \d+\)")
_WHERE: Final = re.compile(r" - at `(?:key` in `)?\$([^`]*)`")
_LOST: Final = re.compile(r"unknown field `([^`]*)`")


def line_of(places: Sequence[Place], path: Sequence[str]) -> int:
    """Return the line of the value at `path`, or of the innermost table that holds it; 0: unknown.

    `ANY` as a step stands for each name. If several lines fit equally well, none is returned.
    """
    best, lines = 0, set[int]()
    for number, name in places:
        depth = len(name)
        if depth > len(path) or any(
            want not in {ANY, has} for want, has in zip(path, name, strict=False)
        ):
            continue
        if depth > best:
            best, lines = depth, set()
        if depth == best:
            lines.add(number)
    return lines.pop() if len(lines) == 1 else 0


def parser_line(said: str) -> tuple[str, int]:
    """Split the text of a parser's fault into the fault and its line; 0: the end of the file."""
    found = _PARSER_LINE.search(said)
    return (_PARSER_LINE.sub("", said), int(found[1])) if found else (said, 0)


def path_of(said: str) -> list[str]:
    """Return the path that a validator's finding names, with an unknown field as its end."""
    where, lost = _WHERE.search(said), _LOST.search(said)
    steps = re.findall(r"\.([A-Za-z0-9_-]+)|(\[\.\.\.\])", where[1] if where else "")
    return [name or ANY for name, _ in steps] + ([lost[1]] if lost else [])


def places_in(text: str) -> list[Place]:
    """Return each table and key of a file."""
    return list(_places(text))


def _places(text: str) -> Iterator[Place]:
    table: list[str] = []
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        if fence:
            fence = "" if fence in line else fence
            continue
        if head := _TABLE.fullmatch(line):
            table = _parts(head[1])
            yield number, table
        elif key := _KEY.match(line):
            yield number, table + _parts(key[1])
            fence = next((each for each in _FENCES if key[2].count(each) == 1), "")


def _parts(name: str) -> list[str]:
    return [part.strip("\"'") for part in _PART.findall(name)]
