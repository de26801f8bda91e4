"""Submits an ended command again: the same body, a new id, rights as at any submission."""

from broker_master.core.rights import check_group
from broker_master.plane import Plane
from broker_master.services.intake import Intake, answered
from schemas.faults import Refused
from schemas.messages.api import SubmitAnswer
from schemas.messages.facts import Accepted
from schemas.messages.registry import ClientEntry


class Retries:
    def __init__(self, plane: Plane, intake: Intake) -> None:
        self._plane = plane
        self._intake = intake

    async def retry(self, caller: ClientEntry, id: str, new_id: str | None) -> SubmitAnswer:
        """Durable when this answers. The new command is the caller's; the old one stays.

        Raises Refused: `command_unknown`, `command_open`, `body_not_kept`, or a refusal of the
        submission.
        """
        before = await self._accepted(caller, id)
        return await answered(
            lambda answer: self._intake.take_again(caller, before, new_id, answer)
        )

    async def _accepted(self, caller: ClientEntry, id: str) -> Accepted:
        command = self._plane.book.get(id)
        if command is not None:
            check_group(caller, command.accepted.group)
            if not command.is_terminal:
                raise Refused("command_open", f"command {id} is {command.state}")
            return command.accepted
        history = await self._plane.readmodel.get(id)
        if history is None:
            if id in self._plane.fanouts.ids:
                raise Refused("command_unknown", f"{id} is a fan-out: see mesh fanout retry")
            raise Refused("command_unknown", f"no command {id}")
        check_group(caller, history.record.group)
        if history.accepted is None:
            why = "it was too large, or it ended before history kept any"
            raise Refused("body_not_kept", f"command {id} has no body any more: {why}")
        return history.accepted
