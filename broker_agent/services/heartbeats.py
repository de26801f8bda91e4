"""The agent's heartbeat: once per period with jitter, and at once after a reconnect."""

import asyncio
from collections.abc import Callable
from typing import Final

from broker_agent.services.reporter import Reporter
from broker_agent.services.resources import ResourceMonitor
from broker_agent.services.running import Running
from broker_agent.services.shipper import Shipper
from broker_agent.services.wire import Station
from schemas import codec, limits
from schemas.faults import Unreachable
from schemas.messages.liveness import Beat
from schemas.states import Lack

JITTER: Final = 0.1


class Heartbeats:
    """Sends heartbeats. A heartbeat that cannot be sent now is dropped, never sent late.

    renewal: returns the reason why the certificate could not be renewed, or an empty text.
    profiles: returns the digest of the profiles of this host.
    """

    name = "heartbeats"

    def __init__(
        self,
        station: Station,
        *,
        running: Running,
        reporter: Reporter,
        shipper: Shipper,
        chance: Callable[[], float],
        room: ResourceMonitor,
        renewal: Callable[[], str],
        profiles: Callable[[], str],
    ) -> None:
        self._renewal = renewal
        self._profiles = profiles
        self._wire = station.wire
        self._address = station.address
        self._lease = station.lease
        self._clock = station.clock
        self._book = station.book
        self._running = running
        self._reporter = reporter
        self._shipper = shipper
        self._room = room
        self._chance = chance
        self._wake = asyncio.Event()
        self._began_at = station.clock.elapsed()
        station.fitness.listen(self.send)

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        while True:
            self.send()
            period_s = self._lease.timers.beat_s * (1 - JITTER + 2 * JITTER * self._chance())
            try:
                async with asyncio.timeout(period_s):
                    await self._wake.wait()
            except TimeoutError:
                continue
            self._wake.clear()

    def _lacks(self) -> dict[str, str]:
        found = dict(self._room.lacks)
        if self._reporter.is_backlogged:
            found[Lack.REPORTS] = f"{len(self._reporter)} reports wait for the master"
        return {str(lack): text[: limits.LABEL_LEN] for lack, text in found.items()}

    def send_soon(self) -> None:
        """Begin a new period with a heartbeat, since the master may have changed its length."""
        self._wake.set()

    def send(self, *, goodbye: bool = False) -> bool:
        """Send a heartbeat now; False without a connection."""
        if not self._wire.is_connected:
            return False
        now, lacks = self._clock.elapsed(), self._lacks()
        beat = Beat(
            incarnation=self._lease.incarnation,
            seq=self._lease.beat(now),
            epoch=self._lease.epoch,
            lease_age_s=self._lease.age_s(now),
            rtt_s=self._lease.rtt_s,
            uptime_s=now - self._began_at,
            running=self._book.running,
            slots=self._book.slots,
            spool_bytes=self._reporter.pending_bytes + self._shipper.waiting_bytes,
            draining=self._running.is_draining,
            full=self._book.is_full or bool(lacks),
            goodbye=goodbye,
            empty=goodbye and not len(self._book),
            at=self._clock.now(),
            renewal=self._renewal(),
            lacks=lacks,
            profiles=self._profiles(),
        )
        try:
            self._wire.publish_nowait(self._address.beat, codec.encode(beat))
        except Unreachable:
            return False
        return True
