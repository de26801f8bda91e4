"""Room in the event store: of its last part only outcomes and cancels make use.

0 ├──────── commands, and what becomes of them ────────┤── what becomes of them ──┤ limit
"""

from collections.abc import Callable
from typing import Final

_RESERVE_PART: Final = 0.1
# What the broker keeps beside the bytes of a fact, about.
_OVERHEAD: Final = 512


class StoreRoom:
    """limit: of the stream, in bytes. appended: all bytes that this process ever wrote to it.

    Its size is looked at from time to time; meanwhile it grows by what is appended, whatever that
    is: ends and cancels as well.
    """

    def __init__(self, limit: int, appended: Callable[[], int]) -> None:
        self._most = limit - int(limit * _RESERVE_PART)
        self._appended = appended
        self._before = 0

    def note_size(self, size: int, appended: int) -> None:
        """So large was it just now. appended: what that was when the question was asked."""
        self._before = size - appended

    def has(self, size: int) -> bool:
        """Whether a command of `size` bytes may be stored."""
        return self._before + self._appended() + size + _OVERHEAD <= self._most
