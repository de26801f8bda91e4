"""The streams of the mesh, and the facts in them."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import structlog

from broker_client.runtime.batch import BatchEntry, BatchWriter
from broker_client.runtime.stream_answers import SequenceConflict as Conflict
from broker_client.runtime.stream_config import Republish, StreamConfig, StreamInfo
from broker_client.runtime.stream_pages import Stored
from broker_client.runtime.streams import Streams
from broker_master.core.strays import Strays
from broker_master.settings import MasterSettings
from schemas import codec, limits, subjects
from schemas.faults import MeshError, Refused
from schemas.messages.facts import FACTS, Accepted, Fact, Outcome
from schemas.spans import DAY_S
from schemas.states import STATES

__all__ = [
    "AUDIT",
    "EVENTS",
    "FANOUTS",
    "HISTORY",
    "INPUT",
    "LOGS",
    "REGISTRY",
    "Conflict",
    "FactStore",
    "stream_configs",
]

log = structlog.get_logger()

EVENTS: Final = "MESH_EVENTS"
HISTORY: Final = "MESH_HISTORY"
LOGS: Final = "MESH_LOGS"
AUDIT: Final = "MESH_AUDIT"
INPUT: Final = "MESH_INPUT"
REGISTRY: Final = "mesh_registry"
FANOUTS: Final = "mesh_fanouts"

_TAKEN_MAX: Final = 4096


def stream_configs(settings: MasterSettings) -> list[StreamConfig]:
    """Configuration of the streams. Facts and history refuse when full; output drops the oldest."""
    replicas, retention = settings.broker.replicas, settings.retention
    return [
        StreamConfig(
            name=EVENTS,
            subjects=(subjects.FACT_ALL,),
            max_bytes=settings.limits.event_bytes,
            max_msg_size=limits.BROKER_PAYLOAD_BYTES,
            replicas=replicas,
            allow_atomic=True,
        ),
        StreamConfig(
            name=HISTORY,
            subjects=(subjects.HISTORY_ALL,),
            max_age_s=retention.history_days * DAY_S,
            max_msg_size=limits.BROKER_PAYLOAD_BYTES,
            replicas=replicas,
            allow_atomic=True,
        ),
        StreamConfig(
            name=LOGS,
            subjects=(subjects.LOG_ALL,),
            max_bytes=settings.limits.log_bytes,
            max_age_s=retention.output_days * DAY_S,
            max_msg_size=limits.PAYLOAD_BYTES,
            replicas=replicas,
            discard_new=False,
            # The only stream that members publish to. Its notices of stored messages go to a
            # subject that is fixed here, so that no publisher can steer them.
            no_ack=True,
            republish=Republish(source=subjects.LOG_ALL, destination=subjects.STORED_OF_LOG),
        ),
        # Staged inputs, until their commands have ended; refuses when full.
        StreamConfig(
            name=INPUT,
            subjects=(subjects.INPUT_ALL,),
            max_bytes=settings.limits.input_bytes,
            max_age_s=retention.input_s,
            max_msgs_per_subject=1,
            max_msg_size=limits.PAYLOAD_BYTES,
            replicas=replicas,
        ),
        # Written once: nothing in it can be deleted or purged before its time.
        StreamConfig(
            name=AUDIT,
            subjects=(subjects.AUDIT_ALL,),
            max_age_s=retention.audit_days * DAY_S,
            max_msg_size=limits.PAYLOAD_BYTES,
            replicas=replicas,
            deny_delete=True,
            deny_purge=True,
        ),
    ]


class FactStore:
    """Writes facts by group commit and reads them back."""

    def __init__(self, streams: Streams, writer: BatchWriter, strays: Strays | None = None) -> None:
        self._streams = streams
        self._writer = writer
        self._strays = strays or Strays()
        # Unreadable entries in the place of a fact: such a place may be written.
        self._taken: OrderedDict[str, int] = OrderedDict()

    def append(self, fact: subjects.Fact, body: Fact) -> "asyncio.Future[int]":
        """Write the first and only fact of its kind for this attempt.

        The future gives its sequence once it is durable. It fails with Conflict if there is one
        already, or with Refused (`store_full`, `queue_full`); in both cases nothing was written.
        """
        try:
            subject = subjects.fact(*fact)
            return self._writer.append(subject, codec.encode(body), self._taken.get(subject, 0))
        except MeshError as error:
            return _failed(error)

    def append_many(
        self, facts: Sequence[tuple[subjects.Fact, Fact]]
    ) -> "asyncio.Future[list[int]]":
        """Write facts together, all or none; see `append`."""
        entries = [
            BatchEntry(subject, codec.encode(body), self._taken.get(subject, 0))
            for subject, body in ((subjects.fact(*fact), body) for fact, body in facts)
        ]
        try:
            return self._writer.append_many(entries)
        except MeshError as error:
            return _failed(error)

    @property
    def appended_bytes(self) -> int:
        """Approximate bytes handed over to be written so far."""
        return self._writer.appended_bytes

    async def rewrite(self, subject: str, payload: bytes, expected: int) -> int:
        """Write a fact again at the head, if its newest copy still is at sequence `expected`."""
        return await self._writer.append(subject, payload, expected)

    async def payload_at(self, sequence: int) -> bytes | None:
        page = await self._streams.read_from(EVENTS, sequence, batch=1)
        if not page.messages or page.messages[0].seq != sequence:
            return None
        return page.messages[0].data

    async def read(self, fact: subjects.Fact) -> tuple[int, Fact] | None:
        """The stored fact with its sequence.

        None also for an unreadable entry; then `append` overwrites it.
        """
        stored = await self._streams.get_last(EVENTS, subjects.fact(*fact))
        if stored is None:
            return None
        body = self._decode(stored)
        return None if body is None else (stored.seq, body[1])

    async def replay(self) -> AsyncIterator[tuple[subjects.Fact, Fact, int]]:
        """All facts in order. An unreadable one is noted and left out."""
        async for stored in self._streams.replay(EVENTS):
            found = self._decode(stored)
            if found is not None:
                yield *found, stored.seq

    def _decode(self, stored: Stored) -> tuple[subjects.Fact, Fact] | None:
        fact = subjects.parse_fact(stored.subject)
        try:
            if fact is None:
                raise Refused("malformed", "not the subject of a fact")
            body = _body(fact, stored.data)
        except MeshError as error:
            self._strays.note(EVENTS, stored.seq, stored.subject, error)
            self._taken[stored.subject] = stored.seq
            if len(self._taken) > _TAKEN_MAX:
                self._taken.popitem(last=False)
            return None
        self._taken.pop(stored.subject, None)
        return fact, body


def _body(fact: subjects.Fact, payload: bytes) -> Fact:
    """Raises MeshError for a body that no master would have written there."""
    kind = FACTS.get(fact.kind)
    if kind is None:
        raise Refused("malformed", "not a kind of fact")
    body = codec.decode_trusted(kind, payload)
    if isinstance(body, Accepted) and body.id != fact.command:
        raise Refused("malformed", "a command of another id")
    if isinstance(body, Outcome) and body.state not in STATES:
        raise Refused("malformed", "an outcome of no known state")
    return body


def _failed(error: MeshError) -> "asyncio.Future[Any]":
    """An immediate refusal, in the shape of one from the broker."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future


async def ensure_streams(streams: Streams, settings: MasterSettings) -> dict[str, StreamInfo]:
    """Make or check every stream; `is_new` tells a missing one, so that a loss is noticed."""
    infos = {}
    for config in stream_configs(settings):
        info = await streams.ensure_stream(config)
        infos[config.name] = info
        log.info("stream_ready", stream=config.name, messages=info.messages, is_new=info.is_new)
    return infos
