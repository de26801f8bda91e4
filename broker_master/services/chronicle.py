"""One log line per ended attempt, within a rate limit.

A line costs up to a tenth of a whole command. So a burst is logged line by line, a flood only in
part, and the next line counts the omitted ones; the history has every one.
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
        """Log the end of attempt `number` (0: no attempt). Never its program or output."""
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
