"""Suggestions of similar names in place of an unknown one."""

from collections.abc import Sequence
from typing import Final

_SHOWN: Final = 64
# How alike names are, from 0 to 1.
_CUTOFF: Final = 0.6


def near_names(name: str, known: Sequence[str], cutoff: float = _CUTOFF) -> str:
    """Return `: did you mean web-1 or web-2?`, a suffix of a message; empty if none is similar."""
    from difflib import get_close_matches  # imported only after a mistake

    near = get_close_matches(name[:_SHOWN], known, n=2, cutoff=cutoff)
    near = near or [each for each in known if name and each.startswith(name)][:2]
    return f": did you mean {' or '.join(near)}?" if near else ""
