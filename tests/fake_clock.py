"""A clock that a test moves."""

from typing import Final

EPOCH: Final = 1_790_000_000.0


class FakeClock:
    """Stands still until `advance`. The two readings may be set apart, as on a wrong host."""

    def __init__(self, elapsed: float = 1000.0, now: float = EPOCH) -> None:
        self._elapsed = elapsed
        self._now = now

    def elapsed(self) -> float:
        return self._elapsed

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError("elapsed time does not go back")
        self._elapsed += seconds
        self._now += seconds

    def set_wall(self, now: float) -> None:
        """As when somebody sets the host's clock: deadlines must not notice."""
        self._now = now
