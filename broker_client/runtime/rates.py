"""How often something may happen."""


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
