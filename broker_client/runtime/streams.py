"""Streams of the broker (JetStream): created, checked, written one message at a time, and read.

The requests are plain NATS requests, so that every wait has our timeout and every error is ours.
Reading uses batched Direct Get: without a consumer, which a restart of the broker could lose, and
with retries of missing parts.
Source: the JetStream API reference, and ADR-31 (batched direct get) of the NATS project.
"""

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import structlog

from broker_client.runtime.backoff import Backoff
from broker_client.runtime.clock import Clock, SystemClock
from broker_client.runtime.link import Link, Msg, NoResponders
from schemas.faults import Corrupt, MeshError, Refused, Unreachable

log = structlog.get_logger(__name__)

API_S: Final = 5.0
PAGE_MESSAGES: Final = 1000
PAGE_MIN_MESSAGES: Final = 50
PAGE_BYTES: Final = 4 * 1024 * 1024
# Seconds without progress after which a replay or a listing fails; more than a broker's restart.
STALL_S: Final = 60.0
ALL: Final = ">"
_NS: Final = 1_000_000_000
_END_OF_BATCH: Final = 204
_NOT_FOUND: Final = 404

T = TypeVar("T")


class StreamMissing(Refused):
    """The stream does not exist."""


class SequenceConflict(Refused):
    """The last sequence of the subject is not the expected one, as after another write."""

    def __init__(self, subject: str, message: str) -> None:
        super().__init__("id_conflict", f"{subject}: {message}")
        self.subject = subject


class Republish(msgspec.Struct, frozen=True, kw_only=True):
    """Subject to which the broker republishes the headers of each stored message on `source`."""

    source: str
    destination: str

    def to_api(self) -> dict[str, Any]:
        return {"src": self.source, "dest": self.destination, "headers_only": True}


class StreamConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Configuration of a stream. Sizes and counts of -1 and an age of 0 are unlimited.

    no_ack: publishers get no acknowledgement. The broker would send it to any reply subject that
    they name, with its own rights, so streams that members of the mesh publish to must not have it.
    """

    name: str
    subjects: tuple[str, ...]
    max_bytes: int = -1
    max_msgs: int = -1
    max_age_s: float = 0
    max_msgs_per_subject: int = -1
    max_msg_size: int = -1
    duplicate_window_s: float = 120
    replicas: int = 1
    discard_new: bool = True
    allow_atomic: bool = False
    allow_direct: bool = True
    allow_rollup: bool = False
    deny_delete: bool = False
    deny_purge: bool = False
    no_ack: bool = False
    republish: Republish | None = None

    def to_api(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "subjects": list(self.subjects),
            "storage": "file",
            "retention": "limits",
            "discard": "new" if self.discard_new else "old",
            "max_bytes": self.max_bytes,
            "max_msgs": self.max_msgs,
            "max_age": int(self.max_age_s * _NS),
            "max_msgs_per_subject": self.max_msgs_per_subject,
            "max_msg_size": self.max_msg_size,
            "duplicate_window": int(self.duplicate_window_s * _NS),
            "num_replicas": self.replicas,
            "allow_atomic": self.allow_atomic,
            "allow_direct": self.allow_direct,
            "allow_rollup_hdrs": self.allow_rollup,
            "deny_delete": self.deny_delete,
            "deny_purge": self.deny_purge,
            "no_ack": self.no_ack,
            "republish": None if self.republish is None else self.republish.to_api(),
        }


class StreamInfo(msgspec.Struct, frozen=True, kw_only=True):
    """State of a stream. is_new: this call has created it, so its former content is lost.

    created_at: in the broker's format; a change means another stream. first_seq: above last_seq
    when the stream is empty. max_msg_size: bytes of headers and body of one message, -1 for the
    broker's limit.
    """

    name: str
    created_at: str
    first_seq: int
    last_seq: int
    messages: int
    size_bytes: int
    is_new: bool = False
    max_msg_size: int = -1


class Stored(NamedTuple):
    """One message of a stream; `headers` is the raw block, for `frames.parse_headers`."""

    seq: int
    subject: str
    data: bytes
    headers: bytes = b""


class Page(NamedTuple):
    """messages: in order. next_seq: of the next page. is_last: this was the end of the stream."""

    messages: list[Stored]
    next_seq: int
    is_last: bool


class ApiError(msgspec.Struct, frozen=True):
    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct, frozen=True):
    """The broker's acknowledgement of a stored message, or its refusal."""

    stream: str = ""
    seq: int = 0
    count: int = 0
    duplicate: bool = False
    error: ApiError | None = None


_decode_ack = msgspec.json.Decoder(PubAck).decode
_decode_map = msgspec.json.Decoder(dict[str, Any]).decode

# JetStream error codes. Source: server/errors.json of the NATS server, 2.15.
_CONFLICT: Final = frozenset({10071, 10164})
_FULL: Final = frozenset({10023, 10047, 10077})
_TOO_LARGE: Final = 10054
_NO_STREAM: Final = 10059
_NO_MESSAGE: Final = 10037
# Too few servers of the cluster are up for all replicas of a stream.
_NO_PEERS: Final = 10005
# An incomplete atomic batch, and too many batches in flight.
_PASSING: Final = frozenset({10176, 10210})


def store_fault(error: ApiError, subject: str) -> MeshError:
    """Return the fault of a refusal by JetStream; in each case nothing was stored."""
    text = f"{subject}: {error.description} ({error.err_code})"
    if error.err_code in _CONFLICT:
        return SequenceConflict(subject, error.description)
    if error.err_code in _FULL:
        return Refused("store_full", text)
    if error.err_code == _NO_STREAM:
        return StreamMissing("store_unavailable", text)
    if error.err_code == _TOO_LARGE:
        return Refused("too_large", text)
    if error.code == 503:
        return Unreachable("store_unavailable", text, effect="none")
    return Refused("store_unavailable", text)


def is_passing(error: ApiError) -> bool:
    """Whether a retry of the same write may succeed soon."""
    return error.err_code in _PASSING or (error.code == 503 and error.err_code not in _FULL)


def decode_ack(msg: Msg) -> PubAck:
    try:
        return _decode_ack(msg.data)
    except msgspec.MsgspecError as error:
        raise Corrupt("store_unavailable", "not an answer of JetStream") from error


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
        return _info(found, is_new=asked.was_missing)

    async def _create(self, config: StreamConfig, wanted: dict[str, Any]) -> StreamInfo:
        made = await self._api(f"STREAM.CREATE.{config.name}", wanted)
        return _info(made, is_new=bool(made.get("did_create", True)))

    async def info(self, stream: str) -> StreamInfo:
        """Return the state of a stream. Raises StreamMissing if it does not exist."""
        return _info(await self._api(f"STREAM.INFO.{stream}"))

    async def purge_up_to(self, stream: str, seq: int, subject: str | None = None) -> int:
        """Delete all messages up to `seq`, inclusive (on `subject` only); returns their number."""
        wanted: dict[str, Any] = {"seq": seq + 1}
        if subject is not None:
            wanted["filter"] = subject
        return int((await self._api(f"STREAM.PURGE.{stream}", wanted))["purged"])

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
            raise _no_store(subject) from error
        ack = decode_ack(answer)
        if ack.error is not None:
            raise store_fault(ack.error, subject)
        return ack.seq

    # reading

    async def get_last(self, stream: str, subject: str) -> Stored | None:
        """Return the newest message on `subject`, from any replica, maybe slightly behind."""
        answer = await self._ask(f"$JS.API.DIRECT.GET.{stream}.{subject}", b"")
        if answer.status == _NOT_FOUND:
            return None
        return _stored(answer)[0]

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
        return await _PageReader(self.link, stream, wanted).read(self._timeout_s)

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
        except _NotFound:
            return None
        data = base64.b64decode(found.get("data", ""))
        headers = base64.b64decode(found.get("hdrs", ""))
        return Stored(int(found["seq"]), str(found["subject"]), data, headers)

    async def _api(self, verb: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        payload = b"" if body is None else msgspec.json.encode(body)
        answer = await self._ask(f"$JS.API.{verb}", payload)
        try:
            found = _decode_map(answer.data)
        except msgspec.MsgspecError as error:
            raise Corrupt("store_unavailable", f"{verb}: not an answer of JetStream") from error
        if "error" in found:
            raise _api_fault(msgspec.convert(found["error"], ApiError), verb)
        return found

    async def _ask(self, subject: str, payload: bytes) -> Msg:
        try:
            return await self.link.request(subject, payload, self._timeout_s)
        except NoResponders as error:
            raise _no_store(subject) from error


class _NotFound(Refused):
    pass


@dataclass
class _Asked:
    """Progress of the tries for one stream. was_missing: a try found none, and created it."""

    is_late: bool = False
    was_missing: bool = False


class _PageReader:
    """Gathers the messages of one batched Direct Get and checks that none is missing.

    Each message has the sequence of the one before it. Without this check a page with a gap after a
    reconnect would look complete.
    """

    def __init__(self, link: Link, stream: str, wanted: Mapping[str, Any]) -> None:
        self._link = link
        self._stream = stream
        self._wanted = wanted
        self._messages: list[Stored] = []
        self._end: asyncio.Future[tuple[int, bool]] = asyncio.get_running_loop().create_future()

    async def read(self, timeout_s: float) -> Page:
        inbox, close = self._link.open_inbox(self._take)
        try:
            self._link.publish_nowait(
                f"$JS.API.DIRECT.GET.{self._stream}", msgspec.json.encode(self._wanted), inbox
            )
            async with asyncio.timeout(timeout_s):
                next_seq, is_last = await self._end
        except TimeoutError as error:
            raise Unreachable(
                "no_answer", f"reading {self._stream}: no whole page in {timeout_s:g} s"
            ) from error
        finally:
            close()
            self._end.cancel()
        return Page(self._messages, next_seq, is_last)

    def _take(self, msg: Msg) -> None:
        if self._end.done():
            return
        try:
            if not msg.data and msg.status:
                self._finish(msg)
            else:
                stored, before = _stored(msg)
                self._check(before)
                self._messages.append(stored)
        except MeshError as error:
            self._end.set_exception(error)

    def _check(self, before: int) -> None:
        if before != (self._messages[-1].seq if self._messages else 0):
            raise Unreachable("no_answer", f"reading {self._stream}: a message is missing")

    def _finish(self, msg: Msg) -> None:
        if msg.status == _END_OF_BATCH:
            last = int(msg.headers.get("Nats-Last-Sequence", "0"))
            self._check(last)
            is_last = msg.headers.get("Nats-Num-Pending") == "0"
            self._end.set_result((last + 1 if last else int(self._wanted["seq"]), is_last))
        elif msg.status == _NOT_FOUND:
            self._end.set_result((int(self._wanted["seq"]), True))
        else:
            raise Unreachable(
                "store_unavailable",
                f"reading {self._stream}: {msg.status} {msg.description}",
                effect="none",
            )


def _stored(msg: Msg) -> "tuple[Stored, int]":
    """Return the message in a Direct Get answer, and the sequence of the message before it.

    The broker writes its own headers after the message's, so the last ones count: a publisher could
    have sent headers of the same names.
    """
    raw = msg.raw_headers
    try:
        seq = int(_last_header(raw, b"\r\nNats-Sequence: "))
        before = _last_header(raw, b"\r\nNats-Last-Sequence: ") or b"0"
        subject = _last_header(raw, b"\r\nNats-Subject: ").decode()
        return Stored(seq, subject, msg.data, raw), int(before)
    except ValueError as error:
        raise Corrupt("store_unavailable", "a stored message without its sequence") from error


def _last_header(raw: bytes, start: bytes) -> bytes:
    at = raw.rfind(start)
    return b"" if at < 0 else raw[at + len(start) : raw.find(b"\r\n", at + len(start))]


def _info(found: Mapping[str, Any], *, is_new: bool = False) -> StreamInfo:
    state = found["state"]
    return StreamInfo(
        name=found["config"]["name"],
        created_at=found["created"],
        first_seq=state["first_seq"],
        last_seq=state["last_seq"],
        messages=state["messages"],
        size_bytes=state["bytes"],
        is_new=is_new,
        max_msg_size=found["config"].get("max_msg_size", -1),
    )


def _api_fault(error: ApiError, verb: str) -> MeshError:
    if error.err_code == _NO_MESSAGE:
        return _NotFound("internal", error.description)
    if error.err_code == _NO_PEERS:
        text = f"{verb}: {error.description} ({error.err_code})"
        return Unreachable("store_unavailable", text, effect="none")
    if error.err_code not in _FULL and error.code == 400:
        return Refused("settings_invalid", f"{verb}: {error.description} ({error.err_code})")
    return store_fault(error, verb)


def _no_store(subject: str) -> Unreachable:
    """Return the fault of a subject without a stream: none was created, or it has no leader now."""
    return Unreachable("store_unavailable", f"no stream answers on {subject}", effect="none")
