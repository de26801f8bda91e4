"""The book of attempts: running ones, ended ones that wait for their release, refused ones."""

from collections import OrderedDict
from collections.abc import Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from schemas.states import State

# Bound of remembered refusals (cancelled before they came, or rejected). The oldest are evicted
# first; by then their requests are stale.
REFUSALS_KEPT: Final = 4096

AttemptKey = tuple[str, int]


class Refusal(NamedTuple):
    code: str
    message: str


CANCELLED: Final = Refusal("attempt_stale", "cancelled before it came")


class TaskPhase(StrEnum):
    """ACCEPTING: being written to the journal, or its program being loaded. RUNNING.

    CLOSING: ended, output under way. ENDED: reported.
    """

    ACCEPTING = "accepting"
    RUNNING = "running"
    CLOSING = "closing"
    ENDED = "ended"


class TaskEntry:
    """One attempt. Times are Unix seconds, for people; `stop` is the state after a requested stop.

    kill_after_s: seconds of the master's silence that it may outlive; 0: the default. ending: how
    it has ended, from that moment on; `state` follows with its report.
    is_void: it was released earlier, so its end is not reported.
    """

    __slots__ = (
        "accepted_at",
        "attempt",
        "command",
        "ending",
        "has_folder",
        "has_output",
        "holds_slot",
        "is_void",
        "kill_after_s",
        "phase",
        "pid",
        "row",
        "started_at",
        "state",
        "stop",
        "stop_reason",
    )

    def __init__(
        self,
        command: str,
        attempt: int,
        row: int,
        accepted_at: float,
        kill_after_s: float = 0.0,
    ) -> None:
        self.command = command
        self.attempt = attempt
        self.row = row
        self.accepted_at = accepted_at
        self.kill_after_s = kill_after_s
        self.started_at = 0.0
        self.pid = 0
        self.phase = TaskPhase.ACCEPTING
        self.state = State.ACCEPTED
        self.ending: State | None = None
        self.holds_slot = False
        self.has_folder = False
        self.has_output = False
        self.is_void = False
        self.stop: State | None = None
        self.stop_reason = ""

    @property
    def key(self) -> AttemptKey:
        return self.command, self.attempt

    def ask_stop(self, state: State, reason: str) -> bool:
        """Request a stop; the first reason stays. False if it has ended or had a request."""
        if self.stop is not None or self.phase in {TaskPhase.CLOSING, TaskPhase.ENDED}:
            return False
        self.stop = state
        self.stop_reason = reason
        return True


class TaskBook:
    """All attempts that are not released. `slots`: limit of attempts that hold a slot."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.running = 0
        self._entries: dict[AttemptKey, TaskEntry] = {}
        self._refused: OrderedDict[AttemptKey, Refusal] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[TaskEntry]:
        return iter(self._entries.values())

    @property
    def is_full(self) -> bool:
        return self.running >= self.slots

    def get(self, command: str, attempt: int) -> TaskEntry | None:
        return self._entries.get((command, attempt))

    def known_state(self, command: str, attempt: int) -> str:
        entry = self._entries.get((command, attempt))
        return entry.state if entry is not None else ""

    def refusal(self, command: str, attempt: int) -> Refusal | None:
        """Refusal of this attempt, which must not start; None without one."""
        return self._refused.get((command, attempt))

    def add(self, entry: TaskEntry, *, holds_slot: bool) -> None:
        entry.holds_slot = holds_slot
        self.running += holds_slot
        self._entries[entry.key] = entry

    def drop(self, entry: TaskEntry) -> None:
        """Remove an attempt that was released, or was never accepted."""
        self.free(entry)
        self._entries.pop(entry.key, None)

    def free(self, entry: TaskEntry) -> None:
        """Give its slot back; idempotent."""
        self.running -= entry.holds_slot
        entry.holds_slot = False

    def refuse(self, command: str, attempt: int, why: Refusal = CANCELLED) -> None:
        """Refuse to start this attempt. The first reason stays, since it may have been sent."""
        self._refused.setdefault((command, attempt), why)
        while len(self._refused) > REFUSALS_KEPT:
            self._refused.popitem(last=False)

    def active(self) -> list[TaskEntry]:
        """Attempts whose task runs or is about to start."""
        return [
            entry
            for entry in self._entries.values()
            if entry.phase in {TaskPhase.ACCEPTING, TaskPhase.RUNNING}
        ]
