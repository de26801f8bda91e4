"""Generated sections of a page: the text between two markers.

<!-- generated: NAME -->

the text

<!-- end -->
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

_SECTION: Final = re.compile(
    r"(?P<begin><!-- generated: (?P<name>[a-z-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)


def rewritten(page: str, makers: Mapping[str, Callable[[], str]]) -> str:
    """Return `page` with each section generated again. Raises KeyError for an unknown section."""
    return _SECTION.sub(
        lambda match: f"{match['begin']}\n{makers[match['name']]()}\n\n{match['end']}", page
    )


def names(page: str) -> list[str]:
    return [match["name"] for match in _SECTION.finditer(page)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )
