"""One line of the log per ended attempt, as far as lines can be read and paid for.

A line costs a tenth of what a whole command may cost. So a burst is told line by line, a flood only
in part, and the next line says how many were left out; the history holds every one of them.
"""

from typing import Final

import structlog

from broker_client.runtime.rates import TokenBucket
from broker_master.core.commands import Command
from broker_master.plane import Plane
from schemas.messages.facts import Outcome

LINES_PER_S: Final = 20.0
BURST: Final = 200

log = structlog.get_logger()


class Chronicle:
    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._room = TokenBucket(per_s=LINES_PER_S, burst=BURST)
        self._unsaid = 0

    def tell(self, command: Command, number: int, outcome: Outcome) -> None:
        """Say how attempt `number` ended (0: it never had one). Never what was run, or printed."""
        if not self._room.take(self._plane.clock.elapsed()):
            self._unsaid += 1
            return
        log.info(
            "attempt_ended",
            command_id=command.id,
            attempt=number,
            agent=outcome.agent or None,
            group=command.accepted.group,
            client=command.accepted.client,
            action=command.accepted.action,
            outcome=str(outcome.state),
            final=outcome.final,
            exit_code=outcome.exit_code,
            after_s=round(max(0.0, outcome.at - command.accepted.submitted_at), 3),
            unsaid=self._unsaid,
        )
        self._unsaid = 0
