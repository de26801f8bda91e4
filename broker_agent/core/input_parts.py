"""Parts of a staged input on their way to the agent: what to ask for, and when to give up.

0 ├──────────────────┤ asked, at most WINDOW at a time ├─────────────────────┤ parts
stored in the file                                     not asked for yet
"""

from typing import Final

# Parts that are asked for at the same time.
WINDOW: Final = 8
# Seconds without an answer, after which a part is asked for again.
AGAIN_S: Final = 3.0
# Seconds without any part, after which the input is given up.
PATIENCE_S: Final = 300.0


class PartWindow:
    """State of one input of `parts` parts. All times are readings of the monotonic clock."""

    def __init__(self, parts: int, now_s: float) -> None:
        self._parts = parts
        self._next = 0
        self._asked: dict[int, float] = {}
        self._left = parts
        self._heard_s = now_s

    @property
    def is_whole(self) -> bool:
        return not self._left

    def is_hopeless(self, now_s: float) -> bool:
        return now_s - self._heard_s > PATIENCE_S

    def due(self, now_s: float) -> list[int]:
        """Return the parts to ask for now, and note that they are asked for."""
        late = [part for part, at in self._asked.items() if now_s - at >= AGAIN_S]
        room = WINDOW - len(self._asked)
        fresh = range(self._next, min(self._parts, self._next + room))
        self._next = fresh.stop if fresh else self._next
        found = [*late, *fresh]
        self._asked.update(dict.fromkeys(found, now_s))
        return found

    def take(self, part: int, now_s: float) -> bool:
        """Note an arrived part; False for one that was not asked for, or has come before."""
        if self._asked.pop(part, None) is None:
            return False
        self._left -= 1
        self._heard_s = now_s
        return True
