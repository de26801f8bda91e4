"""State machine of one program, from its start to its end.

    event       STARTING           RUNNING                 LOOKING                     ENDED
    started     RUNNING (limit)                                                        kill, reap
    unstarted   ENDED
    stop        note, ABANDON      TERM, KILL after grace  TERM, KILL after grace      -
    kill        note, ABANDON      KILL                    KILL                        -
    kill due                       KILL                    KILL                        -
    abandoned   ENDED
    exited                         LOOKING                                             -
    looked                                                 ENDED if nothing is found,  -
                                                           else TERM once, look again

A program has ended when none of its processes is left. The executor looks for them, sends the
signals, and performs the effects of each event in order. Times are readings of the monotonic clock.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Final, Literal, NamedTuple

from schemas.faults import Effect
from schemas.states import State

# Interval of looks at a process group that outlived its first process.
POLL_S: Final = 0.02
POLL_MAX_S: Final = 0.25
# Longest wait for a killed process that the kernel does not end (a dead network disk).
GIVE_UP_S: Final = 5.0


class Ending(NamedTuple):
    """End of a task. exit_code: None if its program never ran.

    result: of a call through a connection, a msgpack map. effect: of the call on the system; empty
    for other work. code: of the fault that ended it, or empty.
    """

    state: State
    exit_code: int | None
    reason: str
    result: bytes = b""
    effect: Effect | Literal[""] = ""
    code: str = ""


class ProgramPhase(StrEnum):
    """LOOKING: the first process has ended, the executor looks for its descendants."""

    STARTING = "starting"
    RUNNING = "running"
    LOOKING = "looking"
    ENDED = "ended"


class Do(StrEnum):
    """TERM, KILL: send the signal to all its processes. LOOK: look for the processes left now.

    KILL_AT, ABANDON_AT, LOOK_AT, LIMIT_AT: set the timer of that kind, in place of an earlier one.
    STOP_LIMIT: cancel the timer of LIMIT_AT. END: the program has ended, remove all timers.
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


class ProgramEffect(NamedTuple):
    """at: time of a timer. ending: only with END."""

    do: Do
    at: float = 0.0
    ending: Ending | None = None


class Program:
    """usual_s: returns the default grace of a stop, in seconds.

    timeout_s: longest run time in seconds; None: no limit.
    """

    def __init__(self, usual_s: Callable[[], float], timeout_s: float | None) -> None:
        self._usual_s = usual_s
        self._timeout_s = timeout_s
        self.phase = ProgramPhase.STARTING
        self._stop: tuple[State, str] | None = None
        self._exit_code = 0
        self._signal = ""
        # Time of the KILL: set by the first stop, later stops can only make it earlier.
        self._kill_at: float | None = None
        self._killed_at: float | None = None
        self._has_lingered = False
        self._poll_s = POLL_S

    @property
    def is_wanted(self) -> bool:
        """Whether no stop was requested."""
        return self._stop is None

    # Its start.

    def on_started(self, now: float) -> list[ProgramEffect]:
        self.phase = ProgramPhase.RUNNING
        limit = (
            [] if self._timeout_s is None else [ProgramEffect(Do.LIMIT_AT, now + self._timeout_s)]
        )
        if self._stop is None:
            return limit
        kill_at, self._kill_at = self._kill_at, None
        return [*limit, *self._terminate(now, None if kill_at is None else kill_at - now)]

    def on_unstarted(self, exit_code: int | None, message: str) -> list[ProgramEffect]:
        """End a program that never ran; exit_code: as of a shell, or None."""
        if self._stop is not None:
            return self._end(Ending(self._stop[0], None, self._stop[1]))
        return self._end(Ending(State.FAILED, exit_code, message))

    def on_abandoned(self) -> list[ProgramEffect]:
        """End a program whose start took longer than a stop may wait."""
        return (
            self.on_unstarted(None, "its start hangs")
            if self.phase is ProgramPhase.STARTING
            else []
        )

    # Stops.

    def on_limit(self, now: float) -> list[ProgramEffect]:
        reason = f"ran longer than timeout_s ({self._timeout_s:g})"
        return self.on_stop(State.TIMED_OUT, reason, None, now)

    def on_stop(
        self, state: State, reason: str, grace_s: float | None, now: float
    ) -> list[ProgramEffect]:
        """Stop the program. The first call sets the reason; later ones only shorten the grace."""
        if self.phase is ProgramPhase.ENDED:
            return []
        is_first, self._stop = self._stop is None, self._stop or (state, reason)
        if self.phase is ProgramPhase.STARTING:
            return self._await_start(now + (self._usual_s() if grace_s is None else grace_s))
        if is_first:
            return self._terminate(now, grace_s)
        return [] if grace_s is None else self._hasten(now + max(0.0, grace_s))

    def on_kill(self, now: float) -> list[ProgramEffect]:
        if self.phase is ProgramPhase.ENDED:
            return []
        self._stop = self._stop or (State.CANCELLED, "killed")
        return (
            self._await_start(now) if self.phase is ProgramPhase.STARTING else self.on_kill_due(now)
        )

    def on_kill_due(self, now: float) -> list[ProgramEffect]:
        if self._killed_at is None:
            self._killed_at = now
            if self.phase is ProgramPhase.LOOKING:
                return [ProgramEffect(Do.KILL), ProgramEffect(Do.LOOK_AT, now + POLL_S)]
        return [ProgramEffect(Do.KILL)]

    def _await_start(self, kill_at: float) -> list[ProgramEffect]:
        """Bound the wait for the start, counted from the stop; the shortest grace counts.

        A start that hangs longer, as on a dead disk, is abandoned.
        """
        if self._kill_at is not None and self._kill_at <= kill_at:
            return []
        self._kill_at = kill_at
        return [ProgramEffect(Do.ABANDON_AT, kill_at + GIVE_UP_S)]

    def _terminate(self, now: float, grace_s: float | None) -> list[ProgramEffect]:
        """Send TERM now, and KILL to the processes that are left after the grace.

        Without any grace left, as on a host that was suspended past the deadline, send KILL alone.
        """
        if grace_s is not None and grace_s <= 0:
            return self.on_kill_due(now)
        if grace_s is None and self._kill_at is None:
            grace_s = self._usual_s()
        return [ProgramEffect(Do.TERM), *([] if grace_s is None else self._hasten(now + grace_s))]

    def _hasten(self, kill_at: float) -> list[ProgramEffect]:
        if self._kill_at is not None and self._kill_at <= kill_at:
            return []
        self._kill_at = kill_at
        return [ProgramEffect(Do.KILL_AT, kill_at)]

    # Its end.

    def on_exited(self, exit_code: int, signal_name: str = "") -> list[ProgramEffect]:
        """Note the end of the first process; signal_name: the signal that ended it, or empty."""
        self.phase = ProgramPhase.LOOKING
        self._exit_code, self._signal = exit_code, signal_name
        return [ProgramEffect(Do.STOP_LIMIT), ProgramEffect(Do.LOOK)]

    def trusts_small_look(self, *, lives: bool) -> bool:
        """Whether a cheap look proves the end. lives: the process group still has members."""
        return not lives and self._stop is None

    def gives_up(self, now: float) -> bool:
        """Whether the KILL is at least GIVE_UP_S ago, so that waiting longer is pointless."""
        return self._killed_at is not None and now - self._killed_at > GIVE_UP_S

    def kills_on_sight(self, *, lives: bool) -> bool:
        """Whether processes found outside the group of a stopped task are killed without grace."""
        return not lives and self._stop is not None

    def on_looked(self, *, found: bool, now: float) -> list[ProgramEffect]:
        """End only when no process is left: descendants must not outlive the report."""
        if not found:
            return self._end(self._ending())
        is_first, self._has_lingered = not self._has_lingered, True
        effects = self._terminate(now, None) if is_first and self._stop is None else []
        effects.append(ProgramEffect(Do.LOOK_AT, now + self._poll_s))
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

    def _end(self, ending: Ending) -> list[ProgramEffect]:
        self.phase = ProgramPhase.ENDED
        return [ProgramEffect(Do.END, ending=ending)]
