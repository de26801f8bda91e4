"""What an executor is: it starts a task, ends it when asked, and says once how it ended."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from broker_agent.store.folders import TaskFolder
from schemas.messages.actions import ActionArgs
from schemas.states import State


class Job(NamedTuple):
    """One attempt as an executor sees it. The folder belongs to the caller.

    trace: a trace context to pass on, or nothing.
    """

    command: str
    attempt: int
    args: ActionArgs
    folder: TaskFolder
    trace: str = ""


class Ending(NamedTuple):
    """How a task ended. exit_code None: it never came to run."""

    state: State
    exit_code: int | None
    reason: str


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
        """Its first process; 0 until it has begun."""

    def stop(self, state: State, reason: str, grace_s: float | None = None) -> None:
        """Ask it to end, then make it end; its ending will have `state`. The first call counts.

        grace_s: how long it has for that, if not the usual. A task that is stopping already and now
        has less time is held to that.
        """

    def kill(self) -> None:
        """Make it end now."""


class Executor(Protocol):
    def start(self, job: Job, on_start: OnStart, on_end: OnEnd) -> Task:
        """Have the task started. Both callbacks come later, each once, from the loop.

        on_start: with its pid, unless it never came to run. on_end: last, also for what could not
        be started: FAILED with the exit code that a shell would give, if there is one. Raises
        Refused for a job that is not for this executor; nothing is called then.
        """
