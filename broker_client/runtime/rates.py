"""How often something may happen, and how often it does."""


class TokenBucket:
    """At most `burst` at once and `per_s` in the long run; what is over is refused, not queued.

    Time is handed in, so that it decides the same in a test and in a service.
    """

    def __init__(self, *, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._at: float | None = None
        self.refused = 0

    def take(self, now: float) -> bool:
        """Whether one more may happen at `now`, a reading of a clock that never goes back."""
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens < 1:
            self.refused += 1
            return False
        self._tokens -= 1
        return True


class EventRate:
    """Events per second, the last moments counting most. Time is handed in."""

    _HALF_S = 0.1

    def __init__(self) -> None:
        self.per_s = 0.0
        self._at: float | None = None

    def note(self, events: int, now: float) -> None:
        """`events` happened since the last note."""
        if self._at is not None:
            span_s = max(now - self._at, 1e-6)
            kept = 0.5 ** (span_s / self._HALF_S)
            self.per_s = self.per_s * kept + events / span_s * (1 - kept)
        self._at = now
