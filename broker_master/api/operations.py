"""The handler of each verb of the table."""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Protocol, TypeVar

import msgspec

from schemas.faults import MeshError, Refused
from schemas.messages.registry import ClientEntry
from schemas.verbs import VERBS, AnyVerb, Verb

Q = TypeVar("Q", bound=msgspec.Struct)
A = TypeVar("A", bound=msgspec.Struct)

Handler = Callable[[ClientEntry, msgspec.Struct], Awaitable[msgspec.Struct]]
Reply = Callable[[msgspec.Struct | MeshError], None]
# Arguments: client, request, reply, transport (such as `nats`), trace context.
Taker = Callable[[ClientEntry, msgspec.Struct, Reply, str, str], None]


class Operation(msgspec.Struct, frozen=True):
    verb: AnyVerb
    handler: Handler


class Direct(msgspec.Struct, frozen=True):
    """An operation of the hot path, without a coroutine: it replies now or later, or raises."""

    verb: AnyVerb
    taker: Taker


class Operations:
    """The handlers of all verbs; each part of the api adds its own."""

    def __init__(self) -> None:
        self._table: dict[tuple[str, str], Operation | Direct] = {}

    def add(self, verb: Verb[Q, A], handler: Callable[[ClientEntry, Q], Awaitable[A]]) -> None:
        """Let `handler` carry out `verb`; a type checker compares their types."""

        def handle(caller: ClientEntry, request: msgspec.Struct) -> Awaitable[msgspec.Struct]:
            return handler(caller, _checked(verb, request))

        self._enter(Operation(verb, handle))

    def add_direct(
        self,
        verb: Verb[Q, A],
        taker: Callable[[ClientEntry, Q, Callable[[A | MeshError], None], str, str], None],
    ) -> None:
        """Add a handler of the hot path. Such a verb has its own record: it is not audited."""
        if verb.is_audited:
            raise ValueError(f"{verb.name} is audited: it needs a handler")

        def take(
            caller: ClientEntry, request: msgspec.Struct, reply: Reply, source: str, trace: str
        ) -> None:
            taker(caller, _checked(verb, request), reply, source, trace)

        self._enter(Direct(verb, take))

    def _enter(self, operation: Operation | Direct) -> None:
        verb = operation.verb
        if VERBS.get(verb.name) is not verb:
            raise ValueError(f"a handler of {verb.name}, which is not in the table of verbs")
        if (verb.noun, verb.verb) in self._table:
            raise ValueError(f"two handlers of {verb.name}")
        self._table[verb.noun, verb.verb] = operation

    def fill(self, parts: Iterable["Registers"]) -> None:
        """Let each part add its handlers; raise ValueError if any verb is left without one."""
        for part in parts:
            part.register(self)
        missing = [v.name for v in VERBS.values() if (v.noun, v.verb) not in self._table]
        if missing:
            raise ValueError(f"no handler of {', '.join(missing)}")

    def find(self, noun: str, verb: str) -> Operation | Direct:
        operation = self._table.get((noun, verb))
        if operation is None:
            raise Refused("verb_unknown", f"no verb {noun!a}.{verb!a}")
        return operation

    def __iter__(self) -> Iterator[Operation | Direct]:
        return iter(self._table.values())


class Registers(Protocol):
    """A part of the api: adds the handlers of its verbs."""

    def register(self, operations: Operations) -> None: ...


def _checked(verb: Verb[Q, A], request: msgspec.Struct) -> Q:
    if not isinstance(request, verb.request):
        raise TypeError(f"{verb.name} takes a {verb.request.__name__}")
    return request
