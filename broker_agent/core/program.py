"""One program from its start to its end: what each event leads to.

    event       STARTING           RUNNING                 LOOKING                     ENDED
    started     RUNNING (limit)                                                        bury it
    unstarted   ENDED
    stop        note, ABANDON      TERM, KILL after grace  TERM, KILL after grace      -
    kill        note, ABANDON      KILL                    KILL                        -
    kill due                       KILL                    KILL                        -
    abandoned   ENDED
    exited                         LOOKING                                             -
    looked                                                 ENDED if nothing is found,  -
                                                           else TERM once, look again

It has ended when nothing of it is left. Who finds that out, and sends the signals, is the executor:
it performs what each event returns, in this order. Moments are readings of the monotonic clock.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple

from schemas.states import State

# How often a group that outlived its first process is looked at while it is being ended.
POLL_S: Final = 0.02
POLL_MAX_S: Final = 0.25
# A killed process that the kernel does not let go of (a dead network disk) holds nobody up.
GIVE_UP_S: Final = 5.0


class Ending(NamedTuple):
    """How a task ended. exit_code None: it never came to run."""

    state: State
    exit_code: int | None
    reason: str


class Phase(StrEnum):
    """LOOKING: its first process has ended, and what that left behind is looked for."""

    STARTING = "starting"
    RUNNING = "running"
    LOOKING = "looking"
    ENDED = "ended"


class Do(StrEnum):
    """TERM, KILL: send the signal to all of it. LOOK: look for what is left of it now.

    The others set a timer in place of the one of the same kind: KILL_AT, ABANDON_AT, LOOK_AT,
    LIMIT_AT. STOP_LIMIT takes that away. END: take all away, it has ended.
    """

    TERM = "term"
    KILL = "kill"
    LOOK = "look"
    KILL_AT = "kill at"
    ABANDON_AT = "abandon at"
    LOOK_AT = "look at"
    LIMIT_AT = "limit at"
    STOP_LIMIT = "stop limit"
    END = "end"


class Effect(NamedTuple):
    """at: when, for those that set a timer. ending: of END."""

    do: Do
    at: float = 0.0
    ending: Ending | None = None


class Program:
    """usual_s: the grace of a stop that names none, asked each time.

    timeout_s: how long it may run; None for as long as it likes.
    """

    def __init__(self, usual_s: Callable[[], float], timeout_s: float | None) -> None:
        self._usual_s = usual_s
        self._timeout_s = timeout_s
        self.phase = Phase.STARTING
        self._stop: tuple[State, str] | None = None
        self._exit_code = 0
        self._signal = ""
        # When it will be killed: set by the first stop, and only ever moved nearer.
        self._kill_at: float | None = None
        self._killed_at: float | None = None
        self._has_lingered = False
        self._poll_s = POLL_S

    @property
    def is_wanted(self) -> bool:
        """Whether nobody has asked it to stop."""
        return self._stop is None

    # Its start.

    def on_started(self, now: float) -> list[Effect]:
        self.phase = Phase.RUNNING
        limit = [] if self._timeout_s is None else [Effect(Do.LIMIT_AT, now + self._timeout_s)]
        if self._stop is None:
            return limit
        kill_at, self._kill_at = self._kill_at, None
        return [*limit, *self._terminate(now, None if kill_at is None else kill_at - now)]

    def on_unstarted(self, exit_code: int | None, message: str) -> list[Effect]:
        """It never came to run; exit_code: what a shell would give, if there is one."""
        if self._stop is not None:
            return self._end(Ending(self._stop[0], None, self._stop[1]))
        return self._end(Ending(State.FAILED, exit_code, message))

    def on_abandoned(self) -> list[Effect]:
        """Its start has taken longer than a stop may wait for it."""
        return self.on_unstarted(None, "its start hangs") if self.phase is Phase.STARTING else []

    # Stops.

    def on_limit(self, now: float) -> list[Effect]:
        reason = f"ran longer than timeout_s ({self._timeout_s:g})"
        return self.on_stop(State.TIMED_OUT, reason, None, now)

    def on_stop(self, state: State, reason: str, grace_s: float | None, now: float) -> list[Effect]:
        """The first call says why it ends; later ones can only leave it less time."""
        if self.phase is Phase.ENDED:
            return []
        is_first, self._stop = self._stop is None, self._stop or (state, reason)
        if self.phase is Phase.STARTING:
            return self._await_start(now + (self._usual_s() if grace_s is None else grace_s))
        if is_first:
            return self._terminate(now, grace_s)
        return [] if grace_s is None else self._hasten(now + max(0.0, grace_s))

    def on_kill(self, now: float) -> list[Effect]:
        if self.phase is Phase.ENDED:
            return []
        self._stop = self._stop or (State.CANCELLED, "killed")
        return self._await_start(now) if self.phase is Phase.STARTING else self.on_kill_due(now)

    def on_kill_due(self, now: float) -> list[Effect]:
        if self._killed_at is None:
            self._killed_at = now
            if self.phase is Phase.LOOKING:
                return [Effect(Do.KILL), Effect(Do.LOOK_AT, now + POLL_S)]
        return [Effect(Do.KILL)]

    def _await_start(self, kill_at: float) -> list[Effect]:
        """Its time runs from the order on, however long the start takes; the shortest counts.

        A start that hangs for longer, as on a disk that does not answer, holds nobody up.
        """
        if self._kill_at is not None and self._kill_at <= kill_at:
            return []
        self._kill_at = kill_at
        return [Effect(Do.ABANDON_AT, kill_at + GIVE_UP_S)]

    def _terminate(self, now: float, grace_s: float | None) -> list[Effect]:
        """TERM for all of it now, KILL for what is left of it after the grace.

        What has no grace left, as on a host that has slept past the deadline, is not asked at all.
        """
        if grace_s is not None and grace_s <= 0:
            return self.on_kill_due(now)
        if grace_s is None and self._kill_at is None:
            grace_s = self._usual_s()
        return [Effect(Do.TERM), *([] if grace_s is None else self._hasten(now + grace_s))]

    def _hasten(self, kill_at: float) -> list[Effect]:
        if self._kill_at is not None and self._kill_at <= kill_at:
            return []
        self._kill_at = kill_at
        return [Effect(Do.KILL_AT, kill_at)]

    # Its end.

    def on_exited(self, exit_code: int, signal_name: str = "") -> list[Effect]:
        """Its first process has ended; signal_name: of the signal that ended it."""
        self.phase = Phase.LOOKING
        self._exit_code, self._signal = exit_code, signal_name
        return [Effect(Do.STOP_LIMIT), Effect(Do.LOOK)]

    def trusts_small_look(self, *, lives: bool) -> bool:
        """Whether one small look is enough to call it ended. lives: its process group does."""
        return not lives and self._stop is None

    def gives_up(self, now: float) -> bool:
        """Whether it was killed so long ago that nothing can be waited for any more."""
        return self._killed_at is not None and now - self._killed_at > GIVE_UP_S

    def kills_on_sight(self, *, lives: bool) -> bool:
        """Whether what is found has left the group of a task that was stopped: it has no grace."""
        return not lives and self._stop is not None

    def on_looked(self, *, found: bool, now: float) -> list[Effect]:
        """End only when nothing is left: a program's children must not outlive its report."""
        if not found:
            return self._end(self._ending())
        is_first, self._has_lingered = not self._has_lingered, True
        effects = self._terminate(now, None) if is_first and self._stop is None else []
        effects.append(Effect(Do.LOOK_AT, now + self._poll_s))
        # A look costs milliseconds, and a program may use all of its grace.
        is_killed = self._killed_at is not None
        self._poll_s = POLL_S if is_killed else min(POLL_MAX_S, 2 * self._poll_s)
        return effects

    def _ending(self) -> Ending:
        code = self._exit_code
        if self._stop is not None:
            return Ending(self._stop[0], code, self._stop[1])
        if self._signal:
            return Ending(State.FAILED, code, f"ended by signal {self._signal}")
        return Ending(State.SUCCEEDED if code == 0 else State.FAILED, code, "")

    def _end(self, ending: Ending) -> list[Effect]:
        self.phase = Phase.ENDED
        return [Effect(Do.END, ending=ending)]
