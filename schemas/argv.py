"""The arguments of a program, as people read them."""

import shlex
from collections.abc import Sequence
from typing import Final

from schemas.texts import cut_text, visible

# Characters of a program's line.
PROGRAM_LEN: Final = 500
_BASE_LEN: Final = 64


def quoted(argv: Sequence[str]) -> str:
    """`argv` in one line as a shell would take it, control characters spelled out.

    At most `PROGRAM_LEN` characters; a longer line is cut and ends with a mark.
    """
    line, room = [], PROGRAM_LEN
    for argument in argv:
        # The rest is cut anyway, so it is not quoted.
        text = shlex.quote(argument[: room + 1])
        line.append(text)
        room -= len(text) + 1
        if room < 0:
            break
    return cut_text(visible(" ".join(line)), PROGRAM_LEN)


def base_name(argv: Sequence[str]) -> str:
    """`apt-get` of `/usr/bin/apt-get -y upgrade`; control characters spelled out."""
    if not argv:
        return ""
    return visible(argv[0].rstrip("/").rpartition("/")[2][:_BASE_LEN])[:_BASE_LEN]
