"""Reads the last line of stderr of failed programs whose output is in the log stream."""

from collections.abc import Callable

import structlog

from broker_client.runtime.streams import Streams
from broker_master.core.lastline import explained_by, is_in_logs
from broker_master.plane import Plane
from broker_master.store.facts import LOGS
from schemas import codec, subjects
from schemas.faults import MeshError, Refused
from schemas.messages.facts import Outcome
from schemas.messages.work import AttemptReport, LogChunk

log = structlog.get_logger()

Then = Callable[[Outcome], None]


class LastLines:
    """One read for a failure with more output than comes along; none for anything else."""

    def __init__(self, plane: Plane, streams: Streams) -> None:
        self._plane = plane
        self._streams = streams
        self._reading: set[tuple[str, int]] = set()

    def explain(self, up: subjects.Up, item: AttemptReport, outcome: Outcome, then: Then) -> None:
        """Call `then` with the outcome and its reason; a line that is not found holds up no end."""
        key = (item.command, item.attempt)
        if not is_in_logs(outcome):
            then(outcome)
        elif key not in self._reading:  # the same report comes again until it is released
            self._reading.add(key)
            try:
                self._plane.spawn(self._read(up, key, outcome, then), up.agent)
            except Refused:  # too many of them fail at once
                self._reading.discard(key)
                then(outcome)

    async def _read(
        self, up: subjects.Up, key: tuple[str, int], outcome: Outcome, then: Then
    ) -> None:
        subject = subjects.log(up.group, up.agent, *key, subjects.STDERR)
        try:
            stored = await self._streams.get_last(LOGS, subject)
            if stored is not None:
                outcome = explained_by(outcome, codec.decode_trusted(LogChunk, stored.data))
        except MeshError as error:
            log.info("last_line_unread", command_id=key[0], error=str(error))
        finally:
            self._reading.discard(key)
        then(outcome)
