"""`command.retry`: submits an ended command again, as a new command of the caller."""

from broker_master.api.operations import Operations
from broker_master.services.again import Again
from schemas.messages.api import RetryRequest, SubmitAnswer
from schemas.messages.registry import ClientEntry
from schemas.verbs import COMMAND_RETRY


class AgainOperations:
    def __init__(self, again: Again) -> None:
        self._again = again

    def register(self, operations: Operations) -> None:
        operations.add(COMMAND_RETRY, self.retry)

    async def retry(self, caller: ClientEntry, request: RetryRequest) -> SubmitAnswer:
        return await self._again.retry(caller, request.id, request.new_id)
