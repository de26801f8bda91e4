"""Detects when all earlier announcements of the broker have been received.

Each node puts its announcements of connections and its answers into one queue, in order, and both
are read from one connection. So an answer to a question proves that every connection made before
the question has been announced.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from broker_client.runtime.clock import Clock
from broker_client.runtime.frames import Msg
from broker_client.runtime.link import Link
from schemas.faults import MeshError

log = structlog.get_logger()

_SUBJECT: Final = "$SYS.REQ.SERVER.PING.IDZ"
# A node that does not answer within this time has left, or is too late.
_ANSWER_S: Final = 1.0

Passed = Callable[[bool], None]


class _Node(msgspec.Struct):
    id: str = ""


class _Fence(msgspec.Struct):
    number: int
    since_s: float
    passed: Passed
    answered: set[str]
    is_passed: bool = False


_decode: Final = msgspec.json.Decoder(_Node).decode


class Fences:
    """Questions to the broker's nodes, in order.

    nodes: ids of the nodes that have to answer; one that answers unasked is added.
    """

    def __init__(self, link: Link, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._open: deque[_Fence] = deque()
        self._numbers: dict[str, _Fence] = {}
        self._count = 0
        self._inbox, _ = link.open_inbox(self._on_answer)
        self.nodes: set[str] = set()

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, passed: Passed) -> None:
        """Call `passed`, in order: with True once all is received, with False if it never will be.

        Raises Unreachable while there is no connection.
        """
        self._count += 1
        self._link.publish_nowait(_SUBJECT, b"", f"{self._inbox}.{self._count}")
        fence = _Fence(self._count, self._clock.elapsed(), passed, set())
        self._open.append(fence)
        self._numbers[str(self._count)] = fence

    def _on_answer(self, msg: Msg) -> None:
        fence = self._numbers.get(msg.subject.rpartition(".")[2])
        if fence is None:
            return
        try:
            node = _decode(msg.data).id
        except msgspec.MsgspecError:
            return
        self.nodes.add(node)
        fence.answered.add(node)
        fence.is_passed = fence.answered >= self.nodes
        while self._open and self._open[0].is_passed:
            self._end(self._open[0], whole=True)

    def tick(self) -> None:
        """Give up unanswered questions after the timeout."""
        before_s = self._clock.elapsed() - _ANSWER_S
        while self._open and self._open[0].since_s < before_s:
            fence = self._open[0]
            if fence.answered:
                log.info("nodes_silent", nodes=sorted(self.nodes - fence.answered))
                self.nodes &= fence.answered
            self._end(fence, whole=False)

    def lose(self) -> None:
        """Give up all: the connection is lost, and with it the order."""
        while self._open:
            self._end(self._open[0], whole=False)

    def _end(self, fence: _Fence, *, whole: bool) -> None:
        self._open.popleft()
        del self._numbers[str(fence.number)]
        try:
            fence.passed(whole)
        except MeshError as error:
            log.warning("fence_failed", error=str(error))
