"""An agent that comes back without its memory: what it forgot may still run elsewhere."""

from broker_master.core.records import command_record
from schemas.messages.liveness import TaskStatus
from schemas.states import State
from tests.planes import beat
from tests.unit.broker_master.deeds import replayed
from tests.unit.broker_master.stage import Stage, attempt_of, states

FORGOTTEN = "web-1 came back without any memory of it"


async def taken_on(stage: Stage, command_id: str = "c1", **fields: str | float) -> None:
    await stage.submit(command_id, **fields)
    await stage.reply("web-1", command_id, "accepted")


async def test_forgotten_attempt_is_lost_after_the_lease_of_the_earlier_session() -> None:
    stage = Stage("web-1")
    await taken_on(stage)
    command = stage.plane.book.get("c1")
    assert command is not None
    await stage.hello("web-1", incarnation="i2")
    assert states(command) == [State.UNKNOWN, State.UNKNOWN]
    record = command_record(command, stage.timers)
    assert record.reason == f"{FORGOTTEN}; it may still run elsewhere"
    assert record.next.startswith("given up at ")
    await stage.later(stage.timers.lost_s - 0.1)
    assert states(command)[0] is State.UNKNOWN
    await stage.later(0.1)
    assert states(command) == [State.LOST, State.LOST]
    assert command.reason == FORGOTTEN


async def test_forgotten_attempt_is_neither_sent_again_nor_cancelled_within_that_lease() -> None:
    stage = Stage("web-1")
    await taken_on(stage)
    command = stage.plane.book.get("c1")
    assert command is not None
    sent = len(stage.runs())
    for _ in range(2):
        await stage.hello("web-1", incarnation="i2")
    await stage.canceller.cancel(command, "ops")
    await stage.later(stage.timers.ack_s)
    assert (len(stage.runs()), stage.sent("web-1", "control")) == (sent, [])
    assert states(command)[0] is State.UNKNOWN
    await stage.later(stage.timers.lost_s)
    assert states(command)[0] is State.LOST


async def test_longer_leave_of_the_one_before_is_waited_out() -> None:
    stage = Stage("web-1")
    await taken_on(stage, kill_after_s=500.0)
    command = stage.plane.book.get("c1")
    assert command is not None
    await stage.hello("web-1", incarnation="i2")
    for _ in range(50):
        await stage.later(10, beats=())
        await stage.hello("web-1", incarnation="i2")
    assert states(command)[0] is State.UNKNOWN
    await stage.later(stage.timers.lost_after_s(500.0) - 500)
    assert states(command)[0] is State.LOST


async def test_idempotent_command_is_retried_only_after_that_lease() -> None:
    stage = Stage("web-1")
    await taken_on(stage, on_lost="rerun")
    command = stage.plane.book.get("c1")
    assert command is not None
    await stage.hello("web-1", incarnation="i2")
    await stage.later(stage.timers.lost_s - 1)
    assert len(command.attempts) == 1
    await stage.hello("web-1", incarnation="i2")
    await stage.later(1)
    await stage.later(0)
    assert states(command)[1:] == [State.LOST, State.SENT]


async def test_one_that_has_said_goodbye_runs_nothing_any_more() -> None:
    stage = Stage("web-1")
    await taken_on(stage)
    command = stage.plane.book.get("c1")
    assert command is not None
    stage.goodbye("web-1")
    await stage.hello("web-1", incarnation="i2")
    assert states(command) == [State.LOST, State.LOST]


async def test_agent_that_forgot_one_attempt_may_have_forgotten_unacknowledged_ones() -> None:
    stage = Stage("web-1")
    await taken_on(stage)
    unanswered = await stage.submit("c2")
    await stage.hello("web-1", incarnation="i2")
    assert states(unanswered)[0] is State.UNKNOWN
    assert [run.command for run in stage.runs()] == ["c1", "c2"]
    await stage.later(stage.timers.lost_s)
    assert states(unanswered)[0] is State.LOST


async def test_master_that_starts_meanwhile_knows_that_it_was_taken_on() -> None:
    stage = Stage("web-1")
    await taken_on(stage)
    await stage.hello("web-1", incarnation="i2")
    assert stage.facts.kinds("c1") == ["0.accepted", "1.assigned", "1.started"]
    again = replayed(*stage.facts.stored.items()).get("c1")
    assert again is not None
    assert attempt_of(again).accepted_at
    assert states(again) == [State.ACCEPTED, State.ACCEPTED]


async def test_last_word_of_a_superseded_session_counts_for_what_only_it_knows() -> None:
    stage = Stage("web-1")
    await taken_on(stage)
    command = stage.plane.book.get("c1")
    assert command is not None
    await stage.hello("web-1", incarnation="i2")
    await stage.report("web-1", "c1", "killed_fenced", incarnation="i1")
    assert states(command) == [State.KILLED_FENCED, State.KILLED_FENCED]


async def test_superseded_session_says_nothing_of_what_its_successor_knows() -> None:
    stage = Stage("web-1")
    await taken_on(stage)
    command = stage.plane.book.get("c1")
    assert command is not None
    going_on = TaskStatus(command="c1", attempt=1, state="running")
    await stage.hello("web-1", going_on, incarnation="i2")
    await stage.report("web-1", "c1", "failed", incarnation="i1")
    assert states(command) == [State.RUNNING, State.RUNNING]


async def test_session_that_accepted_the_attempt_may_be_the_one_that_remains() -> None:
    """The later session has gone, and the one before, which is heard again, still runs it."""
    stage = Stage("web-1")
    await taken_on(stage)
    command = stage.plane.book.get("c1")
    assert command is not None
    await stage.hello("web-1", incarnation="i2")
    assert states(command)[0] is State.UNKNOWN
    beat(stage.plane, "web-1", incarnation="i2", goodbye=True)
    running = TaskStatus(command="c1", attempt=1, state="running")
    await stage.hello("web-1", running)
    for _ in range(20):
        await stage.later(stage.timers.beat_s, beats=("web-1",))
    assert states(command) == [State.RUNNING, State.RUNNING]
