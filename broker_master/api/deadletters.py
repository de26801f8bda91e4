"""`deadletter.*`: commands that no agent has acknowledged, kept with their arguments."""

import msgspec

from broker_master.api.commands import CommandOperations
from broker_master.api.operations import Operations
from broker_master.plane import Plane
from broker_master.services.retries import Retries
from schemas.faults import Refused
from schemas.messages.api import (
    CommandList,
    CommandPage,
    CommandQuery,
    RetryRequest,
    SubmitAnswer,
)
from schemas.messages.facts import CommandRecord
from schemas.messages.registry import ClientEntry
from schemas.states import State
from schemas.verbs import DEADLETTER_LIST, DEADLETTER_RETRY, DEADLETTER_SHOW


class DeadLetterOperations:
    def __init__(self, plane: Plane, commands: CommandOperations, retries: Retries) -> None:
        self._plane = plane
        self._commands = commands
        self._retries = retries

    def register(self, operations: Operations) -> None:
        operations.add(DEADLETTER_LIST, self.find)
        operations.add(DEADLETTER_SHOW, self.show)
        operations.add(DEADLETTER_RETRY, self.retry)

    async def find(self, caller: ClientEntry, wanted: CommandList) -> CommandPage:
        only = msgspec.structs.replace(wanted, state=str(State.UNDELIVERABLE))
        return await self._commands.find(caller, only)

    async def show(self, caller: ClientEntry, query: CommandQuery) -> CommandRecord:
        record = await self._commands.show(caller, query)
        if record.state != State.UNDELIVERABLE:
            raise Refused("command_unknown", f"no dead letter {query.id}")
        return record

    async def retry(self, caller: ClientEntry, request: RetryRequest) -> SubmitAnswer:
        """Submit a dead letter again as a new command of the caller; it stays in the list."""
        await self.show(caller, CommandQuery(id=request.id))
        return await self._retries.retry(caller, request.id, request.new_id)
