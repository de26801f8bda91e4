"""Messages of an agent fit into the broker's limit, or are split."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker_agent.core.tasks import TaskEntry, TaskPhase
from broker_agent.services.control import ControlHandler
from schemas import codec, limits, subjects
from schemas.faults import Refused
from schemas.messages.liveness import Hello
from schemas.messages.work import AttemptReport, Control, ControlReply, Output, Report
from schemas.states import State
from schemas.texts import MARK
from tests.fake_clock import FakeClock
from tests.host.broker_agent.rig import Rig

WIDE = "\U0001f512"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path, clock=FakeClock())
    yield rig
    await rig.close()


async def test_sec_s30_hello_of_ten_thousand_tasks_fits_and_says_that_it_is_not_all(
    rig: Rig,
) -> None:
    for number in range(10_000):
        entry = TaskEntry(f"{number:064}", 999_999_999, number, 1.0)
        is_running = number >= 9_900
        entry.phase = TaskPhase.RUNNING if is_running else TaskPhase.ENDED
        entry.state = State.RUNNING if is_running else State.SUCCEEDED
        entry.pid = 2**22
        rig.station.book.add(entry, holds_slot=False)
    payload = codec.encode(rig.handshake._hello())
    assert len(payload) <= limits.PAYLOAD_BYTES
    hello = codec.decode(Hello, payload)
    assert (len(hello.tasks), hello.complete) == (limits.HELLO_TASKS, False)
    assert sum(task.state == "running" for task in hello.tasks) == 100, "what runs comes first"


async def test_sec_s30_reports_of_any_number_and_size_are_split_over_messages(rig: Rig) -> None:
    rig.link()
    output = Output(stdout=bytes(limits.INLINE_OUTPUT_BYTES))
    for number in range(1_000):
        is_large = number % 20 == 0
        rig.reporter.add(
            AttemptReport(
                command=f"{number:064}",
                attempt=1,
                kind="ended",
                seq=number,
                state="failed",
                reason=WIDE * (limits.REASON_LEN if is_large else 1),
                output=output if is_large else None,
            )
        )
    await asyncio.sleep(0)
    payloads = [
        payload
        for subject, payload in rig.wire.published
        if subject == subjects.up("g1", "a1", "report")
    ]
    assert all(len(payload) <= limits.PAYLOAD_BYTES for payload in payloads)
    reports = [codec.decode_sized(Report, payload) for payload in payloads]
    assert sum(len(report.items) for report in reports) == 1_000


async def test_sec_s30_words_of_an_agent_are_cut_to_what_a_master_reads(rig: Rig) -> None:
    def refuse(_ca_pem: bytes) -> None:
        raise Refused("request_invalid", WIDE * 100_000)

    controls = ControlHandler(rig.station, rig.running, rotate=lambda: None, trust=refuse)
    controls.on_control(codec.encode(Control(kind="trust", epoch=1, token="ctl", ca_pem="x")))
    (_, payload) = rig.wire.published[-1]
    message = codec.decode_sized(ControlReply, payload).message
    assert (len(message), message[-len(MARK) :]) == (limits.REASON_LEN, MARK)
