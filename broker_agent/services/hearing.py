"""Begins a new connection when the present one seems to be up and the master is not heard.

A subscription can get lost, a path can be cut in one direction, and the broker still answers our
pings. Nobody but us can tell: the echoes do not come.
"""

import asyncio
from typing import Final

import structlog

from broker_agent.services.wire import Station

# From the loss of the lease on, once in so many turns: then it is likely that no master runs.
SLOWER: Final = 6

log = structlog.get_logger(__name__)


class Hearing:
    """`rebuilt` counts the connections that were given up."""

    name = "hearing"

    def __init__(self, station: Station) -> None:
        self._wire = station.wire
        self._lease = station.lease
        self._clock = station.clock
        self._since: float | None = None
        self.rebuilt = 0

    def on_connected(self) -> None:
        """A new connection gets its time, however old the lease is."""
        self._since = self._clock.elapsed()

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        while True:
            pause_s = self.look()
            await asyncio.sleep(pause_s)

    def look(self) -> float:
        """Give the connection up if it is deaf; how long until the next look is worth it."""
        timers, now = self._lease.timers, self._clock.elapsed()
        age_s = self._lease.age_s(now)
        if age_s < timers.suspect_s:
            return max(0.05, timers.suspect_s - age_s)
        is_over = self._lease.renewed_at is None or age_s >= timers.patient_s + timers.ack_s
        patience_s = timers.ack_s * (SLOWER if is_over else 1)
        connected_s = patience_s if self._since is None else now - self._since
        if self._lease.hears_refused(now):
            return patience_s  # it is heard, and refused: no other connection changes that
        if self._wire.is_connected and connected_s >= patience_s:
            self.rebuilt += 1
            log.warning("connection_deaf", silence_s=round(age_s, 1))
            self._since = now
            self._wire.rebuild("deaf: the master is not heard")
            return patience_s
        return max(0.05, patience_s - connected_s)
