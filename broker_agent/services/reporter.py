"""Reports starts and ends of attempts to the master, with retries until they are stored."""

import asyncio
from collections.abc import Iterable
from typing import Final

import msgspec

from broker_agent.core.tasks import AttemptKey
from broker_agent.services.wire import Station
from schemas import codec, limits
from schemas.faults import Unreachable
from schemas.messages.work import AttemptReport

MESSAGE_BYTES: Final = 200 * 1024
# Limit of pending reports; above it the agent refuses new work (back-pressure).
BACKLOG_ITEMS: Final = 20_000
BACKLOG_BYTES: Final = 16 * 1024 * 1024
# Reports per burst of retries; the rest follows after PACE_S, so that heartbeats get through.
BURST_ITEMS: Final = 4 * limits.REPORT_ITEMS
PACE_S: Final = 0.1
_NEVER: Final = float("-inf")


class _Encoded(msgspec.Struct, frozen=True, kw_only=True):
    """A `Report` with encoded items: the journal and each transmission share the bytes."""

    incarnation: str
    items: list[msgspec.Raw]


class _Pending:
    __slots__ = ("is_end", "raw", "sent_at", "seq")

    def __init__(self, seq: int, raw: bytes, *, is_end: bool) -> None:
        self.seq = seq
        self.raw = raw
        self.is_end = is_end
        self.sent_at = _NEVER


class Reporter:
    """Pending reports, at most one per attempt: an end replaces a start.

    `_pending` is in the order of transmission, oldest first.
    """

    name = "reporter"

    def __init__(self, station: Station) -> None:
        self._wire = station.wire
        self._address = station.address
        self._lease = station.lease
        self._clock = station.clock
        self._pending: dict[AttemptKey, _Pending] = {}
        self._fresh: list[AttemptKey] = []
        self._wake = asyncio.Event()
        self.pending_bytes = 0
        self.sent = 0
        self.resent = 0

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def is_backlogged(self) -> bool:
        return len(self._pending) >= BACKLOG_ITEMS or self.pending_bytes >= BACKLOG_BYTES

    def add(self, report: AttemptReport, raw: bytes | None = None) -> None:
        """Send it together with the others of this turn of the loop. raw: its encoded form."""
        raw = codec.encode(report) if raw is None else raw
        self.add_encoded((report.command, report.attempt), report.seq, raw, report.kind == "ended")

    def add_encoded(self, key: AttemptKey, seq: int, raw: bytes, is_end: bool) -> None:  # noqa: FBT001
        old = self._pending.pop(key, None)
        if old is not None:
            self.pending_bytes -= len(old.raw)
        self._pending[key] = _Pending(seq, raw, is_end=is_end)
        self.pending_bytes += len(raw)
        if not self._fresh:
            asyncio.get_running_loop().call_soon(self._flush)
        self._fresh.append(key)

    def release(self, key: AttemptKey, seq: int | None) -> bool:
        """Remove a report that the master has stored. True if it was the end, and the newest.

        seq: number of the report; None (a handshake's verdict): any.
        """
        found = self._pending.get(key)
        if found is None or (seq is not None and found.seq != seq):
            return False
        del self._pending[key]
        self.pending_bytes -= len(found.raw)
        return found.is_end

    def send_again(self, key: AttemptKey) -> None:
        """Send one report again, by request of the master."""
        found = self._pending.pop(key, None)
        if found is not None:
            found.sent_at = _NEVER
            self._pending = {key: found, **self._pending}
            self._wake.set()

    def send_all_again(self) -> None:
        """Send all reports again after a handshake, since earlier ones may be lost."""
        for pending in self._pending.values():
            pending.sent_at = _NEVER
        self._wake.set()

    def say_last(self) -> None:
        """Send all pending reports at the end of the session, even without a handshake."""
        if self._wire.is_connected:
            self._send(list(self._pending))

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                self._send_due()
                await self._pause()

    async def _pause(self) -> None:
        """Wait until the oldest report is due, or a caller wakes this loop."""
        due_s = PACE_S
        if not self._can_send:
            due_s = self._lease.timers.ack_s
        elif self._pending:
            oldest = next(iter(self._pending.values())).sent_at
            due_s = max(PACE_S, oldest + self._lease.timers.ack_s - self._clock.elapsed())
        try:
            async with asyncio.timeout(due_s):
                await self._wake.wait()
                self._wake.clear()
        except TimeoutError:
            return

    @property
    def _can_send(self) -> bool:
        return self._wire.is_connected and self._lease.reconciled

    def _flush(self) -> None:
        """Send new reports without waiting; reports that cannot go now are left to `_send_due`."""
        keys, self._fresh = self._fresh, []
        if self._can_send:
            self._send(key for key in keys if key in self._pending)
        self._wake.set()

    def _send_due(self) -> None:
        if not self._can_send:
            return
        before = self._clock.elapsed() - self._lease.timers.ack_s
        due: list[AttemptKey] = []
        for key, pending in self._pending.items():
            if pending.sent_at > before or len(due) >= BURST_ITEMS:
                break
            due.append(key)
        self.resent += len(due)
        self._send(due)

    def _send(self, keys: Iterable[AttemptKey]) -> None:
        now = self._clock.elapsed()
        items: list[msgspec.Raw] = []
        size = 0
        try:
            for key in keys:
                pending = self._pending.pop(key)
                self._pending[key] = pending  # at the end, in the order of transmission
                raw = pending.raw
                if items and (size + len(raw) > MESSAGE_BYTES or len(items) >= limits.REPORT_ITEMS):
                    self._publish(items)
                    items, size = [], 0
                pending.sent_at = now
                items.append(msgspec.Raw(raw))
                size += len(raw)
            if items:
                self._publish(items)
        except Unreachable:
            return  # disconnected: all reports are due after the next handshake

    def _publish(self, items: list[msgspec.Raw]) -> None:
        report = _Encoded(incarnation=self._lease.incarnation, items=items)
        self._wire.publish_nowait(self._address.report, codec.encode(report))
        self.sent += len(items)
