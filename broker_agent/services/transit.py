"""Chunks under way to the log stream, until each is acknowledged, refused or lost.

    chunk, numbered by a header ─▶ stream ─▶ stored: the same header, on a subject of this agent

The stream's configuration fixes that subject, so no sender can steer the acknowledgement, and the
broker publishes there only messages that it has stored. A stream of 0.1.0 acknowledges on the reply
subject instead; both are accepted, so an upgrade loses no chunk. A chunk without either before the
timeout is sent again by its owner.
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

# Timeout of the broker's acknowledgement of a chunk.
STORED_S: Final = 5.0
# Random, so that two starts or two copies of an agent do not accept each other's acknowledgements.
_MARK_BYTES: Final = 8


class Fate(Enum):
    """REFUSED: by the stream. UNANSWERED: no answer in time. LOST: with the connection."""

    STORED = auto()
    REFUSED = auto()
    UNANSWERED = auto()
    LOST = auto()


class _Sent(NamedTuple):
    at_s: float
    tell: Callable[[Fate], None]


class _PubAck(msgspec.Struct):
    """Acknowledgement of a stream: a sequence, or an error."""

    seq: int = 0
    error: dict[str, str | int] | None = None


class Transit:
    """Chunks under way; reports each fate once. Numbers of other starts are ignored."""

    def __init__(self, station: Station, timeout_s: float = STORED_S) -> None:
        self._wire = station.wire
        self._clock = station.clock
        self._timeout_s = timeout_s
        self._mark = secrets.token_hex(_MARK_BYTES)
        self._number = 0
        # In the order of transmission.
        self._sent: dict[str, _Sent] = {}
        self._inbox, _ = station.wire.open_inbox(self._on_answer)

    def __len__(self) -> int:
        return len(self._sent)

    def send(self, subject: str, payload: bytes, tell: Callable[[Fate], None]) -> None:
        """Send one chunk; `tell` gets its fate later, never within this call."""
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
        """Handle an acknowledgement, which may be for another start of this agent."""
        mark, _, number = msg.headers.get(CHUNK_HEADER, "").partition(".")
        if mark == self._mark:
            self._resolve(number, Fate.STORED)

    def on_disconnected(self) -> None:
        """Report all chunks under way as lost, since their acknowledgements are."""
        for number in [*self._sent]:
            self._resolve(number, Fate.LOST)

    def sweep(self) -> None:
        """Report chunks without an acknowledgement before the timeout."""
        late_s = self._clock.elapsed() - self._timeout_s
        for number in [number for number, sent in self._sent.items() if sent.at_s <= late_s]:
            self._resolve(number, Fate.UNANSWERED)

    def _on_answer(self, msg: Msg) -> None:
        number = msg.subject.rpartition(".")[2]
        if not msg.data and msg.status == NO_RESPONDERS:
            self._resolve(number, Fate.LOST)  # no stream exists at the moment
        else:
            self._resolve(number, Fate.STORED if is_stored(msg.data) else Fate.REFUSED)

    def _resolve(self, number: str, fate: Fate) -> None:
        sent = self._sent.pop(number, None)
        if sent is not None:
            sent.tell(fate)


def is_stored(answer: bytes) -> bool:
    """Whether a stream's acknowledgement is positive."""
    try:
        ack = msgspec.json.decode(answer, type=_PubAck)
    except msgspec.MsgspecError:
        return False
    return ack.error is None and ack.seq > 0
