"""Ends attempts and commands: the outcome is durable first, then its recipients are notified."""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

import msgspec
import structlog

from broker_client.runtime.signals import Signal
from broker_master.core import ends
from broker_master.core.commands import Attempt, Command
from broker_master.core.effects import Settle
from broker_master.core.fit import bare_outcome, bare_record, fit_outcome
from broker_master.core.fold import fold
from broker_master.core.phases import Phase
from broker_master.core.records import command_record
from broker_master.plane import OPEN_IN_BACKUP, Plane
from broker_master.services.chronicle import Chronicle
from broker_master.services.results import ResultPublisher
from broker_master.store.facts import Conflict
from schemas import codec, subjects
from schemas.argv import base_name
from schemas.faults import MeshError, Refused
from schemas.messages.facts import CommandRecord, Outcome

log = structlog.get_logger()

Done = Callable[[], None]


class Settler:
    """Writes outcomes. Afterwards the result goes to the client and the command to history.

    on_ended: called with each ended command and its record. For the assigner: `on_slot_free` and
    `on_refused` with an agent, `on_requeue` with a command and the agent that it should not get
    again.
    """

    def __init__(
        self,
        plane: Plane,
        results: ResultPublisher,
        on_ended: Callable[[Command, CommandRecord], None],
    ) -> None:
        self._plane = plane
        self._results = results
        self._chronicle = Chronicle(plane)
        self.on_slot_free: Signal[[str]] = Signal()
        self.on_requeue: Signal[[Command, str]] = Signal()
        self.on_refused: Signal[[str]] = Signal()
        self.on_ended = on_ended

    def settle(self, command: Command, effect: Settle, done: Done | None = None) -> None:
        """Make the end of an attempt, or of a command without one, durable.

        One outcome per attempt: the stream refuses a second, and then the first counts. done:
        called once the outcome is durable. The slot is free at once: the agent has ended the task,
        even if its record fails.
        """
        self._plane.doubtful.discard(command.id)
        attempt = command.find(effect.number)
        if attempt is not None:
            self._plane.dispatcher.give_back(attempt.agent, command.accepted.connection)
            self.on_slot_free(attempt.agent)
        else:
            self._plane.dispatcher.withdraw(command.id)
        fact = subjects.Fact(command.id, effect.number, "outcome")
        self._store(command, fact, fit_outcome(effect.outcome), done)

    def settle_all(self, command: Command, effects: Iterable[Settle]) -> None:
        for effect in effects:
            self.settle(command, effect)

    def _store(
        self, command: Command, fact: subjects.Fact, outcome: Outcome, done: Done | None
    ) -> None:
        stored = self._plane.facts.append(fact, outcome)
        stored.add_done_callback(partial(self._on_stored, command, fact, outcome, done))

    def _on_stored(
        self,
        command: Command,
        fact: subjects.Fact,
        outcome: Outcome,
        done: Done | None,
        stored: "asyncio.Future[int]",
    ) -> None:
        if stored.cancelled():
            return
        error = stored.exception()
        if isinstance(error, Conflict):
            self._plane.spawn(self._take_first(command, fact, done))
            return
        bare = bare_outcome(outcome)
        if is_too_large(error) and bare != outcome:
            # The broker's limit is below the mesh's: the end itself is small.
            self._plane.count("cut", "outcome")
            log.warning("outcome_cut", command_id=command.id, error=str(error))
            self._store(command, fact, bare, done)
            return
        if error is not None:
            # Not durable, so no recipient is notified: the agent reports again, the tick decides
            # again.
            attempt = ends.on_not_stored(command)
            if attempt is not None:
                self._plane.dispatcher.take(attempt.agent, command.accepted.connection)
            log.error("outcome_refused", command_id=command.id, error=str(error))
            return
        self._apply(command, fact, outcome, stored.result(), done)

    async def _take_first(self, command: Command, fact: subjects.Fact, done: Done | None) -> None:
        """Apply the outcome of this attempt that is in the stream already."""
        try:
            found = await self._plane.facts.read(fact)
        except MeshError as error:
            _ = ends.on_not_stored(command)
            log.warning("outcome_unreadable", command_id=command.id, error=str(error))
            return
        if found is not None and isinstance(found[1], Outcome):
            self._apply(command, fact, found[1], found[0], done)
        else:
            _ = ends.on_not_stored(command)

    def _apply(
        self,
        command: Command,
        fact: subjects.Fact,
        outcome: Outcome,
        sequence: int,
        done: Done | None,
    ) -> None:
        command.keep_place(subjects.fact(*fact), sequence)
        has_changed = fold(command, fact, outcome)
        self._plane.telemetry.measures.on_outcome(command, outcome)
        self._chronicle.tell(command, fact.attempt, outcome)
        if done is not None:
            done()
        if not has_changed:  # a late report has amended it before it was durable
            _ = ends.on_not_stored(command)
            return
        if command.is_terminal:
            self.finish(command)
            return
        self._plane.tell_command(command)
        if command.phase is Phase.WAITING:
            self.on_requeue(command, outcome.agent)
        else:
            log.warning("decision_wanted", command_id=command.id, reason=command.reason)

    def finish(self, command: Command) -> None:
        """Notify all recipients of a command whose end is durable."""
        record = command_record(command, self._plane.timers, with_output=True)
        if record.arguments is not None:
            self._plane.telemetry.measures.on_finished(command, base_name(record.arguments.argv))
        self.publish_result(command, record)
        for waiter in self._plane.waiters.pop(command.id, ()):
            if not waiter.done():
                waiter.set_result(None)
        self.on_ended(command, record)
        self._plane.tell_command(command)

    def publish_result(self, command: Command, record: CommandRecord) -> None:
        """Send the result to the submitter; the record can be read after a lost message."""
        accepted = command.accepted
        if record.output is not None and not accepted.with_output:
            record = msgspec.structs.replace(record, output=None)
        subject = subjects.result(accepted.client, command.id)
        try:
            try:
                self._results.publish(subject, codec.encode(record))
            except Refused:  # above the broker's limit
                self._results.publish(subject, codec.encode(bare_record(record)))
        except MeshError:
            self._plane.count("publish_failed", "result")

    def give_up(self, command: Command, attempt: Attempt) -> None:
        """End an attempt as lost: its agent has been silent until after its own deadline."""
        now = self._plane.clock.now()
        if command.id not in self._plane.doubtful:
            self.settle_all(command, ends.on_silent_for_good(command, attempt, now))
            return
        self._plane.count("restored", "lost")
        reason = f"{attempt.agent} is silent, {OPEN_IN_BACKUP}"
        self.settle_all(command, ends.on_lost(command, reason, now))


def is_too_large(error: BaseException | None) -> bool:
    """Whether the broker refuses a message for its size: a retry fails too."""
    return isinstance(error, Refused) and error.code == "too_large"
