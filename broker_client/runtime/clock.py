"""Time as a thing that is handed in: one reading for deadlines, one for people."""

import time
from typing import Final, Protocol

# The boot-time clock goes on while a host is suspended, and a lease must not outlive a closed lid.
# Systems without it (not Linux) fall back to the monotonic one, which may stand still meanwhile.
_ELAPSED_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    def elapsed(self) -> float:
        """Seconds since some moment, never set back: for every deadline and duration."""
        ...

    def now(self) -> float:
        """Unix seconds, UTC: for what people read, never for a deadline."""
        ...


class SystemClock:
    def elapsed(self) -> float:
        return time.clock_gettime(_ELAPSED_CLOCK)

    def now(self) -> float:
        return time.time()
