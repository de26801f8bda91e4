"""Requests of a client to the master: any verb of the table."""

from typing import TypeVar, overload

import msgspec

from broker_client.asking import Asker
from broker_client.runtime.supervise import TaskSet
from schemas.verbs import AnyVerb, Verb

M = TypeVar("M")
Q = TypeVar("Q", bound=msgspec.Struct)
A = TypeVar("A", bound=msgspec.Struct)


class Calls:
    """Calls any verb of the mesh. tasks: of readers of output."""

    def __init__(self, asker: Asker, tasks: TaskSet) -> None:
        self._asker = asker
        self._tasks = tasks

    @overload
    async def ask(self, noun: Verb[Q, A], verb: Q) -> A: ...

    @overload
    async def ask(self, noun: str, verb: str, request: msgspec.Struct, kind: type[M]) -> M: ...

    async def ask(
        self,
        noun: AnyVerb | str,
        verb: msgspec.Struct | str,
        request: msgspec.Struct | None = None,
        kind: type[object] = object,
    ) -> object:
        """Call any verb of docs/protocol.md: `ask(AGENT_SHOW, NameQuery(name="web-1"))`.

        The verbs are in `schemas.verbs`, each with the types of its request and its answer. A verb
        of a newer mesh is called by its names, `ask("agent", "show", request, kind)`. There is no
        retry: after Unreachable with effect `unknown`, check the state before calling again.
        """
        if isinstance(noun, AnyVerb) and isinstance(verb, msgspec.Struct):
            return await self._asker.ask_named(noun.noun, noun.verb, verb, noun.answer)
        if isinstance(noun, str) and isinstance(verb, str) and request is not None:
            return await self._asker.ask_named(noun, verb, request, kind)
        raise TypeError("ask(VERB, request) or ask(noun, verb, request, kind)")

    async def ask_until_answered(self, verb: Verb[Q, A], request: Q) -> A:
        """As `ask`, for reads and other idempotent requests: retried without an answer.

        Raises Unreachable after a minute without an answer.
        """
        return await self._asker.ask_until_answered(verb, request)
