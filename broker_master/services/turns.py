"""Waiting messages: each identity has a share of the room, of each turn, and of refusals.

One identity that sends too much takes neither room nor turn of others, over whatever transport its
messages come.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from broker_client.runtime.rates import TokenBucket
from broker_master.plane import Plane
from schemas.faults import MeshError, Refused

log = structlog.get_logger()

# Limits of all waiting messages, and of one identity's; messages beyond are refused, and beyond a
# rate of refusals they get no answer.
_WAITING_MAX: Final = 20_000
_WAITING_BYTES: Final = 64 * 1024 * 1024
_WAITING_PER_IDENTITY: Final = _WAITING_MAX // 8
_WAITING_BYTES_PER_IDENTITY: Final = _WAITING_BYTES // 8
_REFUSALS_PER_S: Final = 100.0
_REFUSALS_BURST: Final = 1000.0
# Messages of one identity admitted in one turn of the loop; others are served in between.
_PER_TURN: Final = 32
_SPEAKERS_KEPT: Final = 4096

Pass = Callable[[], object]
Refuse = Callable[[MeshError], object]


class _Speaker:
    """Waiting messages of an identity, in number and bytes. queue: those that await their turn.

    turn, taken: messages admitted in the latest turn.
    """

    __slots__ = ("name", "queue", "refusals", "size", "taken", "turn", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiting = self.size = self.turn = self.taken = 0
        self.queue: deque[Word] = deque()
        self.refusals = TokenBucket(per_s=_REFUSALS_PER_S, burst=_REFUSALS_BURST)


def _nothing() -> None:
    """Leave a message without an answer: its sender has a timeout."""


class Word(msgspec.Struct):
    """A waiting message. size: in bytes, as received.

    One of the three is called, once: take, refuse, or drop in place of a refusal that costs too
    much.
    """

    speaker: _Speaker
    name: str
    size: int
    take: Pass
    refuse: Refuse
    drop: Pass


class Turns:
    """Counts waiting messages by identity, and serves identities in turns."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._waiting = self._waiting_bytes = 0
        self._speakers: dict[str, _Speaker] = {}
        self._late: deque[_Speaker] = deque()
        self._turn = 0
        self._is_turn_open = False

    def add(
        self, name: str, size: int, take: Pass, refuse: Refuse, drop: Pass = _nothing
    ) -> Word | None:
        """A message of `name` that waits from now on; None if there is no room for it.

        It is to be admitted, refused or held next.
        """
        speaker = self._speakers.get(name) or self._new_speaker(name)
        word = Word(speaker, name, size, take, refuse, drop)
        if self._waiting >= _WAITING_MAX or self._waiting_bytes + size > _WAITING_BYTES:
            self._shed(word, unproved(name))
            return None
        if (
            speaker.waiting >= _WAITING_PER_IDENTITY
            or speaker.size + size > _WAITING_BYTES_PER_IDENTITY
        ):
            self._shed(word, _crowded(speaker))
            return None
        self._count(word)
        return word

    def admit(self, word: Word) -> None:
        """Take a message now; after its sender's share of the turn, between others."""
        self._open_turn()
        speaker = word.speaker
        if speaker.turn != self._turn:
            speaker.turn, speaker.taken = self._turn, 0
        if speaker.queue or speaker.taken >= _PER_TURN:
            self._await_turn(word)
            return
        speaker.taken += 1
        self.leave(word)
        _take(word)

    def readmit(self, word: Word) -> None:
        """Take a message that has left the room, behind the earlier ones of its sender."""
        if word.speaker.queue:
            self._count(word)
            word.speaker.queue.append(word)
        else:
            _take(word)

    def leave(self, word: Word) -> None:
        """Remove a message from the counts of waiting ones; its holder has a limit of his own."""
        self._waiting -= 1
        self._waiting_bytes -= word.size
        word.speaker.waiting -= 1
        word.speaker.size -= word.size

    def refuse(self, word: Word, fault: Refused) -> None:
        """Refuse a waiting message."""
        self.leave(word)
        self.turn_away(word, fault)

    def turn_away(self, word: Word, fault: Refused) -> None:
        """Refuse a message that does not wait."""
        self._plane.count("shed", "unproved")
        self._tell(word, fault)

    def _shed(self, word: Word, fault: Refused) -> None:
        self._plane.count("shed", "share")
        self._tell(word, fault)

    def _tell(self, word: Word, fault: Refused) -> None:
        """Send a refusal, within a rate limit: an answer costs more than its message."""
        if word.speaker.refusals.take(self._plane.clock.elapsed()):
            word.refuse(fault)
        else:
            word.drop()

    def _new_speaker(self, name: str) -> _Speaker:
        if len(self._speakers) >= _SPEAKERS_KEPT:
            self._speakers = {key: each for key, each in self._speakers.items() if each.waiting}
        speaker = self._speakers[name] = _Speaker(name)
        return speaker

    def _count(self, word: Word) -> None:
        self._waiting += 1
        self._waiting_bytes += word.size
        word.speaker.waiting += 1
        word.speaker.size += word.size

    # -- turns

    def _open_turn(self) -> None:
        """Begin a turn, which lasts until the loop comes round."""
        if not self._is_turn_open:
            self._is_turn_open = True
            self._turn += 1
            asyncio.get_running_loop().call_soon(self._close_turn)

    def _close_turn(self) -> None:
        self._is_turn_open = False

    def _await_turn(self, word: Word) -> None:
        speaker = word.speaker
        if not speaker.queue:
            self._queue(speaker)
        speaker.queue.append(word)

    def _queue(self, speaker: _Speaker) -> None:
        if not self._late:
            asyncio.get_running_loop().call_soon(self._take_turns)
        self._late.append(speaker)

    def _take_turns(self) -> None:
        speakers, self._late = self._late, deque()
        for speaker in speakers:
            for _ in range(min(_PER_TURN, len(speaker.queue))):
                word = speaker.queue.popleft()
                self.leave(word)
                _take(word)
            if speaker.queue:
                self._queue(speaker)


def _take(word: Word) -> None:
    try:
        word.take()
    except Exception:
        # As in the link: a failing handler must not affect the next message.
        log.exception("message_failed", speaker=word.name)


def _crowded(speaker: _Speaker) -> Refused:
    said = f"{speaker.waiting} requests, {speaker.size} bytes, of {speaker.name} wait already"
    return Refused("rate_limited", f"{said}: ask when some of them are answered")


def unproved(name: str) -> Refused:
    return Refused("connection_unproved", f"a connection of {name} was not compared in time")
