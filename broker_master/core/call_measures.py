"""Counters of commands through one connection."""

from typing import Final

from broker_master.core.histograms import Histogram
from schemas.faults import known_code
from schemas.messages.facts import Outcome

# Upper bounds in seconds, from a warm worker's call to the longest timeout.
CALL: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0)


class CallMeasures:
    """finished: commands by outcome. faults: by code, of a closed set. output_bytes: of them."""

    __slots__ = ("faults", "finished", "output_bytes", "seconds")

    def __init__(self) -> None:
        self.finished: dict[str, int] = {}
        self.faults: dict[str, int] = {}
        self.seconds = Histogram(CALL)
        self.output_bytes = 0

    def on_outcome(self, outcome: Outcome) -> None:
        """Count the end of an attempt; only the final one ends the command."""
        if outcome.code:
            code = known_code(outcome.code)
            self.faults[code] = self.faults.get(code, 0) + 1
        self.output_bytes += outcome.stdout_bytes + outcome.stderr_bytes
        if outcome.started_at:
            self.seconds.observe((outcome.ended_at or outcome.at) - outcome.started_at)
        if outcome.final:
            state = str(outcome.state)
            self.finished[state] = self.finished.get(state, 0) + 1
