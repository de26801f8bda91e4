"""Filters as arguments of the command line: words, as one text for the master."""

import time
from collections.abc import Sequence

from schemas.filters import Language


def joined(words: Sequence[str], language: Language) -> str:
    """The filter that `words` are. Refused (`filter_invalid`) at once, before any connection."""
    text = " ".join(words)
    _ = language.parse(text, time.time())
    return text
