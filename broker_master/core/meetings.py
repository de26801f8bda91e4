"""Return of an agent after a silence: its length, and the results of its tasks."""

from collections.abc import Sequence
from typing import Final

import msgspec

from schemas.counting import counted
from schemas.messages.liveness import TaskDecision, TaskStatus
from schemas.states import State

# States of tasks that have not ended, as agents report them.
OPEN: Final = frozenset({"accepted", "running", "stopping"})


class Meeting(msgspec.Struct):
    """Facts of the first step of a handshake. silence_s: before it. The rest are counts.

    spool_bytes: output that waits at the agent. lost: of those that ended, by a restart.
    """

    silence_s: float
    spool_bytes: int
    going_on: int = 0
    given_up: int = 0
    ended: int = 0
    lost: int = 0

    def judge(self, tasks: Sequence[TaskStatus], decisions: Sequence[TaskDecision]) -> None:
        """Count the tasks that go on, were given up in the meantime, and have ended."""
        is_open = [task.state in OPEN for task in tasks]
        kept = [decision.verdict == "keep" for decision in decisions]
        self.going_on = sum(kept)
        self.given_up = sum(is_open) - self.going_on
        self.ended = len(is_open) - sum(is_open)
        self.lost = sum(task.state == State.LOST for task in tasks)

    def told(self) -> str:
        parts = [f"returned after {self.silence_s:.0f} s"]
        lost = f" ({self.lost} lost)" if self.lost else ""
        parts.append(f"{counted(self.going_on, 'task')} went on, {self.ended} ended{lost}")
        if self.given_up:
            parts.append(f"{self.given_up} had been given up, ended now")
        if self.spool_bytes:
            parts.append(f"{counted(self.spool_bytes, 'byte')} to fetch")
        return ": ".join(parts[:2]) + "".join(f", {part}" for part in parts[2:])
