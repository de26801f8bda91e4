"""Shares of the gate: a speaker that says too much takes neither room nor turn of others."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from broker_client.runtime.frames import Msg
from broker_master.services import turns as module
from broker_master.services.gate import Gate
from broker_master.services.turns import Turns
from schemas.faults import MeshError
from tests.fake_clock import FakeClock
from tests.planes import FakeLink, make_plane

KB = 1024


class SystemLink(FakeLink):
    """The system account's connection to a broker of one node, which answers when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.heard: Callable[[Msg], None] = lambda _: None

    def open_inbox(self, callback: object) -> tuple[str, Callable[[], None]]:
        self.heard = cast("Any", callback)
        return "_INBOX_system.1", lambda: None

    def publish_nowait(self, _subject: str, _payload: bytes, reply: str = "") -> None:
        self.asked.append(reply)

    def answer(self) -> None:
        """Answer all questions, in order."""
        asked, self.asked = self.asked, []
        for inbox in asked:
            self.heard(Msg(inbox, "", msgspec.json.encode({"id": "node"})))


class Hall:
    """An open gate. taken, refused: names of the speakers, in order."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.plane = make_plane(self.clock)
        self.link = SystemLink()
        system = SimpleNamespace()
        comparison = SimpleNamespace()
        self.room = Turns(self.plane)
        self.gate = Gate(
            self.plane,
            cast("Any", system),
            cast("Any", self.link),
            cast("Any", comparison),
            self.room,
        )
        self.gate._fences.nodes = {"node"}
        self.gate._is_open = True
        self.taken: list[str] = []
        self.refused: list[tuple[str, str]] = []

    def say(self, name: str, count: int = 1, *, size: int = 1) -> None:
        def refuse(fault: MeshError) -> None:
            self.refused.append((name, fault.code))

        for _ in range(count):
            self.gate.guard(name, size, lambda: self.taken.append(name), refuse)

    async def turns(self, count: int = 1) -> None:
        for _ in range(count):
            await asyncio.sleep(0)
            self.link.answer()

    @property
    def shed(self) -> int:
        return self.plane.telemetry.counters.get(("shed", "share"), 0)


async def test_sec_s11_one_speaker_has_a_share_of_what_waits() -> None:
    hall = Hall()
    hall.say("loud", module._WAITING_PER_IDENTITY + 10)
    hall.say("quiet", 5)
    assert hall.refused == [("loud", "rate_limited")] * 10
    assert hall.shed == 10
    await hall.turns(1000)
    assert hall.taken.count("loud") == module._WAITING_PER_IDENTITY
    assert hall.taken.count("quiet") == 5
    # The share is free again.
    hall.say("loud")
    await hall.turns(2)
    assert hall.taken[-1] == "loud"


async def test_sec_s11_one_speaker_has_a_share_of_the_bytes() -> None:
    hall = Hall()
    size = module._WAITING_BYTES_PER_IDENTITY // 4
    hall.say("loud", 6, size=size)
    hall.say("quiet", 2, size=size)
    assert hall.refused == [("loud", "rate_limited")] * 2
    await hall.turns(3)
    assert sorted(hall.taken) == ["loud"] * 4 + ["quiet"] * 2


async def test_sec_s11_all_speakers_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITING_MAX", 10)
    hall = Hall()
    for number in range(12):
        hall.say(f"c{number}")
    assert hall.refused == [("c10", "connection_unproved"), ("c11", "connection_unproved")]
    await hall.turns(2)
    assert len(hall.taken) == 10


async def test_sec_s11_words_of_others_come_between_those_of_one() -> None:
    """Said behind a flood, taken after the first part of it; each speaker's order is kept."""
    hall = Hall()
    hall.say("loud", 1000)
    hall.say("quiet")
    await hall.turns()
    assert hall.taken == ["loud"] * module._PER_TURN + ["quiet"]
    await hall.turns(3)
    assert len(hall.taken) < 1000, "the loop turns meanwhile"
    hall.say("late")
    await hall.turns(2)
    assert "late" in hall.taken
    assert hall.taken.index("late") < 1000
    await hall.turns(1000)
    assert hall.taken.count("loud") == 1000


async def test_sec_s11_refusals_are_not_answered_without_end() -> None:
    hall = Hall()
    hall.say("loud", module._WAITING_PER_IDENTITY + 5000)
    assert len(hall.refused) == module._REFUSALS_BURST
    assert hall.shed == 5000
    hall.say("other", module._WAITING_PER_IDENTITY + 1)
    assert hall.refused[-1] == ("other", "rate_limited")
    hall.clock.advance(1)
    hall.say("loud", 200)
    answered = [name for name, _ in hall.refused].count("loud")
    assert answered == module._REFUSALS_BURST + module._REFUSALS_PER_S


async def test_sec_s11_speakers_that_are_remembered_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_SPEAKERS_KEPT", 5)
    hall = Hall()
    hall.say("waits")
    for number in range(4):
        hall.say(f"c{number}")
    await hall.turns(2)
    hall.say("waits", module._WAITING_PER_IDENTITY)
    for number in range(20):
        hall.room._new_speaker(f"d{number}")
    assert len(hall.room._speakers) <= 6
    hall.say("waits")
    assert hall.refused == [("waits", "rate_limited")], "its share was not forgotten"
