"""Streams of the broker (JetStream): created, checked, written one message at a time, and read.

The requests are plain NATS requests, so that every wait has our timeout and every error is ours.
Reading uses batched Direct Get: without a consumer, which a restart of the broker could lose, and
with retries of missing parts.
Source: the JetStream API reference of the NATS project.
"""

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
import structlog

from broker_client.runtime.backoff import Backoff
from broker_client.runtime.clock import Clock, SystemClock
from broker_client.runtime.link import Link, Msg, NoResponders
from broker_client.runtime.stream_answers import (
    NOT_FOUND,
    NotFound,
    StreamMissing,
    decode_ack,
    decode_answer,
    no_store,
    store_fault,
)
from broker_client.runtime.stream_config import StreamConfig, StreamInfo, info_of
from broker_client.runtime.stream_pages import Page, PageReader, Stored, stored_in
from schemas.faults import Unreachable

log = structlog.get_logger(__name__)

API_S: Final = 5.0
PAGE_MESSAGES: Final = 1000
PAGE_MIN_MESSAGES: Final = 50
PAGE_BYTES: Final = 4 * 1024 * 1024
# Seconds without progress after which a replay or a listing fails; more than a broker's restart.
STALL_S: Final = 60.0
ALL: Final = ">"

T = TypeVar("T")


class Streams:
    """Client of the broker's streams over `link`; each request has the timeout `timeout_s`."""

    def __init__(
        self,
        link: Link,
        *,
        clock: Clock | None = None,
        timeout_s: float = API_S,
        stall_s: float = STALL_S,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.link = link
        self._clock = clock or SystemClock()
        self._timeout_s = timeout_s
        self._stall_s = stall_s
        self._chance = chance

    # streams as such

    async def ensure_stream(self, config: StreamConfig) -> StreamInfo:
        """Create the stream, or update its configuration.

        An expected stream that is missing has been lost with its content: check `is_new`. Without
        an answer, such as from a cluster without a leader, retries for `stall_s`, then raises
        Unreachable. Raises Refused (`settings_invalid`) if the broker refuses the configuration.
        """
        asked = _Asked()

        async def ensure() -> StreamInfo:
            try:
                return await self._ensure(config, asked)
            except Unreachable as error:
                if not asked.is_late:
                    asked.is_late = True
                    log.warning(
                        "store_awaited", stream=config.name, up_to_s=self._stall_s, fault=str(error)
                    )
                raise

        try:
            return await self.insist(ensure)
        except Unreachable as error:
            text = f"{config.name} is not ready after {self._stall_s:g} s of asking: {error}"
            raise Unreachable("store_unavailable", text) from error

    async def _ensure(self, config: StreamConfig, asked: "_Asked") -> StreamInfo:
        wanted = config.to_api()
        try:
            found = await self._api(f"STREAM.INFO.{config.name}")
        except StreamMissing:
            asked.was_missing = True
            return await self._create(config, wanted)
        has = found["config"]
        # The broker leaves out fields that are false or 0.
        if any((has.get(key) or 0) != (value or 0) for key, value in wanted.items()):
            found = await self._api(f"STREAM.UPDATE.{config.name}", {**has, **wanted})
        # An earlier try may have created it, and its answer was lost.
        return info_of(found, is_new=asked.was_missing)

    async def _create(self, config: StreamConfig, wanted: dict[str, Any]) -> StreamInfo:
        made = await self._api(f"STREAM.CREATE.{config.name}", wanted)
        return info_of(made, is_new=bool(made.get("did_create", True)))

    async def info(self, stream: str) -> StreamInfo:
        """Return the state of a stream. Raises StreamMissing if it does not exist."""
        return info_of(await self._api(f"STREAM.INFO.{stream}"))

    async def purge_up_to(self, stream: str, seq: int, subject: str | None = None) -> int:
        """Delete all messages up to `seq`, inclusive (on `subject` only); returns their number."""
        wanted: dict[str, Any] = {"seq": seq + 1}
        if subject is not None:
            wanted["filter"] = subject
        return int((await self._api(f"STREAM.PURGE.{stream}", wanted))["purged"])

    async def purge(self, stream: str, subject: str) -> int:
        """Delete all messages on `subject`, which may be a wildcard; returns their number."""
        return int((await self._api(f"STREAM.PURGE.{stream}", {"filter": subject}))["purged"])

    async def subjects(self, stream: str, filter: str) -> list[str]:
        """Return the subjects with messages that match `filter`, of all pages."""
        found: list[str] = []
        while True:
            wanted = {"subjects_filter": filter, "offset": len(found)}
            answer = await self._api(f"STREAM.INFO.{stream}", wanted)
            page = answer["state"].get("subjects") or {}
            found += page
            if not page or len(found) >= int(answer.get("total", 0)):
                return found

    # writing

    async def store(
        self,
        subject: str,
        data: bytes,
        *,
        expected: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Append one message; returns its sequence once it is on the broker's disk.

        expected: the last sequence of this subject, 0 for none yet. Raises SequenceConflict,
        Refused (`store_full`), or Unreachable; with effect unknown it may be stored.
        """
        sent = dict(headers or {})
        if expected is not None:
            sent["Nats-Expected-Last-Subject-Sequence"] = str(expected)
        try:
            answer = await self.link.request(subject, data, self._timeout_s, sent or None)
        except NoResponders as error:
            raise no_store(subject) from error
        ack = decode_ack(answer)
        if ack.error is not None:
            raise store_fault(ack.error, subject)
        return ack.seq

    # reading

    async def get_last(self, stream: str, subject: str) -> Stored | None:
        """Return the newest message on `subject`, from any replica, maybe slightly behind."""
        answer = await self._ask(f"$JS.API.DIRECT.GET.{stream}.{subject}", b"")
        if answer.status == NOT_FOUND:
            return None
        return stored_in(answer)[0]

    async def get_last_agreed(self, stream: str, subject: str) -> Stored | None:
        """Return the newest message on `subject`, from the stream's leader."""
        return await self._get_agreed(stream, {"last_by_subj": subject})

    async def read_from(
        self,
        stream: str,
        seq: int,
        subject: str = ALL,
        *,
        batch: int = PAGE_MESSAGES,
        max_bytes: int = PAGE_BYTES,
    ) -> Page:
        """Read up to `batch` messages from `seq` on; raises Unreachable if a part is missing."""
        wanted: dict[str, Any] = {"seq": max(1, seq), "batch": batch, "max_bytes": max_bytes}
        if subject != ALL:
            wanted["next_by_subj"] = subject
        return await PageReader(self.link, stream, wanted).read(self._timeout_s)

    async def replay(
        self, stream: str, from_seq: int = 1, subject: str = ALL
    ) -> AsyncIterator[Stored]:
        """Replay all messages from `from_seq` to the last one at its begin, each once.

        Retries during restarts of the broker; raises Unreachable after `stall_s` without progress.
        """
        info = await self.insist(lambda: self.info(stream))
        seq, end, size = max(from_seq, info.first_seq, 1), info.last_seq, PAGE_MESSAGES

        async def next_page() -> Page:
            nonlocal size
            try:
                return await self.read_from(stream, seq, subject, batch=size)
            except Unreachable:
                size = max(PAGE_MIN_MESSAGES, size // 2)  # smaller pages on a bad connection
                raise

        while seq <= end:
            page = await self.insist(next_page)
            for message in page.messages:
                if message.seq > end:
                    return
                yield message
            seq = page.next_seq
            if page.is_last and seq <= end and await self._is_end(stream, seq, subject):
                return

    async def insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Retry `ask` until it has an answer; raises the last fault after `stall_s` without one."""
        backoff = Backoff(self._chance, first_s=0.05, cap_s=0.5)
        until = self._clock.elapsed() + self._stall_s
        while True:
            try:
                return await ask()
            except Unreachable:
                if self._clock.elapsed() >= until:
                    raise
            await asyncio.sleep(backoff.next_s())

    async def _is_end(self, stream: str, seq: int, subject: str) -> bool:
        """Whether the leader has no message from `seq` on, either: a replica may be behind."""
        query = {"seq": seq, "next_by_subj": subject}
        return await self.insist(lambda: self._get_agreed(stream, query)) is None

    # asking

    async def _get_agreed(self, stream: str, query: Mapping[str, Any]) -> Stored | None:
        try:
            found = (await self._api(f"STREAM.MSG.GET.{stream}", query))["message"]
        except NotFound:
            return None
        data = base64.b64decode(found.get("data", ""))
        headers = base64.b64decode(found.get("hdrs", ""))
        return Stored(int(found["seq"]), str(found["subject"]), data, headers)

    async def _api(self, verb: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        payload = b"" if body is None else msgspec.json.encode(body)
        answer = await self._ask(f"$JS.API.{verb}", payload)
        return decode_answer(answer, verb)

    async def _ask(self, subject: str, payload: bytes) -> Msg:
        try:
            return await self.link.request(subject, payload, self._timeout_s)
        except NoResponders as error:
            raise no_store(subject) from error


@dataclass
class _Asked:
    """Progress of the tries for one stream. was_missing: a try found none, and created it."""

    is_late: bool = False
    was_missing: bool = False
