"""Clocks, passed as arguments: monotonic time for deadlines, wall clock for people."""

import time
from typing import Final, Protocol

# The boot-time clock counts on while a host is suspended, so that a lease expires meanwhile.
# Systems without it (not Linux) use the plain monotonic clock, which may stop meanwhile.
_ELAPSED_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    def elapsed(self) -> float:
        """Reading of the monotonic clock, in seconds: for every deadline and duration."""
        ...

    def now(self) -> float:
        """Unix seconds, UTC: for people and records, never for a deadline."""
        ...


class SystemClock:
    def elapsed(self) -> float:
        return time.clock_gettime(_ELAPSED_CLOCK)

    def now(self) -> float:
        return time.time()
