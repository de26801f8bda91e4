"""Lets through what was said over connections whose certificate and token belong together.

The subject of a message says whose token the connection has shown, and the broker enforces that;
whether the certificate was of the same holder is known once the connection was compared. A message
does not say which of its identity's connections it came over, so all of them have to be in order:

    message ─▶ fence: every connection made before it is known ─▶ all compared? ─yes─▶ let through
                                                                       └─no─▶ held for a moment

What was held, and came over a connection that turned out wrong or went away uncompared, cannot be
told from what its identity itself has said meanwhile: all of it is refused, to be said again.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
import structlog

from broker_client.runtime.link import Link
from broker_master.core.doubts import Doubts, Place
from broker_master.plane import Plane
from broker_master.services.comparison import Comparison, name_in
from broker_master.services.fences import Fences
from broker_master.services.system import BrokerSystem
from schemas.faults import MeshError, Refused

log = structlog.get_logger()

# How long something may be held until it is refused.
_HELD_S: Final = 2.0
_HELD_PER_IDENTITY: Final = 512
_HELD_BYTES_PER_IDENTITY: Final = 4 * 1024 * 1024
# All that waits for fences; what comes beyond this is refused.
_WAITING_MAX: Final = 20_000
_WAITING_BYTES: Final = 64 * 1024 * 1024
_FENCES_MAX: Final = 4
# What nobody waits for goes through the next fence of others, or after this.
_PATIENT_S: Final = 0.005
_TICK_S: Final = 0.1
_AT_ONCE: Final = 64
_AGAIN_S: Final = 0.5

Pass = Callable[[], object]
Refuse = Callable[[MeshError], object]


class _Word(msgspec.Struct):
    """Something said. size: in bytes, as it came."""

    name: str
    size: int
    take: Pass
    refuse: Refuse


class _Hold:
    __slots__ = ("since_s", "size", "words")

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self.size = 0
        self.words: deque[_Word] = deque()


class Gate:
    """Closed until every live connection was compared, and while none would be told of."""

    name = "gate"

    def __init__(
        self, plane: Plane, system: BrokerSystem, link: Link, comparison: Comparison
    ) -> None:
        self._plane = plane
        self._system = system
        self._comparison = comparison
        self._fences = Fences(link, plane.clock)
        self._doubts = Doubts()
        self._is_open = False
        self._batch: list[_Word] = []
        self._since_s = 0.0
        self._waiting = self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._is_urgent = False
        self._held: dict[str, _Hold] = {}
        self._wake = asyncio.Event()
        self._missed = asyncio.Event()
        link.on_disconnected(self._close)

    # -- what is said

    def guard(
        self, name: str, size: int, take: Pass, refuse: Refuse, *, is_urgent: bool = True
    ) -> None:
        """Call `take` when what `name` has said may be believed; `refuse` if it never may be."""
        if self._waiting >= _WAITING_MAX or self._waiting_bytes + size > _WAITING_BYTES:
            refuse(_unproved(name))
            return
        if not self._batch:
            self._since_s = self._plane.clock.elapsed()
        self._waiting += 1
        self._waiting_bytes += size
        self._batch.append(_Word(name, size, take, refuse))
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
        # Of those under way the next to pass asks again.
        if not self._batch or not self._is_open or len(self._fences) >= _FENCES_MAX:
            return
        batch, self._batch = self._batch, []
        try:
            self._fences.ask(lambda whole: self._on_passed(batch, whole=whole))
        except MeshError:
            self._batch = batch

    def _on_passed(self, batch: list[_Word], *, whole: bool) -> None:
        for word in batch:
            self._waiting -= 1
            self._waiting_bytes -= word.size
            if not whole:
                self._refuse(word)
            elif word.name not in self._held and self._doubts.is_clear(word.name):
                self._take(word)
            else:
                self._hold(word)
        if self._batch and self._timer is None:
            self._ask()

    def _take(self, word: _Word) -> None:
        try:
            word.take()
        except Exception:
            # As the link does with what it calls: the next one is not to suffer from it.
            log.exception("message_failed", speaker=word.name)

    def _refuse(self, word: _Word) -> None:
        self._plane.count("shed", "unproved")
        word.refuse(_unproved(word.name))

    def _hold(self, word: _Word) -> None:
        hold = self._held.get(word.name)
        if hold is None:
            hold = self._held[word.name] = _Hold(self._plane.clock.elapsed())
        is_full = (
            len(hold.words) >= _HELD_PER_IDENTITY
            or hold.size + word.size > _HELD_BYTES_PER_IDENTITY
        )
        if is_full:
            self._refuse(word)
            return
        hold.words.append(word)
        hold.size += word.size

    def _let_go(self, name: str) -> None:
        """Let through what is held of `name`, if nothing is in doubt any more."""
        if self._doubts.is_clear(name):
            hold = self._held.pop(name, None)
            for word in hold.words if hold is not None else ():
                self._take(word)

    def _throw_away(self, name: str) -> None:
        hold = self._held.pop(name, None)
        for word in hold.words if hold is not None else ():
            self._refuse(word)

    # -- connections

    def on_event(self, kind: str, body: dict[str, Any]) -> None:
        client = body.get("client", {})
        place = (str(body.get("server", {}).get("id", "")), int(client.get("id", 0)))
        if kind == "DISCONNECT":
            self._on_ended(place)
        elif client.get("user"):
            self._doubts.on_connected(place, name_in(str(client.get("jwt", ""))))
            self._wake.set()

    def _on_ended(self, place: Place) -> None:
        """What it had sent is on its way to us; before it is here, nothing more is believed."""
        name = self._doubts.name_of(place)
        if name is not None:
            self._plane.spawn(self._see_off(place, name))

    async def _see_off(self, place: Place, name: str) -> None:
        try:
            await self._plane.link.flush()
        except MeshError as error:
            # What was on its way is lost with the link.
            log.info("gate_unflushed", speaker=name, error=str(error))
        # What the flush has brought may still wait for its fence to be asked.
        batch, self._batch = self._batch, []
        for word in batch:
            if word.name != name:
                self._batch.append(word)
                continue
            self._waiting -= 1
            self._waiting_bytes -= word.size
            self._hold(word)
        passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._fences.ask(partial(_note_passed, passed))
            await passed
        except MeshError as error:
            log.info("gate_unfenced", speaker=name, error=str(error))
        self._throw_away(name)
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
        """Compare all that is connected, whatever was heard of it before."""
        self._missed.clear()
        try:
            self._fences.nodes = await self._system.nodes()
            before = self._doubts.places()
            connections = await self._system.connections()
            wrong = await self._comparison.judge(connections)
        except MeshError as error:
            log.warning("gate_closed", code=error.code, error=str(error))
            await asyncio.sleep(_AGAIN_S)
            return
        known = {(each.server, each.cid) for each in connections}
        for place in known - wrong:
            self._doubts.forget(place)
        for place in before - known:
            self._on_ended(place)  # with its node, which told nobody
        if not self._is_open:
            self._is_open = True
            if self._plane.link.is_connected:
                self._plane.roster.on_rejoined(now_s=self._plane.clock.elapsed())
        for name in list(self._held):
            self._let_go(name)
        self._ask()

    def _close(self, _reason: MeshError) -> None:
        """Nobody is told of connections now, so nobody can be believed, and none is judged."""
        self._is_open = False
        self._plane.roster.on_cut_off()
        self._fences.lose()
        self._doubts.restart({})
        self._wake.set()

    async def _compare(self) -> None:
        """Those that were just made; waits until there are some."""
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
            return  # it is being cut, and what was held goes with it
        if not is_there:
            self._on_ended(place)
            return
        self._doubts.forget(place)
        self._let_go(name)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._fences.tick()
            before_s = self._plane.clock.elapsed() - _HELD_S
            for name, hold in list(self._held.items()):
                if hold.since_s < before_s:
                    self._throw_away(name)
            if self._is_open and self._batch and self._timer is None:
                self._ask()
            elif not self._is_open and self._batch and self._since_s < before_s:
                self._give_up_batch()

    def _give_up_batch(self) -> None:
        batch, self._batch = self._batch, []
        for word in batch:
            self._waiting -= 1
            self._waiting_bytes -= word.size
            self._refuse(word)


def _note_passed(passed: "asyncio.Future[None]", _whole: bool) -> None:  # noqa: FBT001
    if not passed.done():
        passed.set_result(None)


def _unproved(name: str) -> Refused:
    return Refused("connection_unproved", f"a connection of {name} was not compared in time")
