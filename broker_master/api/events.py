"""`events.list`."""

from broker_master.api.operations import Operations
from broker_master.services.eventreader import EventReader
from schemas.messages.api import EventList, EventsAnswer
from schemas.messages.registry import ClientEntry
from schemas.verbs import EVENTS_LIST


class EventOperations:
    def __init__(self, reader: EventReader) -> None:
        self._reader = reader

    def register(self, operations: Operations) -> None:
        operations.add(EVENTS_LIST, self.find)

    async def find(self, caller: ClientEntry, wanted: EventList) -> EventsAnswer:
        return await self._reader.read(caller, wanted)
