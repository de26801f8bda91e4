"""Entries of streams and buckets that are unreadable, or at a wrong subject.

Only masters may write there, so each is an accident, an attack, or the work of a newer release. It
is skipped, counted once, and reported; no operation fails for it. A readable entry at its right
subject was written with a master's credentials: its content cannot show a foreign writer.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

# Entries in memory, so that a second read does not count them again.
_KNOWN_MAX: Final = 4096
_WHY_LEN: Final = 300


class Stray(NamedTuple):
    """The newest of `number` unreported entries of one stream."""

    stream: str
    seq: int
    subject: str
    why: str
    number: int


class Strays:
    """Counts of skipped entries.

    counts: by stream, since this master started.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._known: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._untold: dict[str, Stray] = {}

    def note(self, stream: str, seq: int, subject: str, why: object) -> None:
        """Entry `seq` of `stream` was skipped."""
        if (stream, seq) in self._known:
            return
        self._known[stream, seq] = None
        if len(self._known) > _KNOWN_MAX:
            self._known.popitem(last=False)
        self.counts[stream] = self.counts.get(stream, 0) + 1
        before = self._untold.get(stream)
        number = 1 + (before.number if before is not None else 0)
        self._untold[stream] = Stray(stream, seq, subject, str(why)[:_WHY_LEN], number)

    def take_untold(self) -> list[Stray]:
        """One for each stream with unreported entries; they count as reported from now on."""
        found = list(self._untold.values())
        self._untold.clear()
        return found
