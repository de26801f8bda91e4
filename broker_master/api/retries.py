"""`command.retry`: submits an ended command again, as a new command of the caller."""

from broker_master.api.operations import Operations
from broker_master.services.retries import Retries
from schemas.messages.api import RetryRequest, SubmitAnswer
from schemas.messages.registry import ClientEntry
from schemas.verbs import COMMAND_RETRY


class RetryOperations:
    def __init__(self, retries: Retries) -> None:
        self._retries = retries

    def register(self, operations: Operations) -> None:
        operations.add(COMMAND_RETRY, self.retry)

    async def retry(self, caller: ClientEntry, request: RetryRequest) -> SubmitAnswer:
        return await self._retries.retry(caller, request.id, request.new_id)
