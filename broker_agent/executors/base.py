"""An executor runs the tasks of one action, stops them on request, and reports each end once.

Two kinds: `Executor` for work that takes time, `Instant` for work that has ended as soon as it is
recorded. Executors are found by name: `sql.query` in `broker_agent/executors/sql.py`, whose `build`
makes one executor for all actions of that family.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from broker_agent.core.program import Ending
from broker_agent.store.folders import TaskFolder
from schemas import limits
from schemas.messages.actions import ActionArgs
from schemas.states import State


class Way(NamedTuple):
    """The way of a call. connection: name of the profile, or empty. timeout_s: longest time.

    key: by which a server may recognize a repetition of the call.
    """

    connection: str = ""
    timeout_s: float = 0.0
    key: str = ""


NO_WAY: Final = Way()


class Job(NamedTuple):
    """One attempt for an executor. The caller owns the folder.

    trace: trace context to pass on, or empty. outlives_s: seconds of the master's silence after
    which no process of the task may be left, even if this process hangs or is gone. way: of work
    through a connection. output_bytes: limit of its output. stdin: descriptor of its input, which
    the executor closes; -1: its arguments have it.
    """

    command: str
    attempt: int
    args: ActionArgs
    folder: TaskFolder
    trace: str = ""
    outlives_s: float = 0.0
    way: Way = NO_WAY
    output_bytes: int = limits.OUTPUT_LIMIT_BYTES
    stdin: int = -1


# Name of a running task in the journal, made and read by its executor: for a program pid and start
# time of its first process; zeros for work that leaves nothing.
Mark = tuple[int, int]


class Carrying(Protocol):
    """Copies the output of tasks from their pipes into their files, also when this process dies."""

    def take(self, folder: TaskFolder) -> None:
        """Copy from now until `leave`. Returns at once; callable from any thread."""

    def leave(self, folder: TaskFolder) -> None:
        """Stop copying for a task that has ended; its files are complete."""


OnStart = Callable[[], None]
OnEnd = Callable[[Ending], None]


class Task(Protocol):
    """A running task. All methods return at once; no process is left when it has ended."""

    @property
    def pid(self) -> int:
        """Pid of its first process, for people; 0 before its start, and without a process."""

    def identify(self) -> Mark:
        """Name it for the agent's next start, whose executor may have to end what it left."""

    def stop(self, state: State, reason: str, grace_s: float | None = None) -> None:
        """Stop it with TERM, then KILL; its ending has `state`. The first call sets the state.

        grace_s: seconds between TERM and KILL; None: the default. Of several calls the shortest
        grace counts.
        """

    def fence(self, reason: str, grace_s: float) -> None:
        """Stop it with KILLED_FENCED; it has ended after `grace_s` even if this process hangs."""

    def outlive(self, after_s: float) -> None:
        """Replace `Job.outlives_s`."""

    def kill(self) -> None:
        """Kill it now, without grace."""

    def force(self) -> None:
        """Kill what it runs while the loop hangs; changes no state. Callable from any thread."""


class Enclosure(NamedTuple):
    """How far the processes of tasks are enclosed, so that none escapes its end.

    is_used: tasks have control groups. missed: number of tasks that run without theirs; why: cause
    of the newest.
    """

    is_used: bool = False
    missed: int = 0
    why: str = ""


class OrphanedAttempt(NamedTuple):
    """An attempt in the journal that ran when an earlier start of the agent ended."""

    command: str
    attempt: int
    incarnation: str
    mark: Mark


class Executor(ABC):
    """Duties of an executor. All except `start` have a default, for work that needs none."""

    @abstractmethod
    def start(self, job: Job, on_start: OnStart, on_end: OnEnd) -> Task:
        """Start the task. The loop calls both callbacks later, each once.

        on_start: unless it never ran. on_end: last, also after a failed start: FAILED
        with the exit code of a shell, or None. Raises Refused for a job of another action, and
        calls neither then.
        """

    def admit(self, args: ActionArgs, way: Way) -> None:  # noqa: B027  (for work without needs)
        """Raise Refused for work that cannot run here; called before it is recorded."""

    def is_repeatable(self, args: ActionArgs) -> bool:
        """Whether the work changes nothing, so that it may start before it is recorded."""
        del args
        return False

    @property
    def is_behind(self) -> bool:
        """Whether tasks queue for their start, so that a delayed record delays no start."""
        return False

    @property
    def enclosure(self) -> Enclosure | None:
        """None for work without processes."""
        return None

    def end_orphans(self, left: OrphanedAttempt) -> int:
        """Kill the orphans of an attempt of an earlier start; returns their number."""
        del left
        return 0

    def reap(self) -> None:  # noqa: B027  (for work that leaves nothing)
        """Reap the zombies of ended tasks; called every few seconds."""

    def kill_all(self) -> None:  # noqa: B027  (for work that leaves nothing)
        """Kill all tasks without waiting: the agent is ending, and no task starts any more."""

    def close(self) -> None:  # noqa: B027  (for work that leaves nothing)
        """Release the resources of this executor, after `kill_all`."""


class Instant(ABC):
    """Work without effect that has ended before it could be stopped.

    The journal records its acceptance and its end in one write, and it takes no slot.
    """

    @abstractmethod
    def run(self, args: ActionArgs) -> Ending:
        """Return at once, and raise nothing."""
