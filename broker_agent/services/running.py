"""Running attempts, and their stops."""

import asyncio
import os
from collections.abc import Callable
from typing import NamedTuple

from broker_agent.core.tasks import AttemptKey, TaskEntry, TaskPhase
from broker_agent.executors.base import NO_WAY, Task, Way
from broker_agent.services.shipper import Shipment
from broker_agent.services.wire import Station
from broker_agent.store.folders import TaskFolder
from schemas.messages.actions import ActionArgs
from schemas.states import State


class Unrecorded(NamedTuple):
    """Acceptance of an attempt that the journal does not have yet.

    record: writes it. note_end: called in its place when the end was written with it; with None,
    or with the state in which the attempt was released earlier.
    """

    record: Callable[[], None]
    note_end: Callable[[str | None], None]


class Active:
    """Resources of a running or closing attempt, beside its entry in the book.

    args: None for an attempt of an earlier start of the agent. way: of a call to a system. stdin:
    descriptor of a fetched input, or -1. unrecorded: None once the journal has it.
    """

    __slots__ = (
        "args",
        "entry",
        "folder",
        "limit_bytes",
        "shipment",
        "stdin",
        "task",
        "timer",
        "trace",
        "unrecorded",
        "way",
    )

    def __init__(
        self,
        entry: TaskEntry,
        args: ActionArgs | None,
        limit_bytes: int,
        trace: str = "",
        way: Way = NO_WAY,
    ) -> None:
        self.entry = entry
        self.args = args
        self.limit_bytes = limit_bytes
        self.trace = trace
        self.way = way
        self.folder: TaskFolder | None = None
        self.task: Task | None = None
        self.shipment: Shipment | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.stdin = -1
        self.unrecorded: Unrecorded | None = None

    def record(self) -> None:
        """Write its acceptance, if the journal does not have it."""
        unrecorded, self.unrecorded = self.unrecorded, None
        if unrecorded is not None:
            unrecorded.record()

    def close_stdin(self) -> None:
        """Close a fetched input that no program gets."""
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1


class Running:
    """active: running and closing attempts by key. is_draining: whether no new task starts."""

    def __init__(self, station: Station) -> None:
        self._lease = station.lease
        self._book = station.book
        self.active: dict[AttemptKey, Active] = {}
        self.is_draining = False

    def drain(self, *, draining: bool = True) -> None:
        """Start no new tasks; with False, start tasks again."""
        self.is_draining = draining

    def stop(self, command: str, attempt: int, state: State, reason: str) -> bool:
        """Stop one attempt. False if the agent does not have it; it is then refused later."""
        entry = self._book.get(command, attempt)
        if entry is None:
            self._book.refuse(command, attempt)
            return False
        self._stop(entry, state, reason)
        return True

    def stop_all(self, state: State, reason: str) -> None:
        for entry in self._book.active():
            self._stop(entry, state, reason)

    def fence(self, entry: TaskEntry, reason: str, grace_s: float) -> None:
        """Stop an attempt whose deadline has passed, with or without a connection to the master.

        An attempt that is stopping already gets at most `grace_s` more.
        """
        entry.ask_stop(State.KILLED_FENCED, reason)
        active = self.active.get(entry.key)
        if active is not None and active.task is not None:
            active.task.fence(reason, grace_s)

    def renew_deadlines(self) -> None:
        """Give each task its new deadline after a change of the timers."""
        for active in self.active.values():
            if active.task is not None:
                kill_after_s = active.entry.kill_after_s
                active.task.outlive(self._lease.timers.fence_after_s(kill_after_s))

    def kill_all(self) -> None:
        for active in list(self.active.values()):
            if active.task is not None:
                active.task.kill()

    def force(self, entry: TaskEntry) -> bool:
        """Kill what an attempt runs while the loop hangs; False if it has not started.

        Callable from any thread.
        """
        active = self.active.get(entry.key)
        task = active.task if active is not None else None
        if task is None or entry.phase is not TaskPhase.RUNNING:
            return False
        task.force()
        return True

    def _stop(self, entry: TaskEntry, state: State, reason: str) -> None:
        active = self.active.get(entry.key)
        if entry.ask_stop(state, reason) and active is not None and active.task is not None:
            active.task.stop(state, reason)
