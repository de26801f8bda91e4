"""Room in the event stream that a checkpoint takes."""

from types import SimpleNamespace
from typing import Any, cast

from broker_master.services.checkpoint import Checkpointer
from broker_master.settings import LimitSettings, MasterSettings, RetentionSettings
from broker_master.store.facts import EVENTS
from schemas import subjects
from tests.unit.broker_master.stage import Stage

LIMIT = 1_000_000
BODY = b"x" * 4_000


class Shelf:
    """The event stream in memory, and all that a checkpoint asks of it."""

    def __init__(self) -> None:
        self.held: dict[int, bytes] = {}
        self.last_seq = 0
        self.most_bytes = 0

    def put(self, payload: bytes) -> int:
        self.last_seq += 1
        self.held[self.last_seq] = payload
        self.most_bytes = max(self.most_bytes, self.size)
        return self.last_seq

    @property
    def size(self) -> int:
        return sum(len(each) for each in self.held.values())

    async def info(self, stream: str) -> object:
        first = min(self.held) if stream == EVENTS else 0
        return SimpleNamespace(first_seq=first, last_seq=self.last_seq)

    async def purge_up_to(self, _stream: str, seq: int) -> int:
        before = len(self.held)
        self.held = {each: body for each, body in self.held.items() if each > seq}
        return before - len(self.held)

    async def payload_at(self, sequence: int) -> bytes | None:
        return self.held.get(sequence)

    async def rewrite(self, _subject: str, payload: bytes, expected: int) -> int:
        assert expected in self.held
        return self.put(payload)

    async def trim(self, _first_seq: int) -> None:
        """There is no read model."""


async def test_sec_s11_checkpoint_of_a_full_store_takes_a_hundredth_more() -> None:
    stage, shelf = Stage(), Shelf()
    plane = stage.plane
    plane.settings = MasterSettings(
        limits=LimitSettings(event_bytes=LIMIT), retention=RetentionSettings(facts_s=10)
    )
    for number in range(225):
        command = await stage.submit(f"c{number}")
        command.facts[subjects.fact(command.id, 0, "accepted")] = shelf.put(BODY)
    plane.facts = plane.readmodel = cast("Any", shelf)
    for number in range(0, 225, 3):  # these have ended, and are in history
        plane.book.forget(f"c{number}")
    checkpointer = Checkpointer(plane, cast("Any", shelf))
    full = shelf.most_bytes
    assert full == 225 * len(BODY)
    await checkpointer.step()
    stage.clock.advance(11)
    await checkpointer.step()
    assert shelf.most_bytes <= full + LIMIT // 100 + len(BODY)
    # All that is open is there, where its command says, and nothing else.
    open_at = [seq for each in plane.book for seq in each.facts.values()]
    assert sorted(open_at) == sorted(shelf.held)
    assert len(open_at) == 150
