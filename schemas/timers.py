"""The timers of the mesh; the master announces them to agents in the handshake."""

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.faults import Refused
from schemas.spans import DAY_S

Seconds = Annotated[float, Meta(gt=0, le=30 * DAY_S)]


class Timers(msgspec.Struct, frozen=True, kw_only=True):
    """All in seconds but `resends` and `strict`.

    beat_s: period of heartbeats, both ways. suspect_s: silence after which the other side is
    suspect. ack_s: timeout of an acknowledgement. resends: number of redeliveries of a request.
    grace_s: between TERM and KILL. lost_s: silence after which the master gives tasks up.
    start_before_s: greatest age of a run request; the agent refuses older ones. queue_ttl_s:
    longest wait of a command for an agent. adopt_s: time after the master's start in which it
    declares no agent silent. handshake_s: timeout of one step of the handshake. stop_s: longest
    stop of a process. continue_s: longest run of a task without its master. decide_s: longest wait
    of a lost attempt for an operator's decision. probe_s: an agent without work for so long gets a
    `noop` as a probe. strict: tasks end as soon as the master is suspect, without redeliveries.
    """

    beat_s: Seconds = 5.0
    suspect_s: Seconds = 10.0
    ack_s: Seconds = 5.0
    resends: Annotated[int, Meta(ge=0, le=20)] = 5
    grace_s: Seconds = 10.0
    lost_s: Seconds = 50.0
    start_before_s: Seconds = 60.0
    continue_s: Seconds = 7 * DAY_S
    decide_s: Seconds = 7 * DAY_S
    queue_ttl_s: Seconds = 900.0
    adopt_s: Seconds = 50.0
    handshake_s: Seconds = 5.0
    stop_s: Seconds = 30.0
    probe_s: Seconds = 60.0
    strict: bool = False

    @property
    def unrecoverable_s(self) -> float:
        """Silence of the master, in seconds, after which an agent ends its tasks."""
        return self.suspect_s if self.strict else self.patient_s

    @property
    def patient_s(self) -> float:
        """As `unrecoverable_s`, without `strict`: after all redeliveries."""
        return self.suspect_s + self.resends * self.ack_s

    def fence_after_s(self, kill_after_s: float) -> float:
        """As `unrecoverable_s`, for a task with a `kill_after_s` of its own."""
        return max(self.unrecoverable_s, kill_after_s)

    def lost_after_s(self, kill_after_s: float) -> float:
        """Silence of an agent, in seconds, after which the master gives such a task up."""
        return max(self.lost_s, kill_after_s + self.grace_s + self.beat_s)


def check_timers(timers: Timers) -> Timers:
    """Return `timers`, or raise Refused (`settings_invalid`) if a task could run twice.

    An agent must have ended its tasks before the master declares them lost; the margin of one
    beat covers the drift of their clocks.
    """
    needed = timers.patient_s + timers.grace_s + timers.beat_s
    # Negated, so that NaN is refused as well.
    if not timers.lost_s >= needed:
        raise Refused(
            "settings_invalid",
            f"timers.lost_s is {timers.lost_s:g}, but suspect_s + resends x ack_s + grace_s"
            f" + beat_s is {needed:g}: an agent could still run what the master has given up",
        )
    if not timers.suspect_s >= 2 * timers.beat_s:
        raise Refused(
            "settings_invalid",
            f"timers.suspect_s is {timers.suspect_s:g}, which must be at least twice"
            f" beat_s ({timers.beat_s:g})",
        )
    return timers
