"""The API over NATS: a service `mesh` that any client of the service protocol can find.

Only NATS is here: subjects and inboxes in, payloads and headers out. The door decides everything
else about a call.
"""

import asyncio
from functools import lru_cache, partial
from typing import Final

import msgspec
import structlog

from broker_client.runtime import tracing
from broker_client.runtime.frames import Msg
from broker_master.api.discovery import Answer, Discovery
from broker_master.api.door import Call, Door
from broker_master.plane import Plane
from broker_master.services.gate import Gate
from schemas import codec, limits, subjects
from schemas.answers import fault_answer
from schemas.faults import MeshError, Refused

log = structlog.get_logger()

# Subjects in the cache: a flood of them costs less.
_SUBJECTS: Final = 4096
_parse: Final = lru_cache(maxsize=_SUBJECTS)(subjects.parse_api)
_INBOX: Final = subjects.inbox_prefix("")
# Clients make inboxes of at least so many random characters (22 in those of the NATS project).
_RANDOM_LEN: Final = 16


class NatsApi:
    """Answers only below the caller's own inbox; the subject names the caller."""

    name = "api"

    def __init__(self, plane: Plane, gate: Gate, door: Door) -> None:
        self._plane = plane
        self._gate = gate
        self._door = door
        self._discovery = Discovery(plane.master.mesh, plane.clock.now(), door.stats)

    async def run(self, ready: asyncio.Event) -> None:
        link = self._plane.link
        link.subscribe(subjects.API_ALL, self._on_request, "q")
        for subject, answer in self._discovery.answers().items():
            link.subscribe(subject, partial(self._discover, answer))
        await link.flush()
        ready.set()
        await asyncio.Event().wait()

    def _on_request(self, msg: Msg) -> None:
        api = _parse(msg.subject)
        if api is None or not msg.reply:
            return
        if not msg.reply.startswith(subjects.inbox_prefix(api.client) + "."):
            # Masters may publish anywhere: an answer to another inbox could reach another client.
            fault = Refused("reply_forbidden", "the reply subject is not below the caller's inbox")
            if self._door.bar(api.client, f"{api.noun}.{api.verb}", fault):
                self._plane.count("reply_forbidden")
            return
        call = Call(
            client=api.client,
            noun=api.noun,
            verb=api.verb,
            payload=msg.data,
            reply=partial(self._reply, msg.reply, api),
            source="nats",
            trace=tracing.of_headers(msg.headers) if msg.raw_headers else "",
        )
        self._door.take(call, self._gate.prove)

    def _reply(self, inbox: str, api: subjects.Api, result: msgspec.Struct | MeshError) -> None:
        """Send an answer or a fault; an answer that is too large is a fault, never a silence."""
        if isinstance(result, MeshError):
            self._refuse(inbox, result)
            return
        payload = codec.encode(result)
        size_bytes = len(payload)
        if size_bytes <= limits.BROKER_PAYLOAD_BYTES:
            self._publish(inbox, payload)
            return
        log.error("answer_too_large", kind=type(result).__name__, size_bytes=size_bytes)
        fault = Refused("too_large", f"the answer has {size_bytes} bytes: ask for less at a time")
        self._door.count_fault(api.noun, api.verb, fault)
        self._refuse(inbox, fault)

    def _refuse(self, inbox: str, error: MeshError) -> None:
        payload, headers = fault_answer(error)
        self._publish(inbox, payload, headers)

    def _publish(self, inbox: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        try:
            self._plane.link.publish_nowait(inbox, payload, headers=headers)
        except MeshError:
            # The client retries; a submit with the same id is the same command.
            self._plane.count("publish_failed", "answer")

    def _discover(self, answer: Answer, msg: Msg) -> None:
        """Answer into a client's inbox if its name is random and the rate limit allows.

        The subject does not name the client. Only its owner knows a random inbox, so no peer
        reaches a subscription of another client with it.
        """
        inbox, _, token = msg.reply.partition(".")
        name = inbox.removeprefix(_INBOX)
        if not inbox.startswith(_INBOX) or name not in self._plane.registry.clients:
            return
        if len(token.partition(".")[0]) < _RANDOM_LEN or not self._door.admits_look(name):
            self._plane.count("discovery_refused")
            return
        self._publish(msg.reply, msgspec.json.encode(answer()))
