"""Handles results that come after the master's verdict: they amend it, or are kept beside it."""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

import structlog

from broker_client.runtime.stream_answers import SequenceConflict
from broker_master.core.commands import Attempt, Command
from broker_master.core.fit import bare_outcome
from broker_master.core.fold import fold, may_be_amended
from broker_master.core.records import amend_record
from broker_master.plane import Plane
from broker_master.services.historian import Historian
from broker_master.services.settle import Settler, is_too_large
from schemas import subjects
from schemas.faults import MeshError, Refused
from schemas.messages.facts import Outcome

log = structlog.get_logger()

Done = Callable[[], None]


class LateResults:
    """`done` is called once the late result is durable, or known already."""

    def __init__(self, plane: Plane, settler: Settler, historian: Historian) -> None:
        self._plane = plane
        self._settler = settler
        self._historian = historian
        self._storing: set[tuple[str, int]] = set()

    def take(self, command: Command, attempt: Attempt, outcome: Outcome, done: Done) -> None:
        """Handle a late result of a command in the book."""
        if not may_be_amended(attempt):
            done()
            return
        self._store(command.id, attempt.number, outcome, partial(self._amend, command, done))

    def _amend(self, command: Command, done: Done, fact: subjects.Fact, outcome: Outcome) -> None:
        _ = fold(command, fact, outcome)
        done()
        if command.is_terminal:
            self._settler.finish(command)

    def take_ended(self, command_id: str, number: int, outcome: Outcome, done: Done) -> None:
        """Handle a late result of a command in history only."""
        known = self._plane.readmodel.known(command_id)
        if known is None or (command_id, number) in self._storing:
            if known is None:
                done()
            return
        self._storing.add((command_id, number))
        try:
            self._plane.spawn(self._amend_history(command_id, number, outcome, done), outcome.agent)
        except Refused as error:
            # Not released, so the agent reports it again.
            self._storing.discard((command_id, number))
            self._plane.count("shed", "share")
            log.info("late_result_delayed", command_id=command_id, error=str(error))

    async def _amend_history(
        self, command_id: str, number: int, outcome: Outcome, done: Done
    ) -> None:
        try:
            history = await self._plane.readmodel.get(command_id)
            amended = amend_record(history, number, outcome) if history is not None else None
            if amended is not None:
                fact = subjects.Fact(command_id, number, "late")
                # A conflict: it was noted before, but the record may not have been amended then.
                with contextlib.suppress(SequenceConflict):
                    await self._append(fact, outcome)
                self._historian.amend(amended)
            done()
        except MeshError as error:
            # Not released, so the agent reports it again.
            log.warning("late_result_delayed", command_id=command_id, error=str(error))
        finally:
            self._storing.discard((command_id, number))

    async def _append(self, fact: subjects.Fact, outcome: Outcome) -> None:
        """Append without output if the broker's limit is below the mesh's."""
        try:
            await self._plane.facts.append(fact, outcome)
        except Refused as error:
            if not is_too_large(error):
                raise
            await self._plane.facts.append(fact, bare_outcome(outcome))

    def _store(
        self,
        command_id: str,
        number: int,
        outcome: Outcome,
        then: Callable[[subjects.Fact, Outcome], None],
    ) -> None:
        if (command_id, number) in self._storing:
            return
        self._storing.add((command_id, number))
        fact = subjects.Fact(command_id, number, "late")

        def stored(future: "asyncio.Future[int]") -> None:
            self._storing.discard((command_id, number))
            if future.cancelled():
                return
            error = future.exception()
            if error is None or isinstance(error, SequenceConflict):
                self._plane.count("late_result")
                log.info("late_result", command_id=command_id, attempt=number, state=outcome.state)
                then(fact, outcome)
            elif is_too_large(error) and bare_outcome(outcome) != outcome:
                self._store(command_id, number, bare_outcome(outcome), then)
            else:
                log.warning("late_result_delayed", command_id=command_id, error=str(error))

        self._plane.facts.append(fact, outcome).add_done_callback(stored)
