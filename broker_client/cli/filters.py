"""Filters as arguments of the command line: words, joined to one text for the master."""

import time
from collections.abc import Sequence

from schemas.filters import Language


def joined(words: Sequence[str], language: Language) -> str:
    """Join `words` to a filter. Raises Refused (`filter_invalid`) before any connection."""
    text = " ".join(words)
    _ = language.parse(text, time.time())
    return text
