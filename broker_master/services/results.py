"""Publishes results to clients when they are durable, and again after a lost link.

A message written shortly before the loss of the link may have reached no client, and a client that
stayed connected has no reason to ask for it.
"""

from collections import deque
from typing import Final, NamedTuple

import structlog

from broker_client.runtime.clock import Clock
from broker_client.runtime.link import Link
from schemas.faults import MeshError

# Longest time from a write that the broker does not read to the loss of the link: seven messages of
# the link to itself, two seconds apart, and a margin.
KEPT_S: Final = 20.0
KEPT_MAX: Final = 10_000
KEPT_BYTES: Final = 8 * 1024 * 1024

log = structlog.get_logger()


class _Sent(NamedTuple):
    at_s: float
    subject: str
    payload: bytes


class ResultPublisher:
    """Publishes results, and keeps the newest for as long as the link may still lose them."""

    def __init__(self, link: Link, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._kept: deque[_Sent] = deque()
        self._kept_bytes = 0
        self._lost_s = 0.0

    def publish(self, subject: str, payload: bytes) -> None:
        """Publish a result; kept for a repetition also where this raises Unreachable."""
        try:
            self._link.publish_nowait(subject, payload)
        except MeshError as error:
            if error.code == "broker_unreachable":
                self._keep(subject, payload)
            raise
        self._keep(subject, payload)

    def _keep(self, subject: str, payload: bytes) -> None:
        now_s, kept = self._clock.elapsed(), self._kept
        kept.append(_Sent(now_s, subject, payload))
        self._kept_bytes += len(payload)
        while (
            kept[0].at_s < now_s - KEPT_S
            or len(kept) > KEPT_MAX
            or (self._kept_bytes > KEPT_BYTES and len(kept) > 1)
        ):
            self._kept_bytes -= len(kept.popleft().payload)

    def on_disconnected(self) -> None:
        self._lost_s = self._clock.elapsed()

    def on_connected(self) -> None:
        """Publish again what may have been lost with the link; clients ignore a repetition."""
        # The new connection may be lost as well: their time begins again.
        since_s, now_s = self._lost_s - KEPT_S, self._clock.elapsed()
        again = [each._replace(at_s=now_s) for each in self._kept if each.at_s >= since_s]
        self._kept = deque(again)
        self._kept_bytes = sum(len(each.payload) for each in again)
        try:
            for each in again:
                self._link.publish_nowait(each.subject, each.payload)
        except MeshError as error:
            # The link is lost again, and its next connection repeats them.
            log.warning("results_not_repeated", error=str(error))
            return
        if again:
            log.info("results_repeated", count=len(again))
