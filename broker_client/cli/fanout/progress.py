"""Progress of a fan-out, and the output of its programs, agent by agent."""

import os
import sys
from collections.abc import Collection, Iterator
from typing import Final, TextIO

from broker_client.cli.screen.report import say
from broker_client.cli.screen.tables import cut
from broker_client.cli.screen.terminal import TerminalText, shown
from schemas.messages.facts import CommandRecord
from schemas.messages.fanouts import FanoutRecord
from schemas.states import TERMINAL

_CLEAR: Final = "\r\x1b[K"
_BAR_CELLS: Final = 20
_WIDTH: Final = 80
ENDED: Final = frozenset({*map(str, TERMINAL), "skipped"})


def ended_of(record: FanoutRecord) -> int:
    """Return the number of agents that have ended, or were skipped."""
    return sum(count for state, count in record.counts.items() if state in ENDED)


class Progress:
    """A progress line that is overwritten, on a terminal only."""

    def __init__(self, file: TextIO) -> None:
        self._file = file if file.isatty() else None
        self._is_shown = False

    @property
    def is_seen(self) -> bool:
        return self._file is not None

    def show(self, record: FanoutRecord, missing: Collection[str]) -> None:
        """Show the progress. missing: names of agents that have not ended."""
        if self._file is None:
            return
        said = cut(shown(bar(record, missing)), self._width(self._file) - 1)
        print(f"{_CLEAR}{said}", end="", file=self._file, flush=True)
        self._is_shown = True

    @staticmethod
    def _width(file: TextIO) -> int:
        try:
            return os.get_terminal_size(file.fileno()).columns or _WIDTH
        except OSError:
            return _WIDTH

    def clear(self) -> None:
        if self._file is not None and self._is_shown:
            print(_CLEAR, end="", file=self._file, flush=True)
            self._is_shown = False


def bar(record: FanoutRecord, missing: Collection[str]) -> str:
    """Return `[#####..........] 2 of 8 agents have ended, 1 not well; missing: web-3 web-7 …`."""
    ended = ended_of(record)
    bad = ended - record.counts.get("succeeded", 0)
    full = _BAR_CELLS * ended // max(record.agents, 1)
    names = f"; missing: {' '.join(sorted(missing))}" if missing else ""
    said = f"{ended} of {record.agents} agents have ended, {bad} not well"
    return f"[{'#' * full}{'.' * (_BAR_CELLS - full)}] {said}{names}"


def print_output(agent: str, record: CommandRecord, *, is_raw: bool = False) -> None:
    """Print each line with the name of its agent as prefix, stdout and stderr apart.

    In a pipe or a file, or if `is_raw`, the bytes are not escaped; an unfinished last line gets a
    line end.
    """
    output = record.output
    if output is not None:
        for data, file in ((output.stdout, sys.stdout), (output.stderr, sys.stderr)):
            file.flush()
            is_safe = file.isatty() and not is_raw
            text = TerminalText().feed(data, final=True).encode() if is_safe else data
            file.buffer.write(b"".join(_named(agent, text)))
            file.buffer.flush()
    kept = 0 if output is None else len(output.stdout) + len(output.stderr)
    if record.stdout_bytes + record.stderr_bytes > kept:
        say(f"{agent}: there is more output: `mesh command logs {record.id}`")


def _named(agent: str, data: bytes) -> Iterator[bytes]:
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for line in lines:
        yield b"%s | %s\n" % (agent.encode(), line)
