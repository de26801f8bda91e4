"""Events of one run, line by line: the only input of its judge.

Every line is a JSON object with `kind`, `mono` (a clock that goes on during suspension, shared by
all processes of the host) and `wall`. The kinds and their fields:

run       fault, seed, timers: first line
note      text
submit    id, program, loss, on_lost
accepted  id, duplicate
refused   id, code
state     id, state, attempts: as a question about it was answered; on change
result    id, state: a result message
status    agent, status, reason, running: as the list of agents had it; on change
looked    asked: the list of agents was asked for then, and is answered
silence   agent, cut, safe: the two stopped hearing each other. cut `both`, `down`, `up`, `master`,
          `agent`, `broker` or `host`
healed    agent: they could hear each other again, if they want to
start     id, attempt, agent, pid, mono: a task said that it began
end       id, attempt, pid, mono: a task said that it came to its end
seen      id, attempt, pid, start, mono: a process of a task was found
gone      id, attempt, pid, start, mono: and was found no more
process   name, event, pid: one of the mesh was started, killed, found alive, dead or stumbled
output    id, attempt, stream, size, sha, local_size, local_sha, gaps, truncated, differs
final     the record of a command when all was over, or none
usage     phase, name, rss, fds, threads
epoch     epoch
deliver   id, attempt, times: a request that was sent again by the test
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

Event = dict[str, Any]

CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    return time.clock_gettime(CLOCK)


class History:
    """Appends to one file; whole lines, so that a run that dies is still read."""

    def __init__(self, path: Path, *, fault: str, seed: int, timers: dict[str, float]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", buffering=1)
        self.add("run", fault=fault, seed=seed, timers=timers)

    def add(self, kind: str, **fields: Any) -> Event:  # noqa: ANN401  whatever JSON can hold
        event: Event = {"kind": kind, "mono": now(), "wall": time.time(), **fields}
        self._file.write(json.dumps(event) + "\n")
        return event

    def close(self) -> None:
        self._file.close()


def read_history(path: Path) -> list[Event]:
    """All events in the order of their time, which for those found late is not that of the file."""
    return sorted(_lines(path), key=lambda event: float(event["mono"]))


def _lines(path: Path) -> Iterator[Event]:
    for line in path.read_text().splitlines():
        if line.endswith("}"):
            yield json.loads(line)
