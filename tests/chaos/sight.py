"""Processes of the tasks in /proc, scanned repeatedly: those that came and those that went."""

import asyncio
import os
import time
from contextlib import suppress
from typing import Final

from tests.chaos.history import History

LOOK_S: Final = 0.1
# A process that was just forked still shows its parent's environment.
YOUNG_S: Final = 0.3

_Key = tuple[int, int]


class Sight:
    """Knows processes of tasks by the two variables that every task has in its environment.

    `own`: marks of the tasks of this world alone, since several worlds share the host.
    """

    def __init__(self, history: History, own: str) -> None:
        self._history = history
        self._own = own.encode()
        self._known: dict[_Key, tuple[str, int] | None] = {}
        self._first: dict[_Key, float] = {}
        self.alive: dict[_Key, tuple[str, int]] = {}

    async def run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        now = time.monotonic()
        present: set[_Key] = set()
        for name in os.listdir("/proc"):  # noqa: PTH208  (ten times a second)
            if not name.isdigit():
                continue
            start = _started(name)
            if start:
                key = int(name), start
                present.add(key)
                self._meet(key, now)
        for key in [key for key in self.alive if key not in present]:
            command, attempt = self.alive.pop(key)
            self._history.add("gone", id=command, attempt=attempt, pid=key[0], start=key[1])
        for key in [key for key in self._first if key not in present]:
            del self._first[key]
            self._known.pop(key, None)

    def _meet(self, key: _Key, now: float) -> None:
        if key in self._known:
            return
        first = self._first.setdefault(key, now)
        found = self._marks(key[0])
        if found is not None:
            self.alive[key] = self._known[key] = found
            fields = {"id": found[0], "attempt": found[1], "pid": key[0], "start": key[1]}
            self._history.add("seen", **fields)
        elif now - first > YOUNG_S:
            self._known[key] = None

    def _marks(self, pid: int) -> tuple[str, int] | None:
        with suppress(OSError, ValueError):
            with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123  (for every process)
                pairs = [pair.partition(b"=") for pair in file.read().split(b"\0")]
            values = {name: value for name, _, value in pairs}
            if values.get(b"W", b"") == self._own and b"MESH_COMMAND" in values:
                return values[b"MESH_COMMAND"].decode(), int(values[b"MESH_ATTEMPT"])
        return None

    def of(self, command: str) -> list[int]:
        return [pid for (pid, _), (id, _) in self.alive.items() if id == command]


def _started(pid: str) -> int:
    """When it was started, in ticks since the boot; 0 for the dead."""
    with suppress(OSError, IndexError, ValueError):
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            fields = file.read().rpartition(b")")[2].split()
        if fields[0] not in {b"Z", b"X"}:
            return int(fields[19])
    return 0
