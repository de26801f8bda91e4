"""The door of the API: every call passes it, over each transport.

    call ─▶ shut out? ─▶ room ─▶ proof ─▶ turn ─▶ client ─▶ right ─▶ verb ─▶ request ─▶ limits ─▶
    handler ─▶ reply

Refused calls are counted; a forbidden attempt leaves an entry in the audit trail, and so does each
call of a verb that changes something. A transport (NATS, later HTTP) authenticates the client,
makes a `Call` of its message, and encodes the reply. All its limits are those of the door, and one
client's are the same over all transports.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
import structlog

from broker_client.runtime.rates import TokenBucket
from broker_client.runtime.supervise import TaskSet
from broker_master.api.audit import AuditTrail
from broker_master.api.near import NearNames
from broker_master.api.operations import Direct, Operation, Operations
from broker_master.core.rights import ATTEMPTS, check_right
from broker_master.plane import Plane
from broker_master.services.turns import Turns, Word
from schemas import codec
from schemas.faults import MeshError, Refused, known_code
from schemas.messages.registry import ClientEntry
from schemas.verbs import VERBS

log = structlog.get_logger()

# Concurrent calls: most of them wait for a command to end. They have limits of their own, so that
# readers cannot take the place of others, or of the master's own work.
_CALLS_MAX: Final = 4000
_CALLS_PER_CLIENT: Final = 1000
_LOOKS_PER_S: Final = 10.0
_LOOKS_BURST: Final = 50.0
_LOOKERS_MAX: Final = 1000


Prove = Callable[[Word], None]


class Stats(msgspec.Struct):
    """Counts of one verb since the start. last_error: number and code of the last fault."""

    requests: int = 0
    errors: int = 0
    last_error: str = ""
    spent_s: float = 0.0


def _nothing() -> None:
    """Leave a call without a reply: the transport's client has a timeout."""


class Call(msgspec.Struct, frozen=True):
    """One call. client: its name, authenticated by the transport. payload: the request in msgpack.

    reply: takes the answer or the fault, once. source: the transport, such as `nats`. trace: a
    checked trace context, or nothing. drop: called once in place of `reply` if even a fault costs
    too much.
    """

    client: str
    noun: str
    verb: str
    payload: bytes
    reply: Callable[[msgspec.Struct | MeshError], None]
    source: str
    trace: str = ""
    drop: Callable[[], object] = _nothing

    @property
    def name(self) -> str:
        return f"{self.noun}.{self.verb}"


class Door:
    """Runs calls; each is an asyncio task that ends with the door."""

    name = "door"

    def __init__(
        self, plane: Plane, operations: Operations, trail: AuditTrail, turns: Turns
    ) -> None:
        self._plane = plane
        self._operations = operations
        self._trail = trail
        self._turns = turns
        self._tasks = TaskSet("api", limit=_CALLS_MAX)
        self._near = NearNames(plane)
        self._under_way: Counter[str] = Counter()
        # Only verbs of the table have a row, so that no client can make the table grow.
        self.stats = {name: Stats() for name in VERBS}
        self._unknown = Stats()
        self._looks: dict[str, TokenBucket] = {}

    async def run(self, ready: asyncio.Event) -> None:
        await self._tasks.serve(ready)

    # -- calls

    def take(self, call: Call, prove: Prove | None = None) -> None:
        """Run or refuse a call, or drop it.

        prove: admits the call once the connections of its client are proved; without it they are
        proved already.
        """
        if self._is_shut_out(call.client):
            call.drop()
            return
        word = self._turns.add(
            call.client,
            len(call.payload),
            partial(self._run, call),
            partial(self._turn_away, call),
            call.drop,
        )
        if word is not None:
            (prove or self._turns.admit)(word)

    def bar(self, client: str, action: str, error: MeshError) -> bool:
        """Refuse a call that no reply can be sent to; False if its client is shut out anyway."""
        if self._is_shut_out(client):
            return False
        self._note_attempt(client, action, error)
        return True

    def _is_shut_out(self, client: str) -> bool:
        is_out = client in self._plane.shut_out
        if is_out:
            self._plane.count("shed", "rate")
        return is_out

    def _run(self, call: Call) -> None:
        stats = self._stats_of(call)
        stats.requests += 1
        try:
            self._begin(call, stats)
        except MeshError as error:
            self._refuse(call, error)

    def _turn_away(self, call: Call, error: MeshError) -> None:
        """Reply with a fault to a call whose client is not proved; no audit entry."""
        self._stats_of(call).requests += 1
        self._fail(call, error)

    def _begin(self, call: Call, stats: Stats) -> None:
        caller = self._plane.registry.clients.get(call.client)
        if caller is None:
            raise Refused("client_disabled", f"no client {call.client}")
        check_right(caller, call.noun, call.verb)
        operation = self._operations.find(call.noun, call.verb)
        request = codec.decode_request(operation.verb.request, call.payload)
        if isinstance(operation, Direct):
            reply = partial(self._answer, call)
            operation.taker(caller, request, reply, call.source, call.trace)
            return
        count = self._under_way[caller.name]
        if count >= _CALLS_PER_CLIENT:
            raise Refused("rate_limited", f"{caller.name} has {count} requests under way")
        _ = self._tasks.spawn(self._serve(operation, caller, request, call, stats))
        self._under_way[caller.name] += 1

    async def _serve(
        self,
        operation: Operation,
        caller: ClientEntry,
        request: msgspec.Struct,
        call: Call,
        stats: Stats,
    ) -> None:
        began_s = self._plane.clock.elapsed()
        try:
            answer = await self._carry_out(operation, caller, request)
        except MeshError as error:
            self._fail(call, error)
        except Exception:
            # Boundary: a programming error becomes an answer instead of silence.
            log.exception("request_failed", verb=call.name, client=caller.name)
            self._fail(call, MeshError("internal", "the request failed; see the log"))
        else:
            call.reply(answer)
        finally:
            self._under_way[caller.name] -= 1
        stats.spent_s += self._plane.clock.elapsed() - began_s

    async def _carry_out(
        self, operation: Operation, caller: ClientEntry, request: msgspec.Struct
    ) -> msgspec.Struct:
        if operation.verb.is_audited:
            return await self._trail.audited(operation, caller, request)
        return await operation.handler(caller, request)

    # -- outcomes

    def _answer(self, call: Call, result: msgspec.Struct | MeshError) -> None:
        if isinstance(result, MeshError):
            self._refuse(call, result)
        else:
            call.reply(result)

    def _refuse(self, call: Call, error: MeshError) -> None:
        """Refuse a call before its handler runs; note a forbidden attempt in the audit trail."""
        self._fail(call, error)
        self._note_attempt(call.client, call.name, error)

    def _fail(self, call: Call, error: MeshError) -> None:
        self.count_fault(call.noun, call.verb, error)
        call.reply(self._near.extend(call.client, error))

    def count_fault(self, noun: str, verb: str, error: MeshError) -> None:
        """Count a fault that the transport itself replies with."""
        stats = self.stats.get(f"{noun}.{verb}", self._unknown)
        stats.errors += 1
        stats.last_error = f"{error.kind.number}:{error.code}"
        self._plane.count("refused", known_code(error.code))

    def _note_attempt(self, client: str, action: str, error: MeshError) -> None:
        """Enter a forbidden attempt in the audit trail."""
        if error.code in ATTEMPTS:
            self._plane.note(
                action,
                by=client,
                actor="client",
                result="refused",
                code=error.code,
                detail=error.message,
            )

    def _stats_of(self, call: Call) -> Stats:
        return self.stats.get(call.name, self._unknown)

    # -- service discovery

    def admits_look(self, client: str) -> bool:
        """Whether a client is within the rate limit of service discovery."""
        if client not in self._looks and len(self._looks) >= _LOOKERS_MAX:
            self._looks.clear()
        bucket = self._looks.setdefault(client, TokenBucket(per_s=_LOOKS_PER_S, burst=_LOOKS_BURST))
        return bucket.take(self._plane.clock.elapsed())
