"""How far the event stream may be purged, and which facts must be written again at its head first.

Each distinct subject costs the broker memory, so the stream keeps only commands that are open or
ended lately. A long-lived command would keep everything behind it, so its facts are carried
forward: written again, each at the expected sequence of its old copy.
"""

from collections import deque
from collections.abc import Iterable

import msgspec

from broker_master.core.commands import Command


class Plan(msgspec.Struct, frozen=True):
    """The next purge of the event stream.

    carry: facts to write again (subject, old sequence). purge_to: keep from this sequence on.
    """

    carry: list[tuple[str, int]]
    purge_to: int


class Checkpoint:
    """Remembers earlier heads of the stream: it may be purged up to there `window_s` later."""

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._marks: deque[tuple[float, int]] = deque()

    def mark(self, now_s: float, last_seq: int) -> None:
        """Note the head of the stream at this time."""
        self._marks.append((now_s, last_seq))

    def plan(self, now_s: float, commands: Iterable[Command]) -> Plan | None:
        """The next purge, or None while nothing is older than the window.

        commands: all in the book, open ones and those whose history is not written yet. Their facts
        at or below the mark are carried forward; everything else there is in history.
        """
        horizon = 0
        while self._marks and self._marks[0][0] <= now_s - self.window_s:
            horizon = self._marks.popleft()[1]
        if not horizon:
            return None
        carry = [
            (subject, sequence)
            for command in commands
            for subject, sequence in command.facts.items()
            if sequence <= horizon
        ]
        return Plan(sorted(carry, key=lambda fact: fact[1]), horizon + 1)
