"""Congestion window of output: bytes under way at once, so that no heartbeat waits long behind.

The window starts small, also after each loss. It doubles while acknowledgements are quick and the
window was full, and halves when they are slow: one small chunk at a time on a bad line, some
megabytes on a good one. A window that was never full does not grow, since a line may turn bad at
any moment.
"""

from typing import Final

FIRST_BYTES: Final = 8 * 1024
LEAST_BYTES: Final = 4 * 1024
# Enough for 100 MB/s over 20 ms; bounds the agent's memory.
MOST_BYTES: Final = 2 * 1024 * 1024
QUICK_S: Final = 0.25
SLOW_S: Final = 1.0
# Smallest number of chunks per window, so that acknowledgements come while others are under way.
CHUNKS_PER_WINDOW: Final = 4


class Pace:
    """Counts the bytes under way; `limit_bytes` is the window."""

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
            # A full window was acknowledged quickly: double the window.
            self._acked += size
            if self._was_full and self._acked >= self.limit_bytes:
                self._acked = 0
                self._was_full = False
                self.limit_bytes = min(self.most_bytes, self.limit_bytes * 2)

    def on_failed(self, size: int) -> None:
        """Shrink after a timeout or a refusal."""
        self.in_flight -= size
        self._shrink()

    def _shrink(self) -> None:
        self._acked = 0
        self._was_full = False
        self.limit_bytes = max(LEAST_BYTES, self.limit_bytes // 2)

    def restart(self) -> None:
        """Start small on a new connection."""
        self._acked = 0
        self._was_full = False
        self.limit_bytes = min(FIRST_BYTES, self.most_bytes)
