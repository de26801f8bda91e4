"""Cancels commands in any state."""

import asyncio

from broker_master.core import attempts, ends
from broker_master.core.commands import Command
from broker_master.core.fold import fold
from broker_master.plane import Plane
from broker_master.services.settle import Settler
from broker_master.services.transmit import Transmitter
from schemas import subjects
from schemas.faults import Refused
from schemas.messages.facts import CancelAsked, Decided
from schemas.states import State


class Canceller:
    def __init__(self, plane: Plane, settler: Settler, transmitter: Transmitter) -> None:
        self._plane = plane
        self._settler = settler
        self._transmitter = transmitter

    async def cancel(self, command: Command, by: str) -> bool:
        """Record a cancel and carry it out as far as possible now. False: it was cancelled before.

        A silent agent gets it with its next handshake. Raises Refused (`command_ended`).
        """
        if command.is_terminal:
            raise Refused("command_ended", f"command {command.id} has {command.state}")
        if command.cancel_by:
            return False
        fact = subjects.Fact(command.id, 0, "cancel")
        body = CancelAsked(by=by, at=self._plane.clock.now())
        stored = self._plane.facts.append(fact, body)
        sequence = await asyncio.shield(stored)
        command.keep_place(subjects.fact(*fact), sequence)
        fold(command, fact, body)
        self.carry_out(command)
        return True

    async def decide(self, command: Command, what: str, by: str) -> None:
        """Carry out an operator's decision on a command whose attempt is lost: `fail` or `rerun`.

        Raises Refused (`not_undecided`) if the command waits for none.
        """
        clock, attempt = self._plane.clock, command.attempt
        if not attempts.on_word(command, clock.now()):
            raise Refused("not_undecided", f"command {command.id} is {command.state}")
        fact = subjects.Fact(command.id, attempt.number if attempt is not None else 0, "decided")
        body = Decided(by=by, at=clock.now(), what=what)
        try:
            sequence = await asyncio.shield(self._plane.facts.append(fact, body))
        finally:
            _ = ends.on_not_stored(command)
        command.keep_place(subjects.fact(*fact), sequence)
        if fold(command, fact, body):
            self._settler.on_requeue(command, "")
        if what == "fail":
            reason = f"{command.reason}; accepted as failed by {by}"
            effects = ends.on_dropped(command, State.LOST, reason, clock.now())
            self._settler.settle_all(command, effects)

    def carry_out(self, command: Command) -> None:
        """Carry out a recorded cancel if possible now; repeated after a restart."""
        effects = attempts.on_cancel(command, self._plane.clock.now())
        self._transmitter.perform(command, effects)
