"""How much output may be on its way at once, so that a beat never waits long behind it.

Small at first and after each loss; doubled while answers come at once and more would have been
sent, halved when they are slow: on a bad line that leaves one small chunk at a time, on a good one
some megabytes. What was never needed is not allowed: a line may turn bad from one moment to the
next.
"""

from typing import Final

FIRST_BYTES: Final = 8 * 1024
LEAST_BYTES: Final = 4 * 1024
# Enough for 100 MB/s over 20 ms, and what the agent's memory is bounded by.
MOST_BYTES: Final = 2 * 1024 * 1024
QUICK_S: Final = 0.25
SLOW_S: Final = 1.0
# So many chunks at least share a window, so that answers come while others are on their way.
CHUNKS_PER_WINDOW: Final = 4


class Pace:
    """Counts bytes on their way; `limit_bytes` is how many there may be."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self.limit_bytes = min(FIRST_BYTES, most_bytes)
        self.in_flight = 0
        self._acked = 0
        self._was_full = False

    def has_room(self) -> bool:
        return self.in_flight < self.limit_bytes

    def chunk_bytes(self, most: int) -> int:
        return min(most, max(LEAST_BYTES, self.limit_bytes // CHUNKS_PER_WINDOW))

    def on_sent(self, size: int) -> None:
        self.in_flight += size
        self._was_full |= not self.has_room()

    def on_stored(self, size: int, took_s: float) -> None:
        self.in_flight -= size
        if took_s > SLOW_S:
            self._shrink()
        elif took_s < QUICK_S:
            # A whole window came back quickly, and was too small: try the double one.
            self._acked += size
            if self._was_full and self._acked >= self.limit_bytes:
                self._acked = 0
                self._was_full = False
                self.limit_bytes = min(self.most_bytes, self.limit_bytes * 2)

    def on_failed(self, size: int) -> None:
        """No answer, or a refusal."""
        self.in_flight -= size
        self._shrink()

    def _shrink(self) -> None:
        self._acked = 0
        self._was_full = False
        self.limit_bytes = max(LEAST_BYTES, self.limit_bytes // 2)

    def restart(self) -> None:
        """A new connection: nothing is known of it yet."""
        self._acked = 0
        self._was_full = False
        self.limit_bytes = min(FIRST_BYTES, self.most_bytes)
