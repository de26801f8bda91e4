"""One write of a group commit: how to send it, its outcome, and how to find it in the stream."""

import asyncio
import contextlib
import secrets
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from broker_client.runtime.frames import NO_RESPONDERS, Msg, parse_headers, render_hpub
from broker_client.runtime.link import Link
from broker_client.runtime.stream_answers import ApiError, PubAck, decode_ack
from broker_client.runtime.streams import Streams
from schemas.faults import MeshError

# Header with the write of a single message; the broker itself stores the id of a batch.
WRITE_HEADER: Final = "Mesh-Write"
ENTRY_OVERHEAD_BYTES: Final = 200


class BatchEntry(NamedTuple):
    """One message to be stored.

    expected: the last sequence of this subject, 0 for none yet, None for any. With it the broker
    itself guarantees that the message is stored once; without it a write whose answer was lost
    could in theory still arrive after the search for it and its retry.
    """

    subject: str
    body: bytes
    expected: int | None = None


class Group:
    """Entries that are stored together or not at all, and the futures of their sequences.

    tries: write and place in it, for each try of unknown outcome. since: last sequence of the
    stream before the first of these tries.
    """

    __slots__ = ("entries", "future", "is_single", "since", "size_bytes", "tries")

    def __init__(self, entries: tuple[BatchEntry, ...], *, is_single: bool) -> None:
        self.entries = entries
        self.is_single = is_single
        self.size_bytes = sum(len(e.body) + len(e.subject) + ENTRY_OVERHEAD_BYTES for e in entries)
        self.future: asyncio.Future[int | list[int]] = asyncio.get_running_loop().create_future()
        self.tries: tuple[tuple[str, int], ...] = ()
        self.since = 0

    def resolve(self, first_seq: int) -> None:
        if self.future.done():
            return
        if self.is_single:
            self.future.set_result(first_seq)
        else:
            self.future.set_result(list(range(first_seq, first_seq + len(self.entries))))

    def refuse(self, fault: MeshError) -> None:
        if not self.future.done():
            self.future.set_exception(fault)


class WriteOutcome(NamedTuple):
    """Outcome of a write; each of its groups is in one of these lists.

    stored: with the first sequence. refused: together with the reason, caused by any one of them.
    unsent: not stored, for another reason. unknown: without an answer so far.
    """

    stored: list[tuple[Group, int]]
    refused: list[tuple[list[Group], ApiError]]
    unsent: list[Group]
    unknown: list[Group]


class Commit:
    """Sends groups and waits for the answers; `lose` ends the wait when the connection is lost."""

    def __init__(self, link: Link, answer_s: float) -> None:
        self._link = link
        self._answer_s = answer_s
        self._id = secrets.token_hex(8)
        self._is_over = asyncio.Event()
        self._answers: dict[int, PubAck | None] = {}
        self._wanted = 0

    def lose(self) -> None:
        self._is_over.set()

    async def send_batch(self, groups: Sequence[Group]) -> WriteOutcome:
        """Send all of `groups` in one atomic batch."""
        inbox, close = self._link.open_inbox(self._take)
        frames: list[bytes] = []
        last = sum(len(group.entries) for group in groups)
        for group in groups:
            group.tries += ((self._id, len(frames) + 1),)
            for entry in group.entries:
                number = len(frames) + 1
                head = _batch_head(self._id, number, entry.expected, is_last=number == last)
                reply = f"{inbox}.1" if number == last else ""
                frames.append(render_hpub(entry.subject, head, entry.body, reply))
        try:
            is_sent = await self._exchange(frames, 1)
        finally:
            close()
        ack = self._answers.get(1)
        if not is_sent or (ack is None and 1 in self._answers):
            return WriteOutcome([], [], list(groups), [])
        if ack is None:
            return WriteOutcome([], [], [], list(groups))
        if ack.error is not None:
            return WriteOutcome([], [(list(groups), ack.error)], [], [])
        return WriteOutcome(_numbered(groups, ack.seq - last + 1), [], [], [])

    async def send_singles(self, groups: Sequence[Group]) -> WriteOutcome:
        """Send groups of one entry each, in parallel and independent of each other."""
        inbox, close = self._link.open_inbox(self._take)
        frames: list[bytes] = []
        for number, group in enumerate(groups, 1):
            entry = group.entries[0]
            group.tries += ((self._id, number),)
            head = _single_head(self._id, number, entry.expected)
            frames.append(render_hpub(entry.subject, head, entry.body, f"{inbox}.{number}"))
        try:
            is_sent = await self._exchange(frames, len(frames))
        finally:
            close()
        outcome = WriteOutcome([], [], [], [])
        for number, group in enumerate(groups, 1):
            ack = self._answers.get(number)
            if not is_sent or (ack is None and number in self._answers):
                outcome.unsent.append(group)
            elif ack is None:
                outcome.unknown.append(group)
            elif ack.error is not None:
                outcome.refused.append(([group], ack.error))
            else:
                outcome.stored.append((group, ack.seq))
        return outcome

    async def _exchange(self, frames: list[bytes], wanted: int) -> bool:
        """Send, and wait for all answers, a loss or the timeout; False if nothing was sent."""
        self._wanted = wanted
        try:
            self._link.publish_block(b"".join(frames))
        except MeshError:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._answer_s):
                await self._is_over.wait()
        return True

    def _take(self, msg: Msg) -> None:
        number = int(msg.subject.rpartition(".")[2])
        if msg.status == NO_RESPONDERS:
            self._answers[number] = None  # no stream took it
        else:
            self._answers[number] = decode_ack(msg)
        if len(self._answers) >= self._wanted:
            self._is_over.set()


async def find_writes(
    streams: Streams, stream: str, since: int, writes: Collection[str]
) -> dict[tuple[str, int], int]:
    """Return the sequences of messages of `writes` after `since`, by write and place."""
    found: dict[tuple[str, int], int] = {}
    async for stored in streams.replay(stream, since + 1):
        place = write_of(stored.headers)
        if place is not None and place[0] in writes:
            found[place] = stored.seq
    return found


def write_of(header_block: bytes) -> tuple[str, int] | None:
    """Return the write of a stored message, and its place in the write."""
    headers = parse_headers(header_block)[2]
    write, colon, number = headers.get(WRITE_HEADER, "").partition(":")
    if not colon:
        write, number = headers.get("Nats-Batch-Id", ""), headers.get("Nats-Batch-Sequence", "")
    return (write, int(number)) if write and number.isdecimal() else None


def _numbered(groups: Sequence[Group], first_seq: int) -> list[tuple[Group, int]]:
    numbered = []
    for group in groups:
        numbered.append((group, first_seq))
        first_seq += len(group.entries)
    return numbered


def _expected_line(expected: int | None) -> str:
    if expected is None:
        return ""
    return f"Nats-Expected-Last-Subject-Sequence: {expected}\r\n"


def _batch_head(write: str, number: int, expected: int | None, *, is_last: bool) -> bytes:
    commit = "Nats-Batch-Commit: 1\r\n" if is_last else ""
    return (
        f"NATS/1.0\r\nNats-Batch-Id: {write}\r\nNats-Batch-Sequence: {number}\r\n"
        f"{_expected_line(expected)}{commit}\r\n"
    ).encode()


def _single_head(write: str, number: int, expected: int | None) -> bytes:
    return (
        f"NATS/1.0\r\n{WRITE_HEADER}: {write}:{number}\r\n{_expected_line(expected)}\r\n"
    ).encode()
