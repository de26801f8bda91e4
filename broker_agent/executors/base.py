"""An executor runs the tasks of one action, ends them when asked, and says once how each ended.

Two kinds: `Executor` for work that takes its time, `Instant` for what has ended as soon as it is
recorded. Executors are found by name: `sql.query` in `broker_agent/executors/sql.py`, whose `build`
makes the one for all actions of that family.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from broker_agent.core.program import Ending
from broker_agent.executors.cells import Cells
from broker_agent.executors.manner import Manner
from broker_agent.store.folders import TaskFolder
from broker_agent.warden.table import Table
from schemas.messages.actions import ActionArgs
from schemas.states import State


class Job(NamedTuple):
    """One attempt as an executor sees it. The folder belongs to the caller.

    trace: a trace context to pass on, or nothing. outlives_s: silence of the master, in seconds,
    after which nothing of the task may be left, even if this process hangs or is gone.
    """

    command: str
    attempt: int
    args: ActionArgs
    folder: TaskFolder
    trace: str = ""
    outlives_s: float = 0.0


class Carrying(Protocol):
    """Brings what comes out of the pipes of tasks into their files, also when this process dies."""

    def take(self, folder: TaskFolder) -> None:
        """From now until `leave`. Returns at once; called in any thread."""

    def leave(self, folder: TaskFolder) -> None:
        """The task has ended, and its files are whole."""


OnStart = Callable[[int], None]
OnEnd = Callable[[Ending], None]


class Task(Protocol):
    """A task under way. All methods return at once; nothing of it is left when it has ended."""

    @property
    def pid(self) -> int:
        """Its first process; 0 until it has begun, and for work without a process."""

    def identify(self) -> tuple[int, int]:
        """Number and start of its first process, by which a later start of the agent knows it.

        Zeros for work without a process.
        """

    def stop(self, state: State, reason: str, grace_s: float | None = None) -> None:
        """Ask it to end, then make it end; its ending will have `state`. The first call counts.

        grace_s: how long it has for that, if not the usual. A task that is stopping already and now
        has less time is held to that.
        """

    def fence(self, reason: str, grace_s: float) -> None:
        """As `stop` with KILLED_FENCED; it is over after `grace_s` even if this process hangs."""

    def outlive(self, after_s: float) -> None:
        """Another silence of the master counts from now on, see `Job.outlives_s`."""

    def kill(self) -> None:
        """Make it end now."""


class Left(NamedTuple):
    """An attempt that ran when an earlier start of the agent ended, as the journal has it."""

    command: str
    attempt: int
    incarnation: str
    pid: int
    pid_start: int


class Executor(ABC):
    """All duties have a default but `start`, for work that needs nothing of the kind."""

    @abstractmethod
    def start(self, job: Job, on_start: OnStart, on_end: OnEnd) -> Task:
        """Start the task. Both callbacks come later, each once, from the loop.

        on_start: with its pid, unless it never came to run. on_end: last, also for what could not
        be started: FAILED with the exit code that a shell would give, if there is one. Raises
        Refused for a job that is not for this executor; nothing is called then.
        """

    @property
    def is_behind(self) -> bool:
        """Whether tasks wait to be started: those that are recorded later start no later."""
        return False

    def end_left(self, left: Left) -> int:
        """End what an earlier start of the agent left of an attempt; how many processes it had."""
        del left
        return 0

    def reap(self) -> None:  # noqa: B027  (for work that leaves nothing)
        """Clear away what ended tasks have left; called every few seconds."""

    def kill_all(self) -> None:  # noqa: B027  (for work that leaves nothing)
        """End everything at once, without waiting: the agent is ending, and nothing starts now."""

    def close(self) -> None:  # noqa: B027  (for work that leaves nothing)
        """After `kill_all`: give back what this executor holds."""


class Instant(ABC):
    """Work without effect that has ended before it could be asked to stop.

    It needs no moment between being recorded as accepted and as ended: one write stands for both,
    and it takes no slot.
    """

    @abstractmethod
    def run(self, args: ActionArgs) -> Ending:
        """Returns at once, and raises nothing."""


class Ports(NamedTuple):
    """What executors are built from.

    grace_s: asked each time, as the master may announce another. elapsed: the monotonic clock that
    goes on while the host is suspended. marks: added to the environment of each program, beside the
    id of its command; `MESH_INCARNATION` tells our tasks from those of all other agents of the
    host. carrier: brings what they print into their files. table: where the warden reads what runs,
    and until when it may. others: children of this process that are no tasks. manner: how programs
    begin. cells: where tasks are enclosed, if anywhere.
    """

    loop: asyncio.AbstractEventLoop
    grace_s: Callable[[], float]
    elapsed: Callable[[], float]
    marks: Mapping[str, str]
    carrier: Carrying
    table: Table
    others: set[int]
    manner: Manner
    cells: Cells = Cells(None, "", "")
