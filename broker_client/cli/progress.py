"""How far a fan-out is, and what its programs printed, agent by agent."""

import sys
from typing import Final, TextIO

from broker_client.cli.report import say
from broker_client.cli.terminal import TerminalText
from schemas.messages.facts import CommandRecord
from schemas.messages.fanouts import FanoutRecord
from schemas.states import TERMINAL

_CLEAR: Final = "\r\x1b[K"
_ENDED: Final = frozenset({*map(str, TERMINAL), "skipped"})


class Progress:
    """One line that is written over, on a terminal; nothing anywhere else."""

    def __init__(self, file: TextIO) -> None:
        self._file = file if file.isatty() else None
        self._is_shown = False

    def show(self, record: FanoutRecord) -> None:
        if self._file is None:
            return
        ended = sum(count for state, count in record.counts.items() if state in _ENDED)
        bad = ended - record.counts.get("succeeded", 0)
        said = f"{ended} of {record.agents} agents have ended, {bad} not well"
        print(f"{_CLEAR}{said}", end="", file=self._file, flush=True)
        self._is_shown = True

    def clear(self) -> None:
        if self._file is not None and self._is_shown:
            print(_CLEAR, end="", file=self._file, flush=True)
            self._is_shown = False


def print_output(agent: str, record: CommandRecord) -> None:
    """Each line behind the name of its agent, stdout and stderr apart."""
    output = record.output
    if output is not None:
        for data, file in ((output.stdout, sys.stdout), (output.stderr, sys.stderr)):
            for line in TerminalText().feed(data, final=True).splitlines():
                print(f"{agent} | {line}", file=file, flush=True)
    kept = 0 if output is None else len(output.stdout) + len(output.stderr)
    if record.stdout_bytes + record.stderr_bytes > kept:
        say(f"{agent}: there is more output: `mesh command logs {record.id}`")
