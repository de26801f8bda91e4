"""Room in the event store: of its last part only outcomes and cancels make use.

0 ├──────── commands, and what becomes of them ────────┤── what becomes of them ──┤ limit
"""

from typing import Final

_RESERVE_PART: Final = 0.1
# What the broker keeps beside the bytes of a fact, about.
_OVERHEAD: Final = 512


class StoreRoom:
    """limit: of the stream, in bytes. Its size is known from time to time, and grows meanwhile."""

    def __init__(self, limit: int) -> None:
        self._most = limit - int(limit * _RESERVE_PART)
        self._size = 0
        self._taken = 0

    def note_size(self, size: int) -> None:
        """It was just looked at."""
        self._size = size
        self._taken = 0

    def take(self, size: int) -> bool:
        """Whether a command of `size` bytes may be stored; it is counted then."""
        if self._size + self._taken + size + _OVERHEAD > self._most:
            return False
        self._taken += size + _OVERHEAD
        return True
