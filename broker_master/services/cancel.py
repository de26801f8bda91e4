"""Cancels commands, wherever they are."""

import asyncio

from broker_master.core.book import Command, fold
from broker_master.plane import Plane
from broker_master.services.settle import Settler
from broker_master.services.transmit import Transmitter
from schemas import subjects
from schemas.faults import Refused
from schemas.messages.facts import CancelAsked
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
