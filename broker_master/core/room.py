"""Room in the event store: its last part is reserved for outcomes and cancels.

0 ├──── commands, their starts and ends ────┤── ends and cancels alone ──┤ limit
"""

from collections.abc import Callable
from typing import Final

_RESERVE_PART: Final = 0.1
# Approximate overhead of the broker per fact, in bytes.
_OVERHEAD: Final = 512


class StoreRoom:
    """Estimates the free space of the event store.

    limit: of the stream, in bytes. appended: all bytes written by this process so far. Its size is
    measured from time to time; in between it grows by the appended bytes, ends and cancels
    included.
    """

    def __init__(self, limit: int, appended: Callable[[], int]) -> None:
        self._most = limit - int(limit * _RESERVE_PART)
        self._appended = appended
        self._before = 0

    def note_size(self, size: int, appended: int) -> None:
        """Note a measured size. appended: its value when the measurement began."""
        self._before = size - appended

    def has(self, size: int) -> bool:
        """Whether a command of `size` bytes may be stored."""
        return self._before + self._appended() + size + _OVERHEAD <= self._most
