"""The permission to run tasks: renewed by echoes, counted from when the echoed beat was sent.

LINKED ─▶ SUSPECT ─▶ FENCING ─▶ FENCED       silence of the master
   ▲         │           │         │
   └─────────┴───────────┴─────────┘         an echo; work flows again only after a handshake

The master counts from when it received that beat, which is later. So the agent's deadline always
comes first, however slow the link is.

A task may have leave to outlive the master's silence for longer: it has a deadline of its own and
goes on while the lease is FENCED, which is said of all others.
"""

from collections import OrderedDict
from enum import StrEnum
from typing import Final

from schemas.messages.liveness import Echo
from schemas.timers import Timers

# Beats remembered with their send time. An echo or a run request that names an older one is stale.
BEATS_KEPT: Final = 4096


class Phase(StrEnum):
    LINKED = "linked"
    SUSPECT = "suspect"
    FENCING = "fencing"
    FENCED = "fenced"


class Heard(StrEnum):
    """What an echo was worth."""

    RENEWED = "renewed"
    STALE_EPOCH = "stale_epoch"
    OTHER_INCARNATION = "other_incarnation"
    UNKNOWN_BEAT = "unknown_beat"


class Lease:
    """All times are readings of one clock that goes on while the host is suspended."""

    def __init__(self, incarnation: str, timers: Timers, *, now: float, epoch: int = 0) -> None:
        self.incarnation = incarnation
        self.timers = timers
        self.epoch = epoch
        self.reconciled = False
        # Of a master that is refused because a newer one was obeyed, and when it was heard last.
        self.refused_epoch = 0
        self.refused_at: float | None = None
        self.phase = Phase.FENCED
        self.seq = 0
        self.rtt_s = 0.0
        self._began_at = now
        self._sent: OrderedDict[int, float] = OrderedDict({0: now})
        self._renewed_seq = 0
        self._renewed_at: float | None = None
        self._done_seq: int | None = None

    @property
    def renewed_at(self) -> float | None:
        """When the newest echoed beat was sent; None if none ever was."""
        return self._renewed_at

    @property
    def is_linked(self) -> bool:
        """Whether new work may be taken."""
        return self.phase is Phase.LINKED and self.reconciled

    def beat(self, now: float) -> int:
        """Number the beat that is sent now. The first one of an incarnation is 1."""
        self.seq += 1
        self._sent[self.seq] = now
        while len(self._sent) > BEATS_KEPT:
            self._sent.popitem(last=False)
        return self.seq

    def sent_at(self, seq: int) -> float | None:
        """When beat `seq` was sent; 0 stands for the start of this incarnation."""
        return self._sent.get(seq)

    def age_s(self, now: float) -> float:
        """How long ago the newest echoed beat was sent; since the start if none ever was."""
        start = self._began_at if self._renewed_at is None else self._renewed_at
        return max(0.0, now - start)

    def fence_at(self, kill_after_s: float = 0.0) -> float | None:
        """When a task must be ended unless an echo comes; None without a lease.

        kill_after_s: the silence that this task may outlive, if that is longer than the usual.
        """
        if self._renewed_at is None:
            return None
        return self._renewed_at + self.timers.fence_after_s(kill_after_s)

    def has_run_out(self, kill_after_s: float, now: float) -> bool:
        """Whether a task with this leave must not run any more."""
        fence_at = self.fence_at(kill_after_s)
        return fence_at is not None and now >= fence_at

    def next_change_at(self) -> float | None:
        """When `on_tick` would next do something, without any further echo."""
        if self._renewed_at is None or self.phase in {Phase.FENCING, Phase.FENCED}:
            return None
        if self.phase is Phase.LINKED:
            return self._renewed_at + self.timers.suspect_s
        return self.fence_at()

    def on_echo(self, echo: Echo, now: float) -> Heard:
        """Renew the lease. What has run out meanwhile runs out first: an echo undoes no fencing."""
        self.on_tick(now)
        if echo.epoch < self.epoch:
            self.refused_epoch, self.refused_at = echo.epoch, now
            return Heard.STALE_EPOCH
        if echo.incarnation != self.incarnation:
            return Heard.OTHER_INCARNATION
        sent_at = self._sent.get(echo.seq)
        if sent_at is None or echo.seq == 0:
            return Heard.UNKNOWN_BEAT
        self._meet(echo)
        if echo.seq > self._renewed_seq:
            self._renewed_seq, self._renewed_at = echo.seq, sent_at
            self.rtt_s = now - sent_at
            self.refused_epoch, self.refused_at = 0, None
        self._link(now)
        return Heard.RENEWED

    def _meet(self, echo: Echo) -> None:
        if echo.epoch > self.epoch:
            self.epoch = echo.epoch
            self.reconciled = False
        # An echo that was under way while the handshake ended says nothing about its end.
        elif not echo.reconciled and (self._done_seq is None or echo.seq >= self._done_seq):
            self.reconciled = False

    def _link(self, now: float) -> None:
        if self.phase is not Phase.FENCING and self.age_s(now) < self.timers.suspect_s:
            self.phase = Phase.LINKED

    def hears_refused(self, now: float) -> bool:
        """Whether a master speaks that is refused: the connection is whole, the master is old."""
        return self.refused_at is not None and now - self.refused_at < self.timers.suspect_s

    def on_welcome(self, epoch: int, timers: Timers) -> bool:
        """Take over what the master announces; False if that master has been replaced."""
        if epoch < self.epoch:
            return False
        self.epoch = epoch
        self.timers = timers
        return True

    def on_done(self) -> None:
        """The handshake has ended: the beats from the next one on are judged by its result."""
        self.reconciled = True
        self._done_seq = self.seq + 1

    def on_disconnected(self) -> None:
        """What was agreed holds no longer; the lease itself runs on."""
        self.reconciled = False

    def on_tick(self, now: float) -> Phase:
        """Let time pass. FENCING: every task without a longer leave must be ended, now."""
        if self._renewed_at is None:
            return self.phase
        age = self.age_s(now)
        if self.phase is Phase.LINKED and age >= self.timers.suspect_s:
            self.phase = Phase.SUSPECT
            self.reconciled = False
        if self.phase is Phase.SUSPECT and age >= self.timers.unrecoverable_s:
            self.phase = Phase.FENCING
            # Also what was agreed on while the lease was running out: those tasks are ended.
            self.reconciled = False
        return self.phase

    def on_fenced(self) -> None:
        """None is left of the tasks that had to end: the next echo may link again."""
        if self.phase is Phase.FENCING:
            self.phase = Phase.FENCED
