"""Chunks on their way to the log stream, until it is known what became of each.

    chunk, numbered by a header ─▶ stream ─▶ stored: the same header, on a subject of this agent

That subject is the stream's to fix, so nobody can steer it, and the broker speaks there of nothing
but what it has stored. A stream of a master from before that sends an acknowledgement to the reply
subject instead; where there is such a stream, that will do as well, so the change from one to the
other loses nothing that is on its way. What neither tells in time is sent again by its owner.
"""

import asyncio
import secrets
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, NamedTuple

import msgspec

from broker_agent.services.wire import Station
from broker_client.runtime.frames import NO_RESPONDERS, Msg
from schemas.faults import Unreachable
from schemas.subjects import CHUNK_HEADER

# How long the broker may take to say that it has stored a chunk.
STORED_S: Final = 5.0
# Random, so that no two starts of an agent, nor two copies of it, take each other's word.
_MARK_BYTES: Final = 8


class Fate(Enum):
    """refused: by the stream, in so many words. unheard: no word in time. lost: with the link."""

    STORED = auto()
    REFUSED = auto()
    UNHEARD = auto()
    LOST = auto()


class _Sent(NamedTuple):
    at_s: float
    tell: Callable[[Fate], None]


class _PubAck(msgspec.Struct):
    """A stream's acknowledgement: a number, or why not."""

    seq: int = 0
    error: dict[str, str | int] | None = None


class Transit:
    """Tells each fate once. The numbers of another start of the agent mean nothing here."""

    def __init__(self, station: Station, timeout_s: float = STORED_S) -> None:
        self._wire = station.wire
        self._clock = station.clock
        self._timeout_s = timeout_s
        self._mark = secrets.token_hex(_MARK_BYTES)
        self._number = 0
        # In the order in which they were sent.
        self._sent: dict[str, _Sent] = {}
        self._inbox, _ = station.wire.open_inbox(self._on_answer)

    def __len__(self) -> int:
        return len(self._sent)

    def send(self, subject: str, payload: bytes, tell: Callable[[Fate], None]) -> None:
        """Send one chunk; `tell` is called later, never from within this call."""
        self._number += 1
        number = f"{self._number}"
        try:
            self._wire.publish_nowait(
                subject,
                payload,
                f"{self._inbox}.{number}",
                {CHUNK_HEADER: f"{self._mark}.{number}"},
            )
        except Unreachable:
            asyncio.get_running_loop().call_soon(tell, Fate.LOST)
            return
        self._sent[number] = _Sent(self._clock.elapsed(), tell)

    def on_stored(self, msg: Msg) -> None:
        """What the broker has stored; also what another start of this agent has sent."""
        mark, _, number = msg.headers.get(CHUNK_HEADER, "").partition(".")
        if mark == self._mark:
            self._settle(number, Fate.STORED)

    def on_disconnected(self) -> None:
        """Whatever the broker had to say of what is on its way is lost with the link."""
        for number in [*self._sent]:
            self._settle(number, Fate.LOST)

    def sweep(self) -> None:
        """Give up waiting for those of which nothing was heard in time."""
        late_s = self._clock.elapsed() - self._timeout_s
        for number in [number for number, sent in self._sent.items() if sent.at_s <= late_s]:
            self._settle(number, Fate.UNHEARD)

    def _on_answer(self, msg: Msg) -> None:
        number = msg.subject.rpartition(".")[2]
        if not msg.data and msg.status == NO_RESPONDERS:
            self._settle(number, Fate.LOST)  # there is no stream at the moment
        else:
            self._settle(number, Fate.STORED if is_stored(msg.data) else Fate.REFUSED)

    def _settle(self, number: str, fate: Fate) -> None:
        sent = self._sent.pop(number, None)
        if sent is not None:
            sent.tell(fate)


def is_stored(answer: bytes) -> bool:
    """Whether a stream's acknowledgement says that it has the message."""
    try:
        ack = msgspec.json.decode(answer, type=_PubAck)
    except msgspec.MsgspecError:
        return False
    return ack.error is None and ack.seq > 0
