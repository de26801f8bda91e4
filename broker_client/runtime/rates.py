"""How often something may happen, and how often it does."""

from typing import Final


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

    def take(self, now: float, cost: float = 1.0) -> bool:
        """Whether one more may happen at `now`, a reading of a clock that never goes back.

        cost: what it takes of the tokens. It may leave them below none, so that what costs more
        than the burst is not refused for ever, and is waited for the longer.
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
        """Give more than time does, up to `most` in all."""
        self._tokens = max(self._tokens, min(most, self._tokens + tokens))


class Shares:
    """A pool of `total` places of which one owner gets at most `each` at a time."""

    def __init__(self, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._of: dict[str, int] = {}
        self.taken = 0

    def take(self, owner: str, places: int = 1) -> bool:
        """Whether `owner` gets that many more."""
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


class Gathering:
    """Whether a group commit should wait a moment for company before it writes.

    A write costs about as much for one item as for thirty. Where a steady stream comes in, waiting
    for more of it halves the cost; where everybody waits for us, nothing more would come, which the
    first vain wait shows. Time is handed in.

    wait_s: the longest wait. patient_s: the longest while nobody is served sooner by a hurried
    write, since work queues up elsewhere.
    """

    _FEW: Final = 4
    # Nobody waits on for more than so many items in `wait_s`.
    _ENOUGH: Final = 32
    # After a wait that brought little, none for this long.
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
        """How long to wait now, unless `enough` come sooner; 0 for not at all."""
        wait_s = self._patient_s if patient else self._wait_s
        self.enough = int(self._ENOUGH * wait_s / self._wait_s)
        self._expected = self._rate.per_s * wait_s
        is_worth = queued < self.enough and now >= self._not_before and self._expected >= self._FEW
        return wait_s if is_worth else 0.0

    def note_wait(self, gained: int, now: float) -> None:
        """A whole wait has brought `gained` items."""
        if gained < self._expected / 2:
            self._not_before = now + self._VAIN_S
