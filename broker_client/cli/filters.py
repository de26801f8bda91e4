"""Filters as arguments of the command line: words, joined to one text for the master."""

import time
from collections.abc import Sequence

from schemas.filters import Language, fold


def joined(words: Sequence[str], language: Language) -> str:
    """Join `words` to a filter. Raises Refused (`filter_invalid`) before any connection."""
    text = " ".join(words)
    _ = language.parse(text, time.time())
    return text


def unmatched(words: Sequence[str], language: Language) -> str:
    """Return what a filter without a match may have meant, a suffix of a message; or nothing.

    Several names, of which each record has one; or the value of a field without the field.
    """
    parsed = language.parse(" ".join(words), time.time())
    names = [each for word in parsed if word.field == language.bare for each in word.patterns]
    bare = [word for word in words if ":" not in word and not word.startswith("!")]
    if len(bare) > 1 and len(bare) == len(parsed):
        return f": all words have to hold; for any of these names: {','.join(bare)}"
    for name in names:
        for field, about in language.fields.items():
            if name in map(fold, about.values):
                return f": {name} is taken as a name; did you mean {field}:{name}?"
    return ""
