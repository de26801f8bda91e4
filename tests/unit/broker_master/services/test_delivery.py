"""From the choice of an agent to its acknowledgement, with every answer that may come or not."""

import asyncio

import pytest

from schemas import codec, subjects
from schemas.faults import Refused
from schemas.messages.liveness import Beat
from schemas.states import State
from tests.unit.broker_master.stage import Stage, attempt_of, states


async def test_command_is_sent_once_its_assignment_is_durable_and_acknowledged() -> None:
    stage = Stage("web-1")
    command = await stage.submit()
    (run,) = stage.runs()
    assert (run.command, run.attempt, run.epoch, run.incarnation) == ("c1", 1, 1, "i1")
    assert stage.facts.kinds("c1")[-1] == "1.assigned"
    await stage.reply("web-1", "c1", "accepted")
    assert states(command) == [State.ACCEPTED, State.ACCEPTED]
    await stage.later(10 * stage.timers.ack_s, beats=("web-1",))
    assert len(stage.runs()) == 1


async def test_assignment_that_cannot_be_stored_sends_nothing_and_the_command_waits() -> None:
    stage = Stage("web-1")
    stage.facts.fault = Refused("store_full", "no room")
    command = await stage.submit()
    assert (states(command), stage.runs()) == ([State.QUEUED], [])
    assert stage.plane.dispatcher.load("web-1") == 0
    stage.facts.fault = None
    await stage.later(0)
    assert len(stage.runs()) == 1


async def test_first_send_and_all_resends_then_undeliverable() -> None:
    stage = Stage("web-1")
    command = await stage.submit()
    for count in range(1, stage.timers.resends + 2):
        assert len(stage.runs()) == count
        assert command.state is State.SENT
        await stage.later(stage.timers.ack_s, beats=("web-1",))
    assert len(stage.runs()) == stage.timers.resends + 1
    assert states(command) == [State.UNDELIVERABLE, State.UNDELIVERABLE]
    assert {(run.command, run.attempt) for run in stage.runs()} == {("c1", 1)}
    assert stage.plane.dispatcher.load("web-1") == 0


async def test_master_that_is_cut_off_counts_no_deadline() -> None:
    """A master that is cut off receives no acknowledgement, so silence proves nothing."""
    stage = Stage("web-1")
    command = await stage.submit()
    stage.link.is_connected = False
    stage.plane.roster.on_cut_off()
    for _ in range(20):
        await stage.later(stage.timers.ack_s)
    assert states(command) == [State.SENT, State.SENT]
    stage.link.is_connected = True
    stage.plane.roster.on_rejoined(now_s=stage.clock.elapsed())
    await stage.later(0, beats=("web-1",))
    assert len(stage.runs()) == 1
    await stage.later(stage.timers.ack_s, beats=("web-1",))
    assert len(stage.runs()) == 2
    await stage.reply("web-1", "c1", "duplicate")
    assert states(command) == [State.ACCEPTED, State.ACCEPTED]


async def test_last_transmission_before_a_cut_is_asked_for_once_more() -> None:
    stage = Stage("web-1")
    command = await stage.submit()
    for _ in range(stage.timers.resends):
        await stage.later(stage.timers.ack_s, beats=("web-1",))
    sent = len(stage.runs())
    stage.link.is_connected = False
    stage.plane.roster.on_cut_off()
    await stage.later(100)
    stage.link.is_connected = True
    stage.plane.roster.on_rejoined(now_s=stage.clock.elapsed())
    await stage.later(0, beats=("web-1",))
    await stage.later(stage.timers.ack_s, beats=("web-1",))
    assert len(stage.runs()) == sent + 1
    assert command.state is State.SENT


async def test_silent_agent_is_sent_nothing_and_its_attempts_are_unknown() -> None:
    stage = Stage("web-1")
    command = await stage.submit()
    await stage.later(stage.timers.suspect_s)
    assert command.state is State.UNKNOWN
    sent = len(stage.runs())
    await stage.later(stage.timers.ack_s)
    assert len(stage.runs()) == sent


async def test_rejection_of_a_group_command_tries_another_member() -> None:
    stage = Stage("web-1", "web-2")
    command = await stage.submit()
    first = attempt_of(command).agent
    await stage.reply(first, "c1", "rejected", code="agent_full")
    assert states(command) == [State.SENT, State.REJECTED, State.SENT]
    assert attempt_of(command).agent != first
    assert stage.facts.kinds("c1")[-2:] == ["1.outcome", "2.assigned"]


async def test_attempt_in_transit_to_an_agent_that_left_empty_runs_on_another_member() -> None:
    stage = Stage("web-1", "web-2")
    command = await stage.submit()
    first = attempt_of(command).agent
    stage.goodbye(first, empty=True)
    await stage.rest()
    assert states(command) == [State.SENT, State.REJECTED, State.SENT]
    assert attempt_of(command).agent != first
    assert command.attempts[0].reason == "agent_draining: shut down before it had the attempt"


async def test_command_for_an_agent_that_left_empty_waits_for_its_return() -> None:
    stage = Stage("web-1")
    command = await stage.submit(agent="web-1")
    stage.goodbye("web-1", empty=True)
    await stage.later(10 * stage.timers.lost_s)
    assert states(command) == [State.QUEUED, State.REJECTED]
    await stage.hello("web-1", incarnation="i2")
    await stage.later(0)
    assert states(command) == [State.SENT, State.REJECTED, State.SENT]


async def test_cancelled_attempt_in_transit_ends_with_the_agent_that_left_empty() -> None:
    stage = Stage("web-1", "web-2")
    command = await stage.submit()
    await stage.canceller.cancel(command, "ops")
    stage.goodbye(attempt_of(command).agent, empty=True)
    await stage.rest()
    assert states(command) == [State.CANCELLED, State.CANCELLED]
    assert command.reason == "cancelled by ops"


@pytest.mark.parametrize("is_accepted", [True, False])
async def test_attempt_of_an_agent_that_left_work_behind_is_lost_after_its_lease(
    *, is_accepted: bool
) -> None:
    """A goodbye without `empty`, as 0.1.0 sends it, does not show that the attempt never ran."""
    stage = Stage("web-1", "web-2")
    command = await stage.submit()
    if is_accepted:
        await stage.reply(attempt_of(command).agent, "c1", "accepted")
    stage.goodbye(attempt_of(command).agent, empty=is_accepted)
    await stage.rest()
    assert states(command) == [State.UNKNOWN, State.UNKNOWN]
    await stage.later(2 * stage.timers.lost_s)
    assert states(command) == [State.LOST, State.LOST]


async def test_goodbye_of_a_session_without_a_handshake_proves_nothing() -> None:
    """Another session of the identity may have accepted the attempt."""
    stage = Stage("web-1", "web-2")
    command = await stage.submit()
    said = Beat(incarnation="i2", seq=1, slots=8, goodbye=True, empty=True)
    stage.presence.on_beat(
        subjects.Up("web", attempt_of(command).agent, "beat", ()), codec.encode(said)
    )
    await stage.rest()
    assert states(command) == [State.UNKNOWN, State.UNKNOWN]


async def test_attempt_recorded_after_the_goodbye_of_its_agent_is_never_sent_there() -> None:
    """Between the choice and its record an agent of 0.1.0 says goodbye."""
    stage = Stage("web-1", "web-2")
    submitted = asyncio.ensure_future(stage.submit())
    for agent in ("web-1", "web-2"):
        asyncio.get_running_loop().call_soon(stage.goodbye, agent)
    command = await submitted
    assert (stage.runs("web-1"), stage.runs("web-2")) == ([], [])
    assert states(command) == [State.QUEUED, State.REJECTED]


async def test_rejection_of_an_older_transmission_counts_for_nothing() -> None:
    """The later one may have been accepted: run elsewhere, the command would run twice."""
    stage = Stage("web-1", "web-2")
    command = await stage.submit()
    agent = attempt_of(command).agent
    older = stage.runs(agent)[0].token
    await stage.later(stage.timers.ack_s, beats=("web-1", "web-2"))
    assert len(stage.runs(agent)) == 2
    await stage.reply(agent, "c1", "rejected", token=older, code="agent_full")
    assert states(command) == [State.SENT, State.SENT]
    await stage.reply(agent, "c1", "accepted")
    assert states(command) == [State.ACCEPTED, State.ACCEPTED]
    await stage.reply(agent, "c1", "rejected", token=older, code="agent_full")
    assert states(command) == [State.ACCEPTED, State.ACCEPTED]


async def test_rejection_by_the_only_target_is_final() -> None:
    stage = Stage("web-1")
    command = await stage.submit(agent="web-1")
    await stage.reply("web-1", "c1", "rejected", code="attempt_stale")
    assert states(command) == [State.REJECTED, State.REJECTED]
    assert stage.ended[0].state == "rejected"


async def test_answer_of_another_agent_is_forged_and_changes_nothing() -> None:
    stage = Stage("web-1", "web-2")
    command = await stage.submit(agent="web-1")
    token = stage.runs("web-1")[0].token
    for answer in ("accepted", "rejected"):
        await stage.reply("web-2", "c1", answer, token=token)
    assert states(command) == [State.SENT, State.SENT]


async def test_cancel_before_anything_was_sent_ends_it_there() -> None:
    stage = Stage("web-1")
    stage.facts.fault = Refused("store_full", "no room")
    command = await stage.submit()
    stage.facts.fault = None
    await stage.canceller.cancel(command, "ops")
    await stage.later(0)
    assert (command.state, stage.runs()) == (State.CANCELLED, [])


async def test_cancel_whose_end_could_not_be_stored_is_not_forgotten() -> None:
    stage = Stage()
    command = await stage.submit()
    cancel = stage.canceller.cancel(command, "ops")
    original = stage.facts.append
    calls = 0

    def fails_once(fact: object, body: object) -> object:
        nonlocal calls
        calls += 1
        stage.facts.fault = Refused("store_full", "no room") if calls == 2 else None
        return original(fact, body)  # type: ignore[arg-type]

    stage.facts.append = fails_once  # type: ignore[method-assign, assignment]
    await cancel
    await stage.rest()
    assert command.state is State.QUEUED
    await stage.later(0)
    assert states(command) == [State.CANCELLED]


@pytest.mark.parametrize("waits", [0.5, 899.0])
async def test_command_without_an_agent_expires_in_its_own_time(waits: float) -> None:
    stage = Stage()
    command = await stage.submit(queue_ttl_s=waits)
    await stage.later(waits - 0.1)
    assert states(command) == [State.QUEUED]
    await stage.later(0.1)
    assert states(command) == [State.EXPIRED]
    assert stage.plane.dispatcher.waiting("web") == 0
