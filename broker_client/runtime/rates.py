"""Rate limits, shares of a pool, and measured rates."""

from typing import Final


class TokenBucket:
    """Rate limit: at most `burst` at once and `per_s` in the long run; the rest is refused.

    Callers pass the time, so that tests need no clock.
    """

    def __init__(self, *, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._at: float | None = None
        self.refused = 0

    def take(self, now: float, cost: float = 1.0) -> bool:
        """Take tokens at `now`, a reading of the monotonic clock; False if none is left.

        cost: number of tokens. The rest may become negative, so that an event above the burst is
        admitted, and delays the next one longer.
        """
        if self._at is not None and self._tokens < self._burst:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens < 1:
            self.refused += 1
            return False
        self._tokens -= cost
        return True

    def add(self, tokens: float, *, most: float) -> None:
        """Add extra tokens, up to `most` in all."""
        self._tokens = max(self._tokens, min(most, self._tokens + tokens))


class Shares:
    """A pool of `total` places, of which one owner holds at most `each`."""

    def __init__(self, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._of: dict[str, int] = {}
        self.taken = 0

    def take(self, owner: str, places: int = 1) -> bool:
        """Take `places` for `owner`; False if it or the pool has too few left."""
        has = self._of.get(owner, 0)
        if has + places > self._each or self.taken + places > self._total:
            return False
        self._of[owner] = has + places
        self.taken += places
        return True

    def give_back(self, owner: str, places: int = 1) -> None:
        left = self._of.get(owner, 0) - places
        self.taken -= places
        if left > 0:
            self._of[owner] = left
        else:
            self._of.pop(owner, None)

    def held_by(self, owner: str) -> int:
        return self._of.get(owner, 0)


class EventRate:
    """Events per second, with the greatest weight on recent ones. Callers pass the time."""

    _HALF_S = 0.1

    def __init__(self) -> None:
        self.per_s = 0.0
        self._at: float | None = None

    def note(self, events: int, now: float) -> None:
        """Count `events` since the last note."""
        if self._at is not None:
            span_s = max(now - self._at, 1e-6)
            kept = 0.5 ** (span_s / self._HALF_S)
            self.per_s = self.per_s * kept + events / span_s * (1 - kept)
        self._at = now


class Gathering:
    """Decides whether a group commit waits shortly for more items before it writes.

    A write costs about the same for one item and for thirty. In a steady stream, waiting for more
    items halves the cost; if all callers wait for this write, no more items come, as the first wait
    without a gain shows. Callers pass the time.

    wait_s: the longest wait. patient_s: the longest wait while work queues up elsewhere, so that an
    early write would serve no caller sooner.
    """

    _FEW: Final = 4
    # Items in `wait_s` above which there is no further wait.
    _ENOUGH: Final = 32
    # Seconds without a wait after one that gained little.
    _VAIN_S: Final = 1.0

    def __init__(self, *, wait_s: float, patient_s: float) -> None:
        self._wait_s = wait_s
        self._patient_s = patient_s
        self._rate = EventRate()
        self._expected = 0.0
        self._not_before = 0.0
        self.enough = self._ENOUGH

    def note_write(self, items: int, now: float) -> None:
        self._rate.note(items, now)

    def wait_s(self, queued: int, now: float, *, patient: bool) -> float:
        """Return the seconds to wait now, unless `enough` items come sooner; 0 for no wait."""
        wait_s = self._patient_s if patient else self._wait_s
        self.enough = int(self._ENOUGH * wait_s / self._wait_s)
        self._expected = self._rate.per_s * wait_s
        is_worth = queued < self.enough and now >= self._not_before and self._expected >= self._FEW
        return wait_s if is_worth else 0.0

    def note_wait(self, gained: int, now: float) -> None:
        """Note that a whole wait gained so many items."""
        if gained < self._expected / 2:
            self._not_before = now + self._VAIN_S
