"""The lease: permission to run tasks, renewed by echoes, counted from the echoed heartbeat's send.

LINKED ─▶ SUSPECT ─▶ FENCING ─▶ FENCED       silence of the master
   ▲         │           │         │
   └─────────┴───────────┴─────────┘         an echo; new work only after a handshake

The master counts from the receipt of the same heartbeat, which is later. So the agent's deadline
always comes first, however slow the link is.

A task with a longer `kill_after_s` has a later deadline: it may go on while the lease is FENCED.
"""

from collections import OrderedDict
from enum import StrEnum
from typing import Final

from schemas.messages.liveness import Echo
from schemas.timers import Timers

# Heartbeats remembered with their send time. An echo or a request that names an older one is stale.
BEATS_KEPT: Final = 4096


class LeasePhase(StrEnum):
    LINKED = "linked"
    SUSPECT = "suspect"
    FENCING = "fencing"
    FENCED = "fenced"


class EchoEffect(StrEnum):
    """Effect of an echo on the lease."""

    RENEWED = "renewed"
    STALE_EPOCH = "stale_epoch"
    OTHER_INCARNATION = "other_incarnation"
    UNKNOWN_BEAT = "unknown_beat"


class Lease:
    """The lease of one incarnation. Times are readings of the monotonic clock (`Clock.elapsed`)."""

    def __init__(self, incarnation: str, timers: Timers, *, now: float, epoch: int = 0) -> None:
        self.incarnation = incarnation
        self.timers = timers
        self.epoch = epoch
        self.reconciled = False
        # Epoch of a stale master, refused since a newer one was obeyed; time of its last echo.
        self.refused_epoch = 0
        self.refused_at: float | None = None
        self.phase = LeasePhase.FENCED
        self.seq = 0
        self.rtt_s = 0.0
        self._began_at = now
        self._sent: OrderedDict[int, float] = OrderedDict({0: now})
        self._renewed_seq = 0
        self._renewed_at: float | None = None
        self._done_seq: int | None = None

    @property
    def renewed_at(self) -> float | None:
        """Send time of the newest echoed heartbeat; None before the first echo."""
        return self._renewed_at

    @property
    def is_linked(self) -> bool:
        """Whether new work may be taken."""
        return self.phase is LeasePhase.LINKED and self.reconciled

    def beat(self, now: float) -> int:
        """Number the heartbeat that is sent now. The first one of an incarnation is 1."""
        self.seq += 1
        self._sent[self.seq] = now
        while len(self._sent) > BEATS_KEPT:
            self._sent.popitem(last=False)
        return self.seq

    def sent_at(self, seq: int) -> float | None:
        """Send time of heartbeat `seq`; 0: the start of this incarnation; None: not remembered."""
        return self._sent.get(seq)

    def age_s(self, now: float) -> float:
        """Seconds since the newest echoed heartbeat was sent, or since the start before an echo."""
        start = self._began_at if self._renewed_at is None else self._renewed_at
        return max(0.0, now - start)

    def fence_at(self, kill_after_s: float = 0.0) -> float | None:
        """Time at which a task must be ended unless an echo comes; None without a lease.

        kill_after_s: seconds of silence that the task may outlive, if longer than the default.
        """
        if self._renewed_at is None:
            return None
        return self._renewed_at + self.timers.fence_after_s(kill_after_s)

    def has_run_out(self, kill_after_s: float, now: float) -> bool:
        """Whether the deadline of a task with this `kill_after_s` has passed."""
        fence_at = self.fence_at(kill_after_s)
        return fence_at is not None and now >= fence_at

    def next_change_at(self) -> float | None:
        """Time of the next change by `on_tick` unless an echo comes."""
        if self._renewed_at is None or self.phase in {LeasePhase.FENCING, LeasePhase.FENCED}:
            return None
        if self.phase is LeasePhase.LINKED:
            return self._renewed_at + self.timers.suspect_s
        return self.fence_at()

    def on_echo(self, echo: Echo, now: float) -> EchoEffect:
        """Renew the lease, after the changes that are already due: an echo undoes no fencing."""
        self.on_tick(now)
        if echo.epoch < self.epoch:
            self.refused_epoch, self.refused_at = echo.epoch, now
            return EchoEffect.STALE_EPOCH
        if echo.incarnation != self.incarnation:
            return EchoEffect.OTHER_INCARNATION
        sent_at = self._sent.get(echo.seq)
        if sent_at is None or echo.seq == 0:
            return EchoEffect.UNKNOWN_BEAT
        self._meet(echo)
        if echo.seq > self._renewed_seq:
            self._renewed_seq, self._renewed_at = echo.seq, sent_at
            self.rtt_s = now - sent_at
            self.refused_epoch, self.refused_at = 0, None
        self._link(now)
        return EchoEffect.RENEWED

    def _meet(self, echo: Echo) -> None:
        if echo.epoch > self.epoch:
            self.epoch = echo.epoch
            self.reconciled = False
        # An echo that was sent before the handshake ended does not deny its end.
        elif not echo.reconciled and (self._done_seq is None or echo.seq >= self._done_seq):
            self.reconciled = False

    def _link(self, now: float) -> None:
        if self.phase is not LeasePhase.FENCING and self.age_s(now) < self.timers.suspect_s:
            self.phase = LeasePhase.LINKED

    def hears_refused(self, now: float) -> bool:
        """Whether a stale master is sending: the connection works, its echoes are refused."""
        return self.refused_at is not None and now - self.refused_at < self.timers.suspect_s

    def on_welcome(self, epoch: int, timers: Timers) -> bool:
        """Take over epoch and timers of a welcome; False if a newer master was obeyed."""
        if epoch < self.epoch:
            return False
        self.epoch = epoch
        self.timers = timers
        return True

    def on_done(self) -> None:
        """End the handshake: heartbeats from the next one on count as reconciled."""
        self.reconciled = True
        self._done_seq = self.seq + 1

    def on_disconnected(self) -> None:
        """Require a new handshake; the lease itself runs on."""
        self.reconciled = False

    def on_tick(self, now: float) -> LeasePhase:
        """Apply the changes due at `now`. FENCING: each task whose deadline has passed must end."""
        if self._renewed_at is None:
            return self.phase
        age = self.age_s(now)
        if self.phase is LeasePhase.LINKED and age >= self.timers.suspect_s:
            self.phase = LeasePhase.SUSPECT
            self.reconciled = False
        if self.phase is LeasePhase.SUSPECT and age >= self.timers.unrecoverable_s:
            self.phase = LeasePhase.FENCING
            # A handshake during the expiry is void as well: its tasks are ended.
            self.reconciled = False
        return self.phase

    def on_fenced(self) -> None:
        """Enter FENCED once all tasks that had to end are gone: the next echo may link again."""
        if self.phase is LeasePhase.FENCING:
            self.phase = LeasePhase.FENCED
