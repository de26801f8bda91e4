"""Fates of chunks under way, and the sources that may report them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker_agent.services.transit import STORED_S, Fate, Transit
from broker_client.runtime.frames import Msg
from schemas.subjects import CHUNK_HEADER, STORED
from tests.fake_clock import FakeClock
from tests.host.broker_agent.rig import Rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path, clock=FakeClock())
    yield rig
    await rig.close()


class Sender:
    """A sender through a transit whose stream answers on request only."""

    def __init__(self, rig: Rig) -> None:
        self.numbers: list[str] = []
        self.fates: list[Fate] = []
        self.rig = rig
        publish = rig.wire.publish_nowait

        def note(subject: str, payload: bytes, reply: str = "", headers: object = None) -> None:
            publish(subject, payload)
            assert isinstance(headers, dict)
            self.numbers.append(headers[CHUNK_HEADER])

        rig.wire.publish_nowait = note  # type: ignore[method-assign]
        self.transit = Transit(rig.station)

    def send(self) -> str:
        self.transit.send("log", b"x", self.fates.append)
        return self.numbers[-1]


def stored(number: str) -> Msg:
    headers = f"NATS/1.0\r\n{CHUNK_HEADER}: {number}\r\nNats-Sequence: 7\r\n\r\n"
    return Msg(f"mesh.v1.down.g1.a1.{STORED}.c1.1.stdout", "", b"", headers.encode())


async def test_first_acknowledgement_of_either_kind_counts_once(rig: Rig) -> None:
    sender = Sender(rig)
    first, second = sender.send(), sender.send()
    sender.transit.on_stored(stored(second))
    sender.transit.on_stored(stored(second))
    rig.wire._to_inbox(Msg("_INBOX_a1.1.1", "", b'{"stream":"MESH_LOGS","seq":8}'))
    sender.transit.on_stored(stored(first))
    assert sender.fates == [Fate.STORED, Fate.STORED]
    assert not len(sender.transit)


async def test_acknowledgement_for_another_start_of_the_agent_is_ignored(rig: Rig) -> None:
    sender = Sender(rig)
    other, fates = Transit(rig.station), list[Fate]()
    number = sender.send()
    other.send("log", b"x", fates.append)
    other.on_stored(stored(number))
    other.on_stored(stored(number.partition(".")[2]))
    other.on_stored(Msg("mesh.v1.down.g1.a1.stored.c1.1.stdout", "", b"", b"\xff\r\n"))
    assert not fates
    assert len(other) == 1


async def test_timeout_refusal_and_loss_are_distinguished(rig: Rig) -> None:
    clock = rig.clock
    assert isinstance(clock, FakeClock)
    sender = Sender(rig)
    sender.send()
    clock.advance(STORED_S - 1)
    sender.send()
    sender.transit.sweep()
    assert not sender.fates
    clock.advance(1)
    sender.transit.sweep()
    assert sender.fates == [Fate.UNANSWERED]
    rig.wire._to_inbox(Msg("_INBOX_a1.1.2", "", b'{"error":{"code":400,"err_code":10054}}'))
    assert sender.fates[1:] == [Fate.REFUSED]
    sender.send()
    sender.transit.on_disconnected()
    assert sender.fates[2:] == [Fate.LOST]
    rig.wire.is_connected = False
    sender.send()
    assert len(sender.fates) == 3, "never from within the call"
    await asyncio.sleep(0)
    assert sender.fates[3:] == [Fate.LOST]
