"""Acknowledges output in the broker's place, for agents of 0.1.

Agents of 0.1 name a reply subject with each chunk of output and wait for an acknowledgement there.
The log stream sends none, since a sender could steer it to any subject. So the master subscribes to
the output of those agents, reads the stored chunks from the stream, and acknowledges them below the
agent's own inbox and nowhere else. Agents that receive the stream's notices (`HEARS_STORED`) cost
nothing here.
"""

import asyncio
import hashlib
from collections import OrderedDict
from typing import Final

import msgspec
import structlog

from broker_client.runtime.frames import Msg
from broker_client.runtime.link import Subscription
from broker_client.runtime.rates import TokenBucket
from broker_client.runtime.streams import Streams
from broker_client.runtime.supervise import TaskSet
from broker_master.plane import Plane
from broker_master.store.facts import LOGS
from schemas import subjects
from schemas.faults import MeshError
from schemas.messages.liveness import HEARS_STORED, Hello

log = structlog.get_logger()

# Without a notice of the broker the stream is read this often while chunks wait.
_LOOK_S: Final = 1.0
_PAGE_MESSAGES: Final = 64
_PAGE_BYTES: Final = 1024 * 1024
# Waiting chunks of one agent: twice its window, in the smallest chunks. Such an agent sends again
# after 5 s, with another reply subject.
_WAITING_MAX: Final = 1024
_REPLY_LEN: Final = 256
# Rate limit of one agent's output, in messages; those above are sent again later.
_PER_S: Final = 1000.0
_BURST: Final = 2000.0
_AGENTS_MAX: Final = 2000


class _Ear:
    """State of one agent. waiting: reply subjects, by subject and content."""

    def __init__(self, agent: str, group: str, seq: int) -> None:
        self.agent = agent
        self.group = group
        self.seq = seq
        self.waiting: OrderedDict[tuple[str, bytes], str] = OrderedDict()
        self.wake = asyncio.Event()
        self.rate = TokenBucket(per_s=_PER_S, burst=_BURST)
        self.subscriptions: list[Subscription] = []


class Receipts:
    name = "receipts"

    def __init__(self, plane: Plane, streams: Streams) -> None:
        self._plane = plane
        self._streams = streams
        self._tasks = TaskSet("receipts", limit=_AGENTS_MAX)
        self._ears: dict[str, _Ear | None] = {}

    def note_hello(self, up: subjects.Up, hello: Hello) -> None:
        """Note the hello of an admitted agent."""
        if HEARS_STORED in hello.features:
            self._forget(up.agent)
            return
        ear = self._ears.get(up.agent)
        if up.agent in self._ears and (ear is None or ear.group == up.group):
            return
        self._forget(up.agent)
        self._ears[up.agent] = None
        try:
            _ = self._tasks.spawn(self._serve(up))
        except MeshError as error:
            del self._ears[up.agent]
            log.warning("receipts_refused", agent=up.agent, error=str(error))

    async def run(self, ready: asyncio.Event) -> None:
        await self._tasks.serve(ready)

    def _forget(self, agent: str) -> None:
        ear = self._ears.pop(agent, None)
        if ear is not None:
            for subscription in ear.subscriptions:
                subscription.unsubscribe()
            ear.wake.set()

    async def _serve(self, up: subjects.Up) -> None:
        """Run until the agent is gone, or needs no receipts any more."""
        # Before the first chunk, so that each one received is stored behind it.
        info = await self._streams.insist(lambda: self._streams.info(LOGS))
        if up.agent not in self._ears:
            return
        ear = self._ears[up.agent] = _Ear(up.agent, up.group, info.last_seq)
        link = self._plane.link
        ear.subscriptions = [
            link.subscribe(subjects.log_of(up.group, up.agent), lambda msg: self._take(ear, msg)),
            link.subscribe(subjects.stored_of(up.group, up.agent), lambda _: ear.wake.set()),
        ]
        log.info("receipts_begun", agent=up.agent, group=up.group)
        try:
            await self._answer(ear)
        finally:
            if self._ears.get(up.agent) is ear:
                self._forget(up.agent)

    def _take(self, ear: _Ear, msg: Msg) -> None:
        if not msg.reply:
            return
        # The broker delivers chunks that the stream may still refuse: a chunk only names its
        # sender.
        if (
            len(msg.reply) > _REPLY_LEN
            or not msg.reply.startswith(f"{subjects.inbox_prefix(ear.agent)}.")
            or "*" in msg.reply
            or ">" in msg.reply
        ):
            self._plane.count("reply_forbidden")
            return
        if not ear.rate.take(self._plane.clock.elapsed()):
            self._plane.count("receipts_dropped")
            return
        ear.waiting[msg.subject, _digest(msg.data)] = msg.reply
        while len(ear.waiting) > _WAITING_MAX:
            ear.waiting.popitem(last=False)

    async def _answer(self, ear: _Ear) -> None:
        while self._ears.get(ear.agent) is ear and self._plane.roster.get(ear.agent) is not None:
            try:
                async with asyncio.timeout(_LOOK_S):
                    await ear.wake.wait()
            except TimeoutError:
                if not ear.waiting:
                    continue
            ear.wake.clear()
            try:
                await self._read_on(ear)
            except MeshError as error:
                log.warning("receipts_delayed", agent=ear.agent, error=str(error))

    async def _read_on(self, ear: _Ear) -> None:
        """Acknowledge chunks stored since the last read: a chunk in the stream is durable."""
        is_last = False
        while not is_last:
            page = await self._streams.read_from(
                LOGS,
                ear.seq + 1,
                subjects.log_of(ear.group, ear.agent),
                batch=_PAGE_MESSAGES,
                max_bytes=_PAGE_BYTES,
            )
            for stored in page.messages:
                ear.seq = stored.seq
                reply = ear.waiting.pop((stored.subject, _digest(stored.data)), None)
                if reply is not None:
                    self._acknowledge(reply, stored.seq)
            is_last = page.is_last or not page.messages

    def _acknowledge(self, reply: str, seq: int) -> None:
        try:
            self._plane.link.publish_nowait(
                reply, msgspec.json.encode({"stream": LOGS, "seq": seq})
            )
        except MeshError:
            self._plane.count("publish_failed", "receipt")


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
