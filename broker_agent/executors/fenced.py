"""The end of a task in time, even if this process hangs: the warden has its deadline, too."""

from collections.abc import Callable
from typing import Protocol

from broker_agent.warden.table import WardenTable
from schemas.states import State


class Fencing(Protocol):
    """The part of an executor that this needs."""

    @property
    def table(self) -> WardenTable: ...
    @property
    def elapsed(self) -> Callable[[], float]: ...


class Fenced:
    """A task with a place in the warden's table."""

    _owner: Fencing
    _place: int

    def stop(self, state: State, reason: str, grace_s: float | None = None) -> None:
        """See `Task.stop`."""
        raise NotImplementedError

    def fence(self, reason: str, grace_s: float) -> None:
        """See `Task.fence`."""
        self._owner.table.note_kill(self._place, self._owner.elapsed() + grace_s)
        self.stop(State.KILLED_FENCED, reason, grace_s)

    def outlive(self, after_s: float) -> None:
        """See `Task.outlive`."""
        self._owner.table.note_after(self._place, after_s)
