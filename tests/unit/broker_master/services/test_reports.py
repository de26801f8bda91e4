"""Reports of agents: their checks, their storage, and their release."""

import asyncio
from typing import Any, cast

import pytest

from broker_client.runtime.stream_pages import Stored
from broker_master.core.commands import Command
from broker_master.core.phases import Phase
from broker_master.core.records import history_record
from schemas import codec
from schemas.faults import MeshError, Refused, Unreachable
from schemas.messages.facts import CommandRecord, HistoryRecord, Outcome
from schemas.messages.liveness import Echo, TaskStatus
from schemas.messages.work import LogChunk
from schemas.states import State
from tests.planes import add_agent
from tests.unit.broker_master.stage import Stage, attempt_of, states


def task(state: str, command: str = "c1", attempt: int = 1) -> TaskStatus:
    return TaskStatus(command=command, attempt=attempt, state=state)


async def test_end_is_released_once_it_is_durable_and_the_submitter_is_notified() -> None:
    stage = Stage("web-1")
    command = await stage.submit()
    await stage.reply("web-1", "c1", "accepted")
    await stage.report("web-1", "c1", "succeeded", seq=7, exit_code=0)
    assert states(command) == [State.SUCCEEDED, State.SUCCEEDED]
    assert stage.released() == [("c1", 1, 7)]
    assert "mesh.v1.result.ops.c1" in [subject for subject, _ in stage.link.published]
    assert stage.plane.dispatcher.load("web-1") == 0


async def test_end_that_cannot_be_stored_is_not_released_and_counts_when_it_comes_again() -> None:
    stage = Stage("web-1")
    command = await stage.submit()
    stage.facts.fault = Refused("store_full", "no room")
    await stage.report("web-1", "c1", "succeeded", exit_code=0)
    assert (command.is_terminal, stage.released(), stage.ended) == (False, [], [])
    # The slot that was given back is taken again, or the load would be too small for ever.
    assert stage.plane.dispatcher.load("web-1") == 1
    stage.facts.fault = None
    await stage.report("web-1", "c1", "succeeded", exit_code=0)
    assert command.state is State.SUCCEEDED
    assert stage.plane.dispatcher.load("web-1") == 0
    assert len(stage.released()) == 1


async def test_second_end_changes_nothing_and_is_released() -> None:
    stage = Stage("web-1")
    command = await stage.submit()
    await stage.report("web-1", "c1", "succeeded", seq=1, exit_code=0)
    await stage.report("web-1", "c1", "failed", seq=2, exit_code=1)
    assert states(command) == [State.SUCCEEDED, State.SUCCEEDED]
    assert stage.released() == [("c1", 1, 1), ("c1", 1, 2)]
    assert len(stage.ended) == 1


def results(stage: Stage) -> list[str]:
    """The states of which the submitter of c1 was told."""
    subject = "mesh.v1.result.ops.c1"
    told = [data for name, data in stage.link.published if name == subject]
    return [codec.decode(CommandRecord, data).state for data in told]


async def test_redelivery_of_an_end_before_it_is_stored_is_idempotent() -> None:
    stage = Stage("web-1")
    command = await stage.submit()
    await stage.report("web-1", "c1", "succeeded", exit_code=0, copies=2)
    assert states(command) == [State.SUCCEEDED, State.SUCCEEDED]
    assert (len(stage.ended), results(stage)) == (1, ["succeeded"])
    assert stage.plane.dispatcher.load("web-1") == 0


async def lost(stage: Stage) -> Command:
    command = await stage.submit()
    await stage.report("web-1", "c1", "running", started_at=stage.clock.now())
    await stage.later(stage.timers.suspect_s)
    await stage.later(stage.timers.lost_s - stage.timers.suspect_s)
    assert command.state is State.LOST
    return command


async def test_redelivery_of_a_late_end_before_it_is_stored_amends_once() -> None:
    """The second copy is released when it comes once more, and changes nothing then either."""
    stage = Stage("web-1")
    command = await lost(stage)
    await stage.report("web-1", "c1", "succeeded", exit_code=0, copies=2)
    assert states(command) == [State.SUCCEEDED, State.SUCCEEDED]
    assert (len(stage.ended), results(stage)) == (2, ["lost", "succeeded"])
    assert stage.plane.telemetry.counters["late_result",] == 1
    before = len(stage.released())
    await stage.report("web-1", "c1", "failed", exit_code=1)
    assert len(stage.released()) == before + 1
    assert (len(stage.ended), results(stage)) == (2, ["lost", "succeeded"])
    assert stage.facts.kinds("c1").count("1.late") == 1
    assert stage.plane.telemetry.counters["late_result",] == 1


async def test_late_end_and_a_verdict_that_are_stored_together_end_the_command_once() -> None:
    """The late one is stored first, and the verdict finds the command amended."""
    stage = Stage("web-1")
    command = await stage.submit(on_lost="wait")
    await stage.report("web-1", "c1", "lost")
    assert command.phase is Phase.UNDECIDED
    held: list[asyncio.Future[int]] = []

    def hold(*_: object) -> "asyncio.Future[int]":
        held.append(asyncio.get_running_loop().create_future())
        return held[-1]

    stage.facts.append = hold  # type: ignore[method-assign, assignment]
    await stage.report("web-1", "c1", "succeeded", exit_code=0)
    await stage.later(stage.timers.decide_s)
    assert (len(held), command.phase) == (2, Phase.SETTLING)
    for sequence, future in enumerate(held, 10):
        future.set_result(sequence)
    await stage.rest()
    assert (command.state, results(stage)) == (State.SUCCEEDED, ["succeeded"])


class Archive:
    """A read model, and the historian that would amend it, with one record."""

    def __init__(self, history: HistoryRecord) -> None:
        self.history = history
        self.amended: list[HistoryRecord] = []

    def known(self, command_id: str) -> object:
        return self.history if command_id == self.history.record.id else None

    async def get(self, _: str) -> HistoryRecord:
        return self.history

    def amend(self, history: HistoryRecord) -> None:
        self.amended.append(history)


async def test_late_end_of_what_history_holds_amends_it_once_however_often_it_comes() -> None:
    stage = Stage("web-1")
    command = await lost(stage)
    archive = Archive(history_record(command, stage.ended[0]))
    stage.plane.book.forget("c1")
    stage.plane.readmodel = stage.late._historian = cast("Any", archive)
    await stage.report("web-1", "c1", "succeeded", exit_code=0, copies=2)
    assert [each.record.state for each in archive.amended] == ["succeeded"]
    assert stage.facts.kinds("c1").count("1.late") == 1


async def test_end_that_another_master_has_stored_is_the_one_that_counts() -> None:
    stage = Stage("web-1")
    command = await stage.submit()
    fact = next(each for each in stage.facts.stored if each.kind == "accepted")
    stage.facts.stored[fact._replace(attempt=1, kind="outcome")] = Outcome(
        state="failed", at=stage.clock.now(), agent="web-1", exit_code=9
    )
    await stage.report("web-1", "c1", "succeeded", exit_code=0)
    assert states(command) == [State.FAILED, State.FAILED]
    assert attempt_of(command).exit_code == 9


async def test_report_of_another_agent_is_refused() -> None:
    stage = Stage("web-1", "web-2")
    command = await stage.submit(agent="web-1")
    await stage.report("web-2", "c1", "succeeded", exit_code=0)
    assert (command.state, stage.released("web-2")) == (State.SENT, [])
    assert stage.plane.telemetry.counters[("forged_report",)] == 1


@pytest.mark.parametrize("state", ["queued", "expired", "undeliverable", "nonsense", ""])
async def test_end_that_no_agent_can_report_is_refused(state: str) -> None:
    stage = Stage("web-1")
    command = await stage.submit()
    await stage.report("web-1", "c1", state)
    assert (command.state, stage.released()) == (State.SENT, [])


async def test_report_of_a_replaced_incarnation_is_ignored() -> None:
    stage = Stage("web-1")
    command = await stage.submit()
    await stage.hello("web-1", task("running"), incarnation="i2")
    await stage.report("web-1", "c1", "failed", incarnation="i1", exit_code=137)
    assert (command.state, stage.released()) == (State.RUNNING, [])
    await stage.report("web-1", "c1", "lost", incarnation="i2", reason="agent restarted")
    assert command.state is State.LOST


async def test_lost_command_is_retried_only_with_on_lost_rerun() -> None:
    stage = Stage("web-1", "web-2")
    safe = await stage.submit("safe", on_lost="rerun", agent="")
    unsafe = await stage.submit("unsafe")
    for command in (safe, unsafe):
        await stage.report(attempt_of(command).agent, command.id, "lost")
    assert safe.state is State.SENT
    assert len(safe.attempts) == 2
    assert states(unsafe) == [State.LOST, State.LOST]


# the handshake


async def test_task_that_still_runs_is_kept_and_no_longer_unknown() -> None:
    stage = Stage("web-1")
    command = await stage.submit()
    await stage.reply("web-1", "c1", "accepted")
    await stage.later(stage.timers.suspect_s)
    assert command.state is State.UNKNOWN
    welcome = await stage.hello("web-1", task("running"))
    assert [each.verdict for each in welcome.decisions] == ["keep"]
    assert states(command) == [State.RUNNING, State.RUNNING]


@pytest.mark.parametrize("said", ["accepted", "stopping", "running"])
async def test_hello_that_a_report_has_overtaken_moves_nothing_backwards(said: str) -> None:
    """An exception here would leave the agent without a welcome while the task runs."""
    stage = Stage("web-1")
    command = await stage.submit()
    await stage.report("web-1", "c1", "running", started_at=stage.clock.now())
    assert command.state is State.RUNNING
    welcome = await stage.hello("web-1", task(said))
    assert [each.verdict for each in welcome.decisions] == ["keep"]
    assert command.state is State.RUNNING


async def test_task_that_ended_meanwhile_is_asked_for() -> None:
    stage = Stage("web-1")
    await stage.submit()
    welcome = await stage.hello("web-1", task("succeeded"))
    assert [each.verdict for each in welcome.decisions] == ["report"]


@pytest.mark.parametrize("attempt", [2, 7])
async def test_task_that_the_facts_do_not_know_is_killed(attempt: int) -> None:
    stage = Stage("web-1")
    await stage.submit()
    welcome = await stage.hello(
        "web-1", task("running"), task("running", attempt=attempt), task("running", "stranger")
    )
    assert [each.verdict for each in welcome.decisions] == ["keep", "kill", "kill"]


async def test_task_of_another_agent_is_killed() -> None:
    stage = Stage("web-1", "web-2")
    command = await stage.submit(agent="web-1")
    welcome = await stage.hello("web-2", task("running"))
    assert [each.verdict for each in welcome.decisions] == ["kill"]
    assert command.state is State.SENT


async def test_unacknowledged_attempt_is_redelivered_after_the_handshake() -> None:
    stage = Stage("web-1")
    command = await stage.submit()
    await stage.later(stage.timers.suspect_s)
    sent = len(stage.runs())
    await stage.hello("web-1")
    assert command.state is State.SENT
    assert len(stage.runs()) == sent + 1
    assert {run.attempt for run in stage.runs()} == {1}


async def test_master_that_was_cut_off_calls_all_whom_it_has_heard() -> None:
    stage = Stage("web-1", "web-2")
    add_agent(stage.plane, "web-3", "web")
    stage.presence.call()
    echoes = [
        (agent, codec.decode(Echo, payload))
        for agent in ("web-1", "web-2", "web-3")
        for payload in stage.sent(agent, "echo")
    ]
    assert [(agent, echo.seq, echo.reconciled) for agent, echo in echoes] == [
        ("web-1", 1, True),
        ("web-2", 1, True),
    ]


async def test_silence_of_lost_s_gives_up_what_ran_and_not_before() -> None:
    stage = Stage("web-1")
    command = await stage.submit()
    await stage.report("web-1", "c1", "running", started_at=stage.clock.now())
    await stage.later(stage.timers.suspect_s)
    await stage.later(stage.timers.lost_s - stage.timers.suspect_s - 0.1)
    assert command.state is State.UNKNOWN
    await stage.later(0.1)
    assert states(command) == [State.LOST, State.LOST]


async def test_cancel_of_a_silent_agents_task_is_sent_when_it_is_back() -> None:
    stage = Stage("web-1")
    command = await stage.submit()
    await stage.report("web-1", "c1", "running", started_at=stage.clock.now())
    await stage.later(stage.timers.suspect_s)
    await stage.canceller.cancel(command, "ops")
    assert stage.sent("web-1", "control") == []
    await stage.hello("web-1", task("running"))
    assert len(stage.sent("web-1", "control")) == 1
    assert command.state is State.STOPPING
    for _ in range(3):
        await stage.later(stage.timers.ack_s, beats=("web-1",))
    assert len(stage.sent("web-1", "control")) == 4


class LastChunk:
    """A log stream with one chunk; counts who reads it. fault: what it says instead."""

    def __init__(self, chunk: LogChunk, fault: MeshError | None = None) -> None:
        self.read = 0
        self._chunk, self._fault = chunk, fault

    async def get_last(self, _stream: str, subject: str) -> Stored:
        self.read += 1
        if self._fault is not None:
            raise self._fault
        return Stored(1, subject, codec.encode(self._chunk))


NO_DISK = LogChunk(offset=90_000, data=b"x\nno disk\n")


async def test_failure_with_much_output_gets_its_reason_from_the_log_stream_once() -> None:
    stage = Stage("web-1")
    command = await stage.submit()
    logs = LastChunk(NO_DISK)
    stage.reports._lines._streams = cast("Any", logs)
    await stage.report("web-1", "c1", "failed", exit_code=1, stderr_bytes=90_010, copies=3)
    assert (command.state, command.reason) == (State.FAILED, "stderr: no disk")
    assert (logs.read, len(stage.ended)) == (1, 1)
    assert stage.released() == [("c1", 1, 1)]
    assert stage.ended[0].attempts[0].reason == "stderr: no disk"


async def test_log_stream_that_does_not_answer_holds_up_no_end() -> None:
    stage = Stage("web-1")
    command = await stage.submit()
    gone = Unreachable("store_unavailable", "no answer")
    stage.reports._lines._streams = cast("Any", LastChunk(NO_DISK, gone))
    await stage.report("web-1", "c1", "failed", exit_code=1, stderr_bytes=90_010)
    assert (command.state, command.reason) == (State.FAILED, "")
    assert stage.released() == [("c1", 1, 1)]


async def test_success_reads_nothing() -> None:
    stage = Stage("web-1")
    await stage.submit()
    logs = LastChunk(NO_DISK)
    stage.reports._lines._streams = cast("Any", logs)
    await stage.report("web-1", "c1", "succeeded", exit_code=0, stderr_bytes=90_010)
    assert (logs.read, stage.released()) == (0, [("c1", 1, 1)])
