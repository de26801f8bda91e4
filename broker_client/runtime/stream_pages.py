"""Pages of stored messages, read by batched Direct Get.

Source: ADR-31 (batched direct get) of the NATS project.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from broker_client.runtime.link import Link, Msg
from broker_client.runtime.stream_answers import NOT_FOUND
from schemas.faults import Corrupt, MeshError, Unreachable

_END_OF_BATCH: Final = 204


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


class PageReader:
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
                stored, before = stored_in(msg)
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
        elif msg.status == NOT_FOUND:
            self._end.set_result((int(self._wanted["seq"]), True))
        else:
            raise Unreachable(
                "store_unavailable",
                f"reading {self._stream}: {msg.status} {msg.description}",
                effect="none",
            )


def stored_in(msg: Msg) -> tuple[Stored, int]:
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
