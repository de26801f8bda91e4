"""Reconnects when the connection seems to be up but no echo comes.

A subscription can get lost, or a path be cut in one direction, while the broker still answers
pings. Only the missing echoes show it.
"""

import asyncio
from typing import Final

import structlog

from broker_agent.services.wire import Station

# Factor of the pause between reconnects once the lease is lost: probably no master runs then.
SLOWER: Final = 6

log = structlog.get_logger(__name__)


class EchoWatch:
    """Watches for echoes. rebuilt: number of connections that were replaced."""

    name = "echo_watch"

    def __init__(self, station: Station) -> None:
        self._wire = station.wire
        self._lease = station.lease
        self._clock = station.clock
        self._since: float | None = None
        self.rebuilt = 0

    def on_connected(self) -> None:
        """Give a new connection its full patience, whatever the age of the lease."""
        self._since = self._clock.elapsed()

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        while True:
            pause_s = self.look()
            await asyncio.sleep(pause_s)

    def look(self) -> float:
        """Replace a connection without echoes; returns the seconds until the next look."""
        timers, now = self._lease.timers, self._clock.elapsed()
        age_s = self._lease.age_s(now)
        if age_s < timers.suspect_s:
            return max(0.05, timers.suspect_s - age_s)
        is_over = self._lease.renewed_at is None or age_s >= timers.patient_s + timers.ack_s
        patience_s = timers.ack_s * (SLOWER if is_over else 1)
        connected_s = patience_s if self._since is None else now - self._since
        if self._lease.hears_refused(now):
            return patience_s  # a stale master sends echoes: a new connection would not help
        if self._wire.is_connected and connected_s >= patience_s:
            self.rebuilt += 1
            log.warning("connection_deaf", silence_s=round(age_s, 1))
            self._since = now
            self._wire.rebuild("deaf: the master is not heard")
            return patience_s
        return max(0.05, patience_s - connected_s)
