"""Which verbs there are: the request each takes and who carries it out."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec

from schemas.faults import Refused
from schemas.messages.registry import ClientEntry
from schemas.permissions import is_audited

Handler = Callable[[ClientEntry, Any], Awaitable[msgspec.Struct]]


class Operation(msgspec.Struct, frozen=True):
    noun: str
    verb: str
    request: type[msgspec.Struct]
    handler: Handler


Wrap = Callable[[str, str, Handler], Handler]


class Operations:
    """The table of verbs; each part of the api adds its own.

    audited: what each changing verb's handler is replaced by, whichever way it is called.
    """

    def __init__(self, audited: Wrap = lambda _noun, _verb, handler: handler) -> None:
        self._table: dict[tuple[str, str], Operation] = {}
        self._audited = audited

    def add(self, noun: str, verb: str, request: type[msgspec.Struct], handler: Handler) -> None:
        if is_audited(noun, verb):
            handler = self._audited(noun, verb, handler)
        self._table[noun, verb] = Operation(noun, verb, request, handler)

    def find(self, noun: str, verb: str) -> Operation:
        operation = self._table.get((noun, verb))
        if operation is None:
            raise Refused("verb_unknown", f"no verb {noun!a}.{verb!a}")
        return operation

    def __iter__(self) -> Iterator[Operation]:
        return iter(self._table.values())
