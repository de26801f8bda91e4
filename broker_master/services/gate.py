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
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final

import msgspec
import structlog

from broker_client.runtime.link import Link
from broker_client.runtime.rates import TokenBucket
from broker_client.runtime.signals import Signal
from broker_master.core.connected import Connected
from broker_master.core.doubts import Doubts, Place
from broker_master.plane import Plane
from broker_master.services.comparison import Comparison, name_in
from broker_master.services.fences import Fences
from broker_master.services.system import BrokerSystem
from schemas.faults import MeshError, Refused

log = structlog.get_logger()

# Longest time that a message is held before it is refused.
_HELD_S: Final = 2.0
_HELD_PER_IDENTITY: Final = 512
_HELD_BYTES_PER_IDENTITY: Final = 4 * 1024 * 1024
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
_FENCES_MAX: Final = 4
# Messages without a waiting sender pass with the next fence, or after this time.
_PATIENT_S: Final = 0.005
_TICK_S: Final = 0.1
_AT_ONCE: Final = 64
_AGAIN_S: Final = 0.5

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
        self.queue: deque[_Word] = deque()
        self.refusals = TokenBucket(per_s=_REFUSALS_PER_S, burst=_REFUSALS_BURST)


class _Word(msgspec.Struct):
    """A waiting message. size: in bytes, as received."""

    speaker: _Speaker
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
    """Closed until every live connection was compared, and while connections are not announced.

    on_gone: called with each identity whose last connection has ended.
    """

    name = "gate"

    def __init__(
        self, plane: Plane, system: BrokerSystem, link: Link, comparison: Comparison
    ) -> None:
        self._plane = plane
        self._system = system
        self._comparison = comparison
        self._fences = Fences(link, plane.clock)
        self._doubts = Doubts()
        self._connected = Connected()
        self.on_gone: Signal[[str]] = Signal()
        self._is_open = False
        self._batch: list[_Word] = []
        self._since_s = 0.0
        self._waiting = self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._is_urgent = False
        self._speakers: dict[str, _Speaker] = {}
        self._late: deque[_Speaker] = deque()
        self._turn = 0
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
        speaker = self._speakers.get(name) or self._new_speaker(name)
        if self._waiting >= _WAITING_MAX or self._waiting_bytes + size > _WAITING_BYTES:
            self._shed(speaker, refuse, _unproved(name))
            return
        if (
            speaker.waiting >= _WAITING_PER_IDENTITY
            or speaker.size + size > _WAITING_BYTES_PER_IDENTITY
        ):
            self._shed(speaker, refuse, _crowded(speaker))
            return
        if not self._batch:
            self._since_s = self._plane.clock.elapsed()
        word = _Word(speaker, name, size, take, refuse)
        self._enter(word)
        self._batch.append(word)
        if self._timer is None or (is_urgent and not self._is_urgent):
            self._schedule(is_urgent=is_urgent)

    def _new_speaker(self, name: str) -> _Speaker:
        if len(self._speakers) >= _SPEAKERS_KEPT:
            self._speakers = {key: each for key, each in self._speakers.items() if each.waiting}
        speaker = self._speakers[name] = _Speaker(name)
        return speaker

    def _shed(self, speaker: _Speaker, refuse: Refuse, fault: Refused) -> None:
        self._plane.count("shed", "share")
        self._tell(speaker, refuse, fault)

    def _tell(self, speaker: _Speaker, refuse: Refuse, fault: Refused) -> None:
        """Send a refusal, within a rate limit: an answer costs more than its message."""
        if speaker.refusals.take(self._plane.clock.elapsed()):
            refuse(fault)

    def _enter(self, word: _Word) -> None:
        self._waiting += 1
        self._waiting_bytes += word.size
        word.speaker.waiting += 1
        word.speaker.size += word.size

    def _leave(self, word: _Word) -> None:
        """Remove a message from the counts of waiting ones."""
        self._waiting -= 1
        self._waiting_bytes -= word.size
        word.speaker.waiting -= 1
        word.speaker.size -= word.size

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

    def _on_passed(self, batch: list[_Word], *, whole: bool) -> None:
        self._turn += 1
        for word in batch:
            if not whole:
                self._leave(word)
                self._refuse(word)
            elif word.name not in self._held and self._doubts.is_clear(word.name):
                self._pass(word)
            else:
                self._leave(word)
                self._hold(word)
        if self._batch and self._timer is None:
            self._ask()

    def _pass(self, word: _Word) -> None:
        """Deliver a message now; after its sender's share of the turn, between others."""
        speaker = word.speaker
        if speaker.turn != self._turn:
            speaker.turn, speaker.taken = self._turn, 0
        if speaker.queue or speaker.taken >= _PER_TURN:
            if not speaker.queue:
                self._await_turn(speaker)
            speaker.queue.append(word)
            return
        speaker.taken += 1
        self._leave(word)
        self._take(word)

    def _retake(self, word: _Word) -> None:
        """Deliver a held message behind the earlier ones of its sender."""
        if word.speaker.queue:
            self._enter(word)
            word.speaker.queue.append(word)
        else:
            self._take(word)

    def _await_turn(self, speaker: _Speaker) -> None:
        if not self._late:
            asyncio.get_running_loop().call_soon(self._take_turns)
        self._late.append(speaker)

    def _take_turns(self) -> None:
        speakers, self._late = self._late, deque()
        for speaker in speakers:
            for _ in range(min(_PER_TURN, len(speaker.queue))):
                word = speaker.queue.popleft()
                self._leave(word)
                self._take(word)
            if speaker.queue:
                self._await_turn(speaker)

    def _take(self, word: _Word) -> None:
        try:
            word.take()
        except Exception:
            # As in the link: a failing handler must not affect the next message.
            log.exception("message_failed", speaker=word.name)

    def _refuse(self, word: _Word) -> None:
        self._plane.count("shed", "unproved")
        self._tell(word.speaker, word.refuse, _unproved(word.name))

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

    def _release(self, name: str) -> None:
        """Deliver the held messages of `name`, if none of its connections is in doubt any more."""
        if self._doubts.is_clear(name):
            hold = self._held.pop(name, None)
            for word in hold.words if hold is not None else ():
                self._retake(word)

    def _drop(self, name: str) -> None:
        hold = self._held.pop(name, None)
        for word in hold.words if hold is not None else ():
            self._refuse(word)

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
            self._leave(word)
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
            self._leave(word)
            self._refuse(word)


def _note_passed(passed: "asyncio.Future[None]", _whole: bool) -> None:  # noqa: FBT001
    if not passed.done():
        passed.set_result(None)


def _crowded(speaker: _Speaker) -> Refused:
    said = f"{speaker.waiting} requests, {speaker.size} bytes, of {speaker.name} wait already"
    return Refused("rate_limited", f"{said}: ask when some of them are answered")


def _unproved(name: str) -> Refused:
    return Refused("connection_unproved", f"a connection of {name} was not compared in time")
