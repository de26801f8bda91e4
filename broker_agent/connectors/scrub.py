"""Removes values of secrets from texts, in the forms that drivers and protocols give them."""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote, quote_plus

MARK: Final = "[secret]"
WITHHELD: Final = "[text withheld: it contains a secret that is too short to be cut out]"
# Characters below which a cut would tell the value by what it leaves.
SHORT: Final = 4
# Characters of a line of a long value, such as a key, and of the sure part of a base64 form.
_LINE: Final = 16
_SURE: Final = 6


def forms(value: str) -> set[str]:
    """All forms of a value: plain, URL-encoded, base64 at any offset, hex, JSON."""
    found = {value, quote(value, safe=""), quote(value), quote_plus(value)}
    found |= {json.dumps(value)[1:-1], repr(value)[1:-1], value.encode().hex()}
    found |= {each for each in _base64_forms(value.encode()) if len(each) >= _SURE}
    found |= {line.strip() for line in value.splitlines() if len(line.strip()) >= _LINE}
    return {each for each in found if each}


def _base64_forms(data: bytes) -> Iterator[str]:
    """Yield the characters that stand for `data` alone, wherever it begins in what is encoded."""
    for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
        yield encode(data).decode().rstrip("=")
        for offset in range(3):
            text = encode(b"\0" * offset + data).decode().rstrip("=")
            first = (offset * 8 + 5) // 6
            last = (offset + len(data)) * 8 // 6
            yield text[first:last]


class Scrubber:
    """Removes the values that it has learnt. Longer forms are removed first."""

    def __init__(self, values: Iterable[str]) -> None:
        self._short: set[str] = set()
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.learn(values)

    def learn(self, values: Iterable[str]) -> None:
        for value in values:
            if len(value) < SHORT:
                self._short |= {value} - {""}
            else:
                self._forms |= forms(value)
        longest_first = sorted(self._forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if self._forms else None

    def scrub(self, text: str) -> str:
        """Return `text` without the values; withheld as a whole if a very short one is in it."""
        if any(value in text for value in self._short):
            return WITHHELD
        return text if self._pattern is None else self._pattern.sub(MARK, text)
