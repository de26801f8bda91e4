"""Assigns commands to agents: chooses, makes the choice durable, sends."""

import asyncio
from collections.abc import Iterable
from functools import partial

import structlog

from broker_master.core import ends
from broker_master.core.commands import Command
from broker_master.core.dispatch import Choice
from broker_master.core.effects import Effect
from broker_master.core.fold import fold, unfold_assigned
from broker_master.core.holds import Holds
from broker_master.core.phases import Phase
from broker_master.core.refusals import refusers
from broker_master.core.spread import PART_S
from broker_master.plane import Plane
from broker_master.services.permits import note_objection, objection
from broker_master.services.settle import Settler
from broker_master.services.transmit import Transmitter
from broker_master.store.facts import Conflict
from schemas import subjects
from schemas.messages.facts import Accepted, Assigned
from schemas.states import State

log = structlog.get_logger()

_TICK_S = 0.25
# Share of the time for the scan of all open commands, however many there are.
_LOOK_PART = 0.05
# Permanently refused commands to skip in one search.
_SKIPPED_MAX = 16


class Assigner:
    """Owner of the waiting commands."""

    name = "assign"

    def __init__(self, plane: Plane, settler: Settler, transmitter: Transmitter) -> None:
        self._plane = plane
        self._settler = settler
        self._transmitter = transmitter
        settler.on_slot_free.listen(self.fill)
        settler.on_requeue.listen(self._on_requeue)
        settler.on_refused.listen(self._on_refused)
        self._holds = Holds()
        self._look_due_s = 0.0
        self._rotate_due_s = plane.clock.elapsed() + PART_S

    def reserve(self, accepted: Accepted) -> Choice | None:
        """Choose for a command that is being accepted; None if others wait before it.

        The slot is taken at once, so that two commands never get the same one.
        """
        dispatcher = self._plane.dispatcher
        wish = dispatcher.wish(accepted)
        if dispatcher.is_waiting(wish):
            return None
        choice = dispatcher.choose(wish)
        if choice is not None:
            dispatcher.take(choice.agent, wish.connection, shared=choice.shared)
        return choice

    def assigned(self, choice: Choice) -> Assigned:
        return Assigned(
            agent=choice.agent,
            at=self._plane.clock.now(),
            epoch=self._plane.master.epoch,
            why=choice.why,
        )

    def wait(self, command: Command) -> None:
        """Queue an accepted command, unless an agent can take it now."""
        accepted = command.accepted
        choice = self.reserve(accepted)
        if choice is not None:
            self._assign(command, choice)
        else:
            clock = self._plane.clock
            _ = command.start_waiting(now_s=clock.elapsed(), at=clock.now())
            dispatcher = self._plane.dispatcher
            dispatcher.enqueue(dispatcher.wish(accepted), command.id)

    def fill(self, agent: str) -> None:
        """Assign waiting commands to `agent` while it has free slots."""
        dispatcher = self._plane.dispatcher
        if not dispatcher.has_waiting:
            return
        skipped: list[Command] = []
        while len(skipped) < _SKIPPED_MAX:
            command_id = dispatcher.next_for(agent)
            if command_id is None:
                break
            command = self._waiting(command_id)
            if command is not None and agent in refusers(command):
                skipped.append(command)
            elif command is not None:
                wish = dispatcher.wish(command.accepted)
                shared = not (wish.agent or wish.tags)
                dispatcher.take(agent, wish.connection, shared=shared)
                self._assign(command, Choice(agent, "its slot became free", shared))
        for command in skipped:
            dispatcher.enqueue(dispatcher.wish(command.accepted), command.id, first=True)
        self._fill_limited(agent)

    def _fill_limited(self, agent: str) -> None:
        """Assign a command of a group with a limit of its own, to another member if need be."""
        dispatcher = self._plane.dispatcher
        while (found := dispatcher.next_beside(agent)) is not None:
            command_id, choice = found
            command = self._waiting(command_id)
            if command is None:
                continue
            if choice.agent in refusers(command):
                dispatcher.enqueue(dispatcher.wish(command.accepted), command_id, first=True)
                return
            dispatcher.take(choice.agent, command.accepted.connection, shared=choice.shared)
            self._assign(command, choice)

    def _waiting(self, command_id: str) -> Command | None:
        command = self._plane.book.get(command_id)
        if command is None or command.phase is not Phase.WAITING:
            return None
        return None if self._is_barred(command) else command

    def _is_barred(self, command: Command) -> bool:
        """End a waiting command that may no longer run; True if it was one."""
        refused = objection(self._plane, command)
        if refused is None:
            return False
        reason = note_objection(self._plane, command, refused)
        self._drop(command, State.REJECTED, reason)
        return True

    def _drop(self, command: Command, state: State, reason: str) -> None:
        effects = ends.on_dropped(command, state, reason, self._plane.clock.now())
        self._settler.settle_all(command, effects)

    def _assign(self, command: Command, choice: Choice) -> None:
        number = len(command.attempts) + 1
        fact = subjects.Fact(command.id, number, "assigned")
        body = self.assigned(choice)
        # Folded before it is durable, so that no other agent gets the command meanwhile; it is sent
        # only afterwards.
        if not fold(command, fact, body):
            self._plane.dispatcher.give_back(choice.agent, command.accepted.connection)
            return
        stored = self._plane.facts.append(fact, body)
        stored.add_done_callback(partial(self._on_stored, command, fact))

    def _on_stored(
        self, command: Command, fact: subjects.Fact, stored: "asyncio.Future[int]"
    ) -> None:
        if stored.cancelled():
            return
        error = stored.exception()
        if error is None:
            command.keep_place(subjects.fact(*fact), stored.result())
            self._transmitter.send(command)
        elif isinstance(error, Conflict):
            # Another master has assigned it and sends it.
            log.error("assignment_conflict", command_id=command.id, attempt=fact.attempt)
        else:
            self._take_back(command, fact, error)

    def _take_back(self, command: Command, fact: subjects.Fact, error: BaseException) -> None:
        """Requeue the command: the choice could not be stored, and nothing was sent."""
        log.warning("assignment_refused", command_id=command.id, error=str(error))
        attempt = unfold_assigned(command)
        if attempt is None:
            return
        dispatcher = self._plane.dispatcher
        dispatcher.give_back(attempt.agent, command.accepted.connection)
        dispatcher.enqueue(dispatcher.wish(command.accepted), command.id, first=True)

    def perform(self, command: Command, effects: Iterable[Effect]) -> None:
        """Perform the effects of an event of `command`."""
        self._transmitter.perform(command, effects)

    def _on_requeue(self, command: Command, avoid: str) -> None:
        """Requeue a command whose attempt was refused: try the next agent."""
        dispatcher = self._plane.dispatcher
        wish = dispatcher.wish(command.accepted)
        choice = dispatcher.choose(wish, avoid={avoid, *refusers(command)})
        if choice is not None:
            dispatcher.take(choice.agent, wish.connection, shared=choice.shared)
            self._assign(command, choice)
        else:
            dispatcher.enqueue(wish, command.id, first=True)

    def _on_refused(self, agent: str) -> None:
        """Hold an agent back for a while: it has no room just now, although it should have."""
        self._holds.refuse(agent, self._plane.clock.elapsed())
        self._plane.dispatcher.hold(agent, held=True)

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        while True:
            await asyncio.sleep(_TICK_S)
            self.tick()

    def tick(self) -> None:
        """End waits that are too long; fill slots that a change of status has opened."""
        dispatcher, now_s = self._plane.dispatcher, self._plane.clock.elapsed()
        if now_s >= self._look_due_s:
            self._look(now_s)
            self._look_due_s = now_s + (self._plane.clock.elapsed() - now_s) / _LOOK_PART
        if now_s >= self._rotate_due_s:
            self._rotate_due_s = now_s + PART_S
            dispatcher.rotate_spread()
        for agent in self._holds.ended(now_s):
            dispatcher.hold(agent, held=False)
        if dispatcher.has_waiting:
            dispatcher.requeue_sticky()
            for agent in dispatcher.idle_agents_with_work():
                self.fill(agent)

    def _look(self, now_s: float) -> None:
        now = self._plane.clock.now()
        for command in self._plane.book.waiting():
            if command.id in self._plane.doubtful or self._is_barred(command):
                continue
            if command.cancel_by:
                # Usually ended at once; retried here if the end could not be stored.
                self._settler.settle_all(command, ends.on_cancelled(command, now))
            elif command.start_waiting(now_s=now_s, at=now) <= now_s:
                ttl_s = command.accepted.queue_ttl_s
                self._drop(command, State.EXPIRED, f"no agent took it within {ttl_s:g} s")
        for command in self._plane.book.undecided():
            if command.since + self._plane.timers.decide_s <= now:
                reason = f"{command.reason}; no operator decided in time"
                self._drop(command, State.LOST, reason)
