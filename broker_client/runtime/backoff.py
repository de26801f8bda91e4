"""Back-off with jitter: seconds to wait before the next try."""

from collections.abc import Callable
from typing import Final

FIRST_S: Final = 0.2
CAP_S: Final = 30.0


class Backoff:
    """Back-off with full jitter: between 0 and a bound that doubles with each try.

    The jitter keeps hundreds of agents from reconnecting in one moment. chance: returns numbers in
    [0, 1), such as `random.random`; tests pass their own.
    """

    def __init__(
        self, chance: Callable[[], float], *, first_s: float = FIRST_S, cap_s: float = CAP_S
    ) -> None:
        self._chance = chance
        self._first_s = first_s
        self._cap_s = cap_s
        self._bound_s = first_s

    def next_s(self) -> float:
        """Return the seconds to wait now; the bound of the next wait doubles."""
        wait_s = self._chance() * self._bound_s
        self._bound_s = min(self._cap_s, self._bound_s * 2)
        return wait_s

    def reset(self) -> None:
        """Start again from the first bound; called after a stable time, not at a first success."""
        self._bound_s = self._first_s
