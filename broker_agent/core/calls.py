"""State machine of one call through a worker process.

    event    WAITING                      CALLING                             ENDED
    sent     CALLING                                                          -
    stop     end                          CANCEL; TERM, KILL, GIVE_UP later   -
    limit    end: target_timeout          the same, with a short cancel       -
    answer                                end                                 -
    gone     end: why it did not start    end: worker_lost                    -

The first stop decides the state of the end, whatever the worker answers; of several stops the
shortest grace counts. Times are readings of the monotonic clock.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple

from broker_agent.core.program import GIVE_UP_S, Ending
from schemas.faults import Effect
from schemas.states import State

# Time for the driver to end a call that was cancelled, and one that took too long: a server that
# is gone takes none of it.
CANCEL_S: Final = 2.0
LATE_CANCEL_S: Final = 0.5


class Answer(NamedTuple):
    """The last word of a worker about a call. code: of its fault; empty: it succeeded."""

    result: bytes = b""
    code: str = ""
    message: str = ""
    effect: Effect = "unknown"


class CallPhase(StrEnum):
    WAITING = "waiting"
    CALLING = "calling"
    ENDED = "ended"


class Act(StrEnum):
    """CANCEL, TERM, KILL: interrupt the call; end the worker. END: the call has ended.

    TERM_AT, KILL_AT, GIVE_UP_AT: set the timer of that kind, in place of an earlier one.
    """

    CANCEL = "cancel"
    TERM = "term"
    KILL = "kill"
    TERM_AT = "term at"
    KILL_AT = "kill at"
    GIVE_UP_AT = "give up at"
    END = "end"


class CallEffect(NamedTuple):
    """at: time of a timer. ending: only with END."""

    act: Act
    at: float = 0.0
    ending: Ending | None = None


class CallState:
    """One call. usual_s: returns the default grace of a stop, in seconds.

    reads: it changes nothing.
    """

    def __init__(self, usual_s: Callable[[], float], *, reads: bool) -> None:
        self._usual_s = usual_s
        self._reads = reads
        self._stop: tuple[State, str, str] | None = None
        self._kill_at: float | None = None
        self.phase = CallPhase.WAITING

    @property
    def is_stopped(self) -> bool:
        return self._stop is not None

    def on_sent(self) -> None:
        self.phase = CallPhase.CALLING

    def on_stop(
        self, state: State, reason: str, grace_s: float | None, now: float
    ) -> list[CallEffect]:
        return self._on_stop((state, reason, ""), grace_s, CANCEL_S, now)

    def on_limit(self, timeout_s: float, now: float) -> list[CallEffect]:
        reason = f"no answer within timeout_s ({timeout_s:g})"
        stop = (State.TIMED_OUT, reason, "target_timeout")
        return self._on_stop(stop, None, LATE_CANCEL_S, now)

    def on_kill(self, now: float) -> list[CallEffect]:
        return self._on_stop((State.CANCELLED, "killed", ""), 0.0, 0.0, now)

    def on_answer(self, answer: Answer) -> list[CallEffect]:
        effect: Effect = "none" if self._reads else answer.effect
        if self._stop is not None:
            state, reason, code = self._stop
            return self._end(Ending(state, None, reason, effect=effect, code=code))
        if not answer.code:
            return self._end(Ending(State.SUCCEEDED, 0, "", answer.result, effect))
        state = State.TIMED_OUT if answer.code == "target_timeout" else State.FAILED
        return self._end(Ending(state, None, answer.message, answer.result, effect, answer.code))

    def on_gone(self, code: str, why: str) -> list[CallEffect]:
        """Handle the end of its worker, or a worker that did not start."""
        effect: Effect = "none" if self._reads or self.phase is CallPhase.WAITING else "unknown"
        return self.on_answer(Answer(code=code, message=why, effect=effect))

    def _on_stop(
        self, stop: tuple[State, str, str], grace_s: float | None, cancel_s: float, now: float
    ) -> list[CallEffect]:
        if self.phase is CallPhase.ENDED:
            return []
        is_first, self._stop = self._stop is None, self._stop or stop
        if self.phase is CallPhase.WAITING:
            return self.on_gone("", "")
        if grace_s is None and not is_first:
            return []
        grace_s = max(0.0, self._usual_s() if grace_s is None else grace_s)
        effects = [CallEffect(Act.CANCEL)] if is_first else []
        return [*effects, *self._hasten(now, grace_s, cancel_s)]

    def _hasten(self, now: float, grace_s: float, cancel_s: float) -> list[CallEffect]:
        kill_at = now + grace_s
        if self._kill_at is not None and self._kill_at <= kill_at:
            return []
        self._kill_at = kill_at
        if grace_s <= 0:
            return [CallEffect(Act.KILL), CallEffect(Act.GIVE_UP_AT, now + GIVE_UP_S)]
        return [
            CallEffect(Act.TERM_AT, now + min(cancel_s, grace_s / 2)),
            CallEffect(Act.KILL_AT, kill_at),
            CallEffect(Act.GIVE_UP_AT, kill_at + GIVE_UP_S),
        ]

    def _end(self, ending: Ending) -> list[CallEffect]:
        if self.phase is CallPhase.ENDED:
            return []
        self.phase = CallPhase.ENDED
        return [CallEffect(Act.END, ending=ending)]
