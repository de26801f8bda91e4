"""Clocks that are set, brokers that store nothing, agents that return: what waits is not harmed."""

import asyncio
from typing import Any, cast

import pytest

from broker_master.services.intake import Answer
from schemas import codec, subjects
from schemas.faults import Refused, Unreachable
from schemas.messages.api import SubmitAnswer
from schemas.messages.work import Control, ControlReply
from schemas.states import State
from tests.planes import add_agent
from tests.unit.broker_master.deeds import accepted
from tests.unit.broker_master.stage import Stage, states


@pytest.mark.parametrize("step_s", [3600.0, 2 * 86_400.0, -3600.0])
async def test_waiting_command_does_not_age_by_a_clock_that_is_set(step_s: float) -> None:
    stage = Stage()
    command = await stage.submit(queue_ttl_s=60.0)
    await stage.later(1)
    stage.clock.set_wall(stage.clock.now() + step_s)
    await stage.later(58)
    assert states(command) == [State.QUEUED]
    await stage.later(1)
    assert states(command) == [State.EXPIRED]


class Stalled(Stage):
    """Its broker answers no write; its writer notices when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        add_agent(self.plane, "web-1", "web")
        self.held: list[asyncio.Future[int]] = []
        self.facts.append = self._hold  # type: ignore[method-assign, assignment]
        self.told: list[object] = []

    def _hold(self, *_: object) -> "asyncio.Future[int]":
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.held.append(future)
        return future

    def take_in(self, command_id: str) -> None:
        body = cast("Any", accepted(command_id)[1])
        self.intake.take_in(body, cast("Answer", self.told.append))


async def test_client_that_waits_gets_a_fault_if_the_broker_stores_nothing() -> None:
    stage = Stalled()
    stage.take_in("c1")
    assert stage.told == []
    stage.writer.stalled_since = stage.clock.elapsed()
    stage.writer.on_stalled()
    (unsure,) = stage.told
    assert isinstance(unsure, Unreachable)
    assert (unsure.code, unsure.effect) == ("store_unavailable", "unknown")
    with pytest.raises(Unreachable) as again:
        stage.take_in("c1")
    assert again.value.effect == "unknown"
    with pytest.raises(Refused) as new:
        stage.take_in("c2")
    assert (new.value.code, new.value.effect) == ("store_unavailable", "none")
    assert len(stage.held) == 1


async def test_command_that_was_stored_after_all_is_found_under_its_id() -> None:
    stage = Stalled()
    stage.take_in("c1")
    stage.writer.stalled_since = stage.clock.elapsed()
    stage.writer.on_stalled()
    stage.held[0].set_result(7)
    stage.writer.stalled_since = None
    await stage.rest()
    stage.take_in("c1")
    assert stage.told[1:] == [SubmitAnswer(id="c1", state="queued", duplicate=True)]


async def test_cancel_of_what_a_silent_agent_may_have_is_not_sent_again_as_a_run() -> None:
    stage = Stage("web-1")
    command = await stage.submit("c1")
    await stage.later(stage.timers.suspect_s)
    sent = len(stage.runs())
    assert states(command) == [State.UNKNOWN, State.UNKNOWN]
    await stage.canceller.cancel(command, "ops")
    await stage.hello("web-1")
    assert len(stage.runs()) == sent
    control = codec.decode(Control, stage.sent("web-1", "control")[-1])
    assert (control.kind, control.command, control.attempt) == ("cancel", "c1", 1)
    said = ControlReply(kind="cancel", command="c1", attempt=1, known=False)
    stage.reports.on_reply(subjects.Up("web", "web-1", "reply", ("t",)), codec.encode(said))
    await stage.rest()
    assert states(command) == [State.CANCELLED, State.CANCELLED]


async def test_nothing_else_is_decided_while_an_operators_word_is_stored() -> None:
    stage = Stage("web-1")
    command = await stage.submit(on_lost="wait")
    await stage.report("web-1", "c1", "lost")
    append, held = stage.facts.append, asyncio.get_running_loop().create_future()
    stage.facts.append = lambda *_: held  # type: ignore[method-assign]
    word = asyncio.create_task(stage.canceller.decide(command, "rerun", "ops"))
    await stage.rest()
    await stage.later(stage.timers.decide_s, beats=("web-1",))
    assert states(command) == [State.UNKNOWN, State.LOST]
    with pytest.raises(Refused, match="c1 is unknown") as refused:
        await asyncio.wait_for(stage.canceller.decide(command, "fail", "ann"), 60)
    assert refused.value.code == "not_undecided"
    stage.facts.append = append  # type: ignore[method-assign]
    held.set_result(9)
    await word
    await stage.rest()
    assert states(command) == [State.SENT, State.LOST, State.SENT]


async def test_word_that_cannot_be_stored_leaves_the_command_to_the_next_one() -> None:
    stage = Stage("web-1")
    command = await stage.submit(on_lost="wait")
    await stage.report("web-1", "c1", "lost")
    stage.facts.fault = Refused("store_full", "no room")
    with pytest.raises(Refused):
        await stage.canceller.decide(command, "rerun", "ops")
    stage.facts.fault = None
    await stage.canceller.decide(command, "fail", "ops")
    await stage.rest()
    assert states(command) == [State.LOST, State.LOST]


async def test_choice_for_a_command_that_has_ended_is_given_back() -> None:
    stage = Stage("web-1")
    command = await stage.submit()
    await stage.report("web-1", "c1", "succeeded", exit_code=0)
    stage.settler.on_requeue(command, "")
    await stage.rest()
    assert states(command) == [State.SUCCEEDED, State.SUCCEEDED]
    assert stage.plane.dispatcher.load("web-1") == 0
    assert "2.assigned" not in stage.facts.kinds("c1")
