"""The api over NATS: a service `mesh` that any client of the service protocol can find (ADR-32)."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable
from functools import partial

import msgspec
import structlog

from broker_client.runtime import tracing
from broker_client.runtime.frames import Msg
from broker_client.runtime.rates import TokenBucket
from broker_client.runtime.supervise import TaskSet
from broker_master import VERSION
from broker_master.api.operations import Direct, Operation, Operations, Reply
from broker_master.core.rights import ATTEMPTS, check_right
from broker_master.plane import Plane
from broker_master.services.gate import Gate
from schemas import codec, limits, subjects
from schemas.faults import MeshError, Refused, known_code
from schemas.messages.registry import ClientEntry
from schemas.moments import rfc3339
from schemas.texts import cut_text
from schemas.verbs import VERBS

log = structlog.get_logger()

_NAME = "mesh"
_INBOX = subjects.inbox_prefix("")
_DESCRIPTION = "commands, agents and groups of one mesh"
# Requests under way: most of them wait for a command to end. They have limits of their own, so that
# whoever only asks cannot take the place of others, or of the master's own work.
_REQUESTS_MAX = 4000
_REQUESTS_PER_CLIENT = 1000
# Clients make inboxes of at least so many random characters (22 in those of the NATS project).
_RANDOM_LEN = 16
_DISCOVERIES_PER_S = 10.0
_DISCOVERIES_BURST = 50.0
_DISCOVERERS_MAX = 1000


class _Stats(msgspec.Struct):
    requests: int = 0
    errors: int = 0
    last_error: str = ""
    spent_s: float = 0.0


class NatsApi:
    """Answers only below the caller's own inbox; who the caller is, the subject says."""

    name = "api"

    def __init__(self, plane: Plane, gate: Gate, operations: Operations) -> None:
        self._plane = plane
        self._gate = gate
        self._operations = operations
        self._tasks = TaskSet("api", limit=_REQUESTS_MAX)
        self._under_way: Counter[str] = Counter()
        self._id = secrets.token_hex(8)
        self._started = rfc3339(plane.clock.now())
        # Statistics are kept for verbs that exist only, so that nobody can grow the table.
        self._stats = {f"{noun}.{verb}": _Stats() for noun, verb in self._verbs()}
        self._unknown = _Stats()
        self._discoveries: dict[str, TokenBucket] = {}

    async def run(self, ready: asyncio.Event) -> None:
        link = self._plane.link
        link.subscribe(subjects.API_ALL, self._on_request, "q")
        answers = {"PING": self._ping, "INFO": self._info, "STATS": self._statistics}
        for verb, answer in answers.items():
            for tail in ("", f".{_NAME}", f".{_NAME}.{self._id}"):
                link.subscribe(f"$SRV.{verb}{tail}", partial(self._discover, answer))
        await link.flush()
        ready.set()
        try:
            await asyncio.Event().wait()
        finally:
            await self._tasks.aclose(0)

    # -- requests

    def _on_request(self, msg: Msg) -> None:
        api = subjects.parse_api(msg.subject)
        if api is None or not msg.reply:
            return
        if not msg.reply.startswith(subjects.inbox_prefix(api.client) + "."):
            # An answer there could reach somebody else: the broker lets masters publish anywhere.
            self._plane.count("reply_forbidden")
            self._note_refusal(api, Refused("reply_forbidden", "an answer to somebody else"))
            return
        stats = self._stats.get(_key(api), self._unknown)
        stats.requests += 1
        self._gate.guard(
            api.client,
            len(msg.data),
            partial(self._begin, api, msg, stats),
            lambda error: self._refuse(msg.reply, error, stats),
        )

    def _begin(self, api: subjects.Api, msg: Msg, stats: _Stats) -> None:
        try:
            caller = self._caller(api.client)
            check_right(caller, api.noun, api.verb)
            operation = self._operations.find(api.noun, api.verb)
            request = codec.decode_request(operation.verb.request, msg.data)
            if isinstance(operation, Direct):
                trace = tracing.of_headers(msg.headers) if msg.raw_headers else ""
                reply = self._reply_to(msg.reply, stats, api)
                operation.taker(caller, request, reply, "nats", trace)
                return
            if self._under_way[caller.name] >= _REQUESTS_PER_CLIENT:
                count = self._under_way[caller.name]
                raise Refused("rate_limited", f"{caller.name} has {count} requests under way")
            _ = self._tasks.spawn(self._serve(operation, caller, request, msg.reply, stats))
            self._under_way[caller.name] += 1
        except MeshError as error:
            self._refuse(msg.reply, error, stats)
            self._note_refusal(api, error)

    def _note_refusal(self, api: subjects.Api, error: MeshError) -> None:
        """Whoever tries what he may not do is worth an entry in the audit trail."""
        if error.code in ATTEMPTS:
            self._plane.note(
                f"{api.noun}.{api.verb}",
                by=api.client,
                actor="client",
                result="refused",
                code=error.code,
                detail=error.message,
            )

    def _caller(self, name: str) -> ClientEntry:
        caller = self._plane.registry.clients.get(name)
        if caller is None:
            raise Refused("client_disabled", f"no client {name}")
        return caller

    async def _serve(
        self,
        operation: Operation,
        caller: ClientEntry,
        request: msgspec.Struct,
        reply: str,
        stats: _Stats,
    ) -> None:
        began_s = self._plane.clock.elapsed()
        try:
            answer = await operation.handler(caller, request)
        except MeshError as error:
            self._refuse(reply, error, stats)
        except Exception:
            # The one place where a mistake of ours becomes an answer instead of a silence.
            log.exception("request_failed", verb=operation.verb.name, client=caller.name)
            self._refuse(reply, MeshError("internal", "the request failed; see the log"), stats)
        else:
            self._give(reply, answer, stats)
        finally:
            self._under_way[caller.name] -= 1
        stats.spent_s += self._plane.clock.elapsed() - began_s

    def _reply_to(self, reply: str, stats: _Stats, api: subjects.Api) -> Reply:
        def answer(result: msgspec.Struct | MeshError) -> None:
            if isinstance(result, MeshError):
                self._refuse(reply, result, stats)
                self._note_refusal(api, result)
            else:
                self._give(reply, result, stats)

        return answer

    def _give(self, reply: str, answer: msgspec.Struct, stats: _Stats) -> None:
        """Send an answer; one that is too large for a message is a fault, never a silence."""
        payload = codec.encode(answer)
        if len(payload) <= limits.BROKER_PAYLOAD_BYTES:
            self._publish(reply, payload)
            return
        log.error("answer_too_large", kind=type(answer).__name__, size_bytes=len(payload))
        fault = Refused("too_large", f"the answer has {len(payload)} bytes: ask for less at a time")
        self._refuse(reply, fault, stats)

    def _refuse(self, reply: str, error: MeshError, stats: _Stats) -> None:
        stats.errors += 1
        stats.last_error = f"{error.kind.number}:{error.code}"
        self._plane.count("refused", known_code(error.code))
        body = error.body()
        body = msgspec.structs.replace(body, message=cut_text(body.message))
        headers = {
            "Nats-Service-Error": error.headline,
            "Nats-Service-Error-Code": str(error.kind.number),
        }
        self._publish(reply, codec.encode(body), headers)

    def _publish(self, reply: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        try:
            self._plane.link.publish_nowait(reply, payload, headers=headers)
        except MeshError:
            # The client asks again; a submit with the same id is the same command.
            self._plane.count("publish_failed", "answer")

    # -- discovery

    def _discover(self, answer: Callable[[], dict[str, object]], msg: Msg) -> None:
        """Answer into the inbox of a client, if it is a random one and not too often.

        The subject does not say who asks. An inbox that nobody can guess is known to its owner
        alone, so a stranger reaches no subscription of another client with it.
        """
        inbox, _, token = msg.reply.partition(".")
        name = inbox.removeprefix(_INBOX)
        if not inbox.startswith(_INBOX) or name not in self._plane.registry.clients:
            return
        if len(token.partition(".")[0]) < _RANDOM_LEN or not self._may_discover(name):
            self._plane.count("discovery_refused")
            return
        self._publish(msg.reply, msgspec.json.encode(answer()))

    def _may_discover(self, name: str) -> bool:
        if name not in self._discoveries and len(self._discoveries) >= _DISCOVERERS_MAX:
            self._discoveries.clear()
        bucket = self._discoveries.setdefault(
            name, TokenBucket(per_s=_DISCOVERIES_PER_S, burst=_DISCOVERIES_BURST)
        )
        return bucket.take(self._plane.clock.elapsed())

    def _identity(self, kind: str) -> dict[str, object]:
        return {
            "type": f"io.nats.micro.v1.{kind}_response",
            "name": _NAME,
            "id": self._id,
            "version": VERSION,
            "metadata": {"mesh": self._plane.mesh, "protocol": "v1"},
        }

    def _ping(self) -> dict[str, object]:
        return self._identity("ping")

    def _info(self) -> dict[str, object]:
        endpoints = [
            {
                "name": f"{noun}-{verb}",
                "subject": subjects.api("*", noun, verb),
                "queue_group": "q",
                "metadata": {"content-type": "application/msgpack"},
            }
            for noun, verb in self._verbs()
        ]
        return {**self._identity("info"), "description": _DESCRIPTION, "endpoints": endpoints}

    def _statistics(self) -> dict[str, object]:
        endpoints = []
        for noun, verb in self._verbs():
            stats = self._stats[f"{noun}.{verb}"]
            spent_ns = int(stats.spent_s * 1e9)
            endpoints.append(
                {
                    "name": f"{noun}-{verb}",
                    "subject": subjects.api("*", noun, verb),
                    "queue_group": "q",
                    "num_requests": stats.requests,
                    "num_errors": stats.errors,
                    "last_error": stats.last_error,
                    "processing_time": spent_ns,
                    "average_processing_time": spent_ns // max(1, stats.requests),
                }
            )
        return {**self._identity("stats"), "started": self._started, "endpoints": endpoints}

    def _verbs(self) -> list[tuple[str, str]]:
        return [(each.noun, each.verb) for each in VERBS.values()]


def _key(api: subjects.Api) -> str:
    return f"{api.noun}.{api.verb}"
