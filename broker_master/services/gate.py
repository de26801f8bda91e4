"""Admits messages from connections whose certificate and token belong together.

The subject of a message names the identity in the connection's token, and the broker enforces that;
whether the certificate has the same holder is known once the connection was compared. A message
does not name its connection, so all connections of its identity have to be in order:

    message ─▶ fence: every earlier connection is known ─▶ all compared? ─yes─▶ admitted

A held message may have come over a connection that turned out wrong, or ended uncompared. It cannot
be told from the identity's own messages: all held ones are refused, to be sent again.
"""

import asyncio
from collections import deque
from collections.abc import Collection
from functools import partial
from typing import Any, Final

import structlog

from broker_client.runtime.link import Link
from broker_client.runtime.signals import Signal
from broker_master.core.connected import Connected
from broker_master.core.doubts import Doubts, Place
from broker_master.plane import Plane
from broker_master.services.comparison import Comparison, name_in
from broker_master.services.fences import Fences
from broker_master.services.system import BrokerSystem
from broker_master.services.turns import Pass, Refuse, Turns, Word, unproved
from schemas.faults import MeshError

log = structlog.get_logger()

# Longest time that a message is held before it is refused.
_HELD_S: Final = 2.0
_HELD_PER_IDENTITY: Final = 512
_HELD_BYTES_PER_IDENTITY: Final = 4 * 1024 * 1024
_FENCES_MAX: Final = 4
# Messages without a waiting sender pass with the next fence, or after this time.
_PATIENT_S: Final = 0.005
_TICK_S: Final = 0.1
_AT_ONCE: Final = 64
_AGAIN_S: Final = 0.5


class _Hold:
    __slots__ = ("since_s", "size", "words")

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self.size = 0
        self.words: deque[Word] = deque()


class Gate:
    """Closed until every live connection was compared, and while connections are not announced.

    on_gone: called with each identity whose last connection has ended.
    """

    name = "gate"

    def __init__(
        self,
        plane: Plane,
        system: BrokerSystem,
        link: Link,
        comparison: Comparison,
        turns: Turns,
    ) -> None:
        self._plane = plane
        self._turns = turns
        self._system = system
        self._comparison = comparison
        self._fences = Fences(link, plane.clock)
        self._doubts = Doubts()
        self._connected = Connected()
        self.on_gone: Signal[[str]] = Signal()
        self._is_open = False
        self._batch: list[Word] = []
        self._since_s = 0.0
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._is_urgent = False
        self._held: dict[str, _Hold] = {}
        self._wake = asyncio.Event()
        self._missed = asyncio.Event()
        link.on_disconnected(self._close)

    @property
    def nodes(self) -> Collection[str]:
        """Ids of the broker's nodes that answer."""
        return self._fences.nodes

    # -- messages

    def guard(
        self, name: str, size: int, take: Pass, refuse: Refuse, *, is_urgent: bool = True
    ) -> None:
        """Call `take` once a message of `name` is admitted; `refuse` if it never will be."""
        word = self._turns.add(name, size, take, refuse)
        if word is not None:
            self.prove(word, is_urgent=is_urgent)

    def prove(self, word: Word, *, is_urgent: bool = True) -> None:
        """Let a waiting message have its turn once the connections of its sender are compared."""
        if not self._batch:
            self._since_s = self._plane.clock.elapsed()
        self._batch.append(word)
        if self._timer is None or (is_urgent and not self._is_urgent):
            self._schedule(is_urgent=is_urgent)

    def _schedule(self, *, is_urgent: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._is_urgent = is_urgent
        if is_urgent:
            self._timer = loop.call_soon(self._ask)
        else:
            self._timer = loop.call_later(_PATIENT_S, self._ask)

    def _ask(self) -> None:
        self._timer = None
        # The next fence that passes asks again.
        if not self._batch or not self._is_open or len(self._fences) >= _FENCES_MAX:
            return
        batch, self._batch = self._batch, []
        try:
            self._fences.ask(lambda whole: self._on_passed(batch, whole=whole))
        except MeshError:
            self._batch = batch

    def _on_passed(self, batch: list[Word], *, whole: bool) -> None:
        for word in batch:
            if not whole:
                self._turns.refuse(word, unproved(word.name))
            elif word.name not in self._held and self._doubts.is_clear(word.name):
                self._turns.admit(word)
            else:
                self._hold(word)
        if self._batch and self._timer is None:
            self._ask()

    def _hold(self, word: Word) -> None:
        hold = self._held.get(word.name)
        if hold is None:
            hold = self._held[word.name] = _Hold(self._plane.clock.elapsed())
        is_full = (
            len(hold.words) >= _HELD_PER_IDENTITY
            or hold.size + word.size > _HELD_BYTES_PER_IDENTITY
        )
        if is_full:
            self._turns.refuse(word, unproved(word.name))
            return
        # Held messages have a limit of their own.
        self._turns.leave(word)
        hold.words.append(word)
        hold.size += word.size

    def _release(self, name: str) -> None:
        """Deliver the held messages of `name`, if none of its connections is in doubt any more."""
        if self._doubts.is_clear(name):
            hold = self._held.pop(name, None)
            for word in hold.words if hold is not None else ():
                self._turns.readmit(word)

    def _drop(self, name: str) -> None:
        hold = self._held.pop(name, None)
        for word in hold.words if hold is not None else ():
            self._turns.turn_away(word, unproved(name))

    # -- connections

    def on_event(self, kind: str, body: dict[str, Any]) -> None:
        client = body.get("client", {})
        place = (str(body.get("server", {}).get("id", "")), int(client.get("id", 0)))
        if kind == "DISCONNECT":
            self._on_ended(place)
            gone = self._connected.on_ended(place)
            if gone is not None:
                self.on_gone(gone)
        elif client.get("user"):
            name = name_in(str(client.get("jwt", "")))
            self._connected.on_connected(place, name)
            self._doubts.on_connected(place, name)
            self._wake.set()

    def _on_ended(self, place: Place) -> None:
        """Its last messages are under way; until they are here, its identity stays in doubt."""
        name = self._doubts.name_of(place)
        if name is not None:
            self._plane.spawn(self._see_off(place, name))

    async def _see_off(self, place: Place, name: str) -> None:
        try:
            await self._plane.link.flush()
        except MeshError as error:
            # Messages under way are lost with the link.
            log.info("gate_unflushed", speaker=name, error=str(error))
        # Flushed messages may still wait for a fence.
        batch, self._batch = self._batch, []
        for word in batch:
            if word.name != name:
                self._batch.append(word)
                continue
            self._hold(word)
        passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._fences.ask(partial(_note_passed, passed))
            await passed
        except MeshError as error:
            log.info("gate_unfenced", speaker=name, error=str(error))
        self._drop(name)
        self._doubts.forget(place)

    async def run(self, ready: asyncio.Event) -> None:
        await self._system.watch(self.on_event, self._miss)
        self._miss()
        ticker = asyncio.ensure_future(self._tick())
        try:
            while True:
                if self._missed.is_set() or not self._is_open:
                    await self._open_up()
                    if self._is_open:
                        ready.set()
                await self._compare()
        finally:
            ticker.cancel()

    def _miss(self) -> None:
        self._missed.set()
        self._wake.set()

    async def _open_up(self) -> None:
        """Compare all live connections, whatever was announced before."""
        self._missed.clear()
        try:
            self._fences.nodes = await self._system.nodes()
            before, counted = self._doubts.places(), self._connected.places()
            connections = await self._system.connections()
            wrong = await self._comparison.judge(connections)
        except MeshError as error:
            log.warning("gate_closed", code=error.code, error=str(error))
            await asyncio.sleep(_AGAIN_S)
            return
        names = {(each.server, each.cid): name_in(each.token) for each in connections}
        self._connected.on_listed(counted, names)
        known = names.keys()
        for place in known - wrong:
            self._doubts.forget(place)
        for place in before - known:
            self._on_ended(place)  # ended with its node, without an announcement
        if not self._is_open:
            self._is_open = True
            if self._plane.link.is_connected:
                self._plane.roster.on_rejoined(now_s=self._plane.clock.elapsed())
        for name in list(self._held):
            self._release(name)
        self._ask()

    def _close(self, _reason: MeshError) -> None:
        """Connections are not announced now, so no message is admitted, and no agent is judged."""
        self._is_open = False
        self._plane.roster.on_cut_off()
        self._fences.lose()
        self._doubts.restart({})
        self._wake.set()

    async def _compare(self) -> None:
        """Compare new connections; waits until there are some."""
        await self._wake.wait()
        self._wake.clear()
        while self._is_open and (places := self._doubts.take_fresh(_AT_ONCE)):
            try:
                found = await self._system.look_up(places)
                wrong = await self._comparison.judge(list(found.values()))
            except MeshError as error:
                log.warning("comparison_failed", code=error.code, error=str(error))
                self._doubts.put_back(places)
                await asyncio.sleep(_AGAIN_S)
                self._miss()
                return
            for place in places:
                self._on_judged(place, is_there=place in found, is_wrong=place in wrong)

    def _on_judged(self, place: Place, *, is_there: bool, is_wrong: bool) -> None:
        name = self._doubts.name_of(place)
        if name is None or is_wrong:
            return  # it is being cut, and its held messages are refused
        if not is_there:
            self._on_ended(place)
            return
        self._doubts.forget(place)
        self._release(name)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._fences.tick()
            before_s = self._plane.clock.elapsed() - _HELD_S
            for name, hold in list(self._held.items()):
                if hold.since_s < before_s:
                    self._drop(name)
            if self._is_open and self._batch and self._timer is None:
                self._ask()
            elif not self._is_open and self._batch and self._since_s < before_s:
                self._give_up_batch()

    def _give_up_batch(self) -> None:
        batch, self._batch = self._batch, []
        for word in batch:
            self._turns.refuse(word, unproved(word.name))


def _note_passed(passed: "asyncio.Future[None]", _whole: bool) -> None:  # noqa: FBT001
    if not passed.done():
        passed.set_result(None)
