"""Cancels commands, wherever they are."""

import asyncio

from broker_master.core.book import Command, fold
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
        """Record the wish and carry it out as far as possible now. False: it was cancelled before.

        A silent agent is told with its next handshake. Raises Refused (`command_ended`).
        """
        if command.is_terminal:
            raise Refused("command_ended", f"command {command.id} has {command.state}")
        if command.cancel_by:
            return False
        fact = subjects.Fact(command.id, 0, "cancel")
        body = CancelAsked(by=by, at=self._plane.clock.now())
        stored = self._plane.facts.append(fact, body)
        sequence = await asyncio.shield(stored)
        command.facts[subjects.fact(*fact)] = sequence
        fold(command, fact, body)
        self.carry_out(command)
        return True

    async def decide(self, command: Command, what: str, by: str) -> None:
        """Carry out an operator's word on a command whose attempt is lost: `fail` or `rerun`."""
        attempt = command.attempt
        number = attempt.number if attempt is not None else 0
        fact = subjects.Fact(command.id, number, "decided")
        body = Decided(by=by, at=self._plane.clock.now(), what=what)
        sequence = await asyncio.shield(self._plane.facts.append(fact, body))
        command.facts[subjects.fact(*fact)] = sequence
        fold(command, fact, body)
        if what == "rerun":
            self._settler.on_requeue(command, "")
        else:
            self._settler.end_unassigned(
                command, State.LOST, f"{command.reason}; accepted as failed by {by}"
            )

    def carry_out(self, command: Command) -> None:
        """Do what a recorded cancel asks for, if it can be done now; again after a restart."""
        if command.is_terminal or command.settling:
            return
        attempt = command.open_attempt
        if attempt is None:
            self._settler.end_unassigned(
                command, State.CANCELLED, f"cancelled by {command.cancel_by}"
            )
        elif attempt.state in (State.ACCEPTED, State.RUNNING, State.SENT) and attempt.sent:
            if attempt.state is not State.SENT:
                command.move(attempt, State.STOPPING, self._plane.clock.now())
            self._transmitter.cancel(command, attempt)
