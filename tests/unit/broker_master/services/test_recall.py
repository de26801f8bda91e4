"""After a restore agents say how those ended that they have told, and that the state has not."""

from broker_master.core.commands import Command
from broker_master.store.restored import Restored
from schemas import codec, limits
from schemas.messages.audit import AuditEntry
from schemas.messages.liveness import (
    NO_ATTEMPT,
    RECALLS,
    UNKNOWN_TO_AGENT,
    Hello,
    TaskStatus,
    Welcome,
)
from schemas.states import State
from tests.unit.broker_master.stage import Stage, states


def put_back(stage: Stage) -> None:
    """Commands that are open now were open in a backup, and web-1 has obeyed a master since."""
    plane = stage.plane
    stage.presence.aftermath._restored = Restored(
        at=plane.clock.now(), taken_at=plane.clock.now() - 60
    )
    stage.presence.aftermath.begin()
    leave(stage)
    presence = plane.roster.get("web-1")
    assert presence is not None
    stage.presence.aftermath.note_past(presence)


def leave(stage: Stage) -> None:
    """From now on web-1 is given nothing."""
    presence = stage.plane.roster.get("web-1")
    assert presence is not None
    presence.reconciled = False
    stage.sync("web-1")


async def greet(
    stage: Stage, *tasks: TaskStatus, features: tuple[str, ...] = (RECALLS,)
) -> Welcome:
    said = Hello(incarnation="i1", slots=8, tasks=[*tasks], features=[*features])
    stage._say("web-1", "hello", stage.presence.on_hello, said)
    await stage.rest()
    return codec.decode(Welcome, stage.sent("web-1", "welcome")[-1])


async def conclude(stage: Stage, *tasks: TaskStatus) -> bool:
    """The last step; whether all is agreed."""
    said = Hello(incarnation="i1", slots=8, tasks=[*tasks], done=True)
    stage._say("web-1", "hello", stage.presence.on_hello, said)
    await stage.rest()
    presence = stage.plane.roster.get("web-1")
    assert presence is not None
    return presence.reconciled


def ended(command: str, attempt: int = 1) -> TaskStatus:
    return TaskStatus(command=command, attempt=attempt, state="succeeded")


def unknown(command: str) -> TaskStatus:
    return TaskStatus(command=command, attempt=NO_ATTEMPT, state=UNKNOWN_TO_AGENT)


def restored(stage: Stage) -> dict[str, int]:
    counters = stage.plane.telemetry.counters.items()
    return {name[1]: count for name, count in counters if name[0] == "restored"}


async def open_on(stage: Stage, command_id: str = "c1") -> Command:
    command = await stage.submit(command_id, agent="web-1")
    assert states(command) == [State.SENT, State.SENT]
    return command


async def test_end_that_was_reported_to_an_earlier_master_is_reported_again() -> None:
    stage = Stage("web-1")
    command = await open_on(stage)
    put_back(stage)
    sent = len(stage.runs())
    assert (await greet(stage)).recall == ["c1"]
    assert not command.is_terminal
    assert await conclude(stage, ended("c1"))
    assert states(command) == [State.ACCEPTED, State.ACCEPTED]
    assert stage.plane.doubtful == set()
    await stage.later(stage.timers.adopt_s, beats=("web-1",))
    assert (states(command)[0], len(stage.runs())) == (State.ACCEPTED, sent)
    await stage.report("web-1", "c1", "succeeded", exit_code=0)
    assert states(command) == [State.SUCCEEDED, State.SUCCEEDED]
    assert restored(stage) == {"recalled": 1}


async def test_attempt_that_the_agent_never_had_is_lost_with_that_reason() -> None:
    stage = Stage("web-1")
    command = await open_on(stage)
    put_back(stage)
    await greet(stage)
    await conclude(stage, unknown("c1"))
    # It may still run on a host that had this identity before.
    assert states(command) == [State.UNKNOWN, State.UNKNOWN]
    await stage.later(stage.timers.lost_s, beats=("web-1",))
    assert states(command) == [State.LOST, State.LOST]
    assert command.reason.startswith("web-1 says that it never had it, or longer ago than")
    assert "restored from" in command.reason
    assert restored(stage) == {"lost": 1}


async def test_agent_that_cannot_recall_is_not_asked_and_what_it_does_not_name_is_lost() -> None:
    stage = Stage("web-1")
    command = await open_on(stage)
    put_back(stage)
    assert (await greet(stage, features=())).recall == []
    await conclude(stage)
    await stage.later(stage.timers.lost_s, beats=("web-1",))
    assert states(command) == [State.LOST, State.LOST]
    assert command.reason.startswith("web-1 has it no longer, and it was open in the backup")


async def test_command_that_waited_in_the_backup_is_found_where_it_ran() -> None:
    stage = Stage("web-1", "web-2")
    leave(stage)
    command = await stage.submit("c1", agent="web-1")
    assert states(command) == [State.QUEUED]
    put_back(stage)
    assert (await greet(stage)).recall == ["c1"]
    assert await conclude(stage, ended("c1", attempt=2))
    assert states(command) == [State.ACCEPTED, State.LOST, State.ACCEPTED]
    await stage.report("web-1", "c1", "failed", attempt=2, exit_code=3)
    assert states(command) == [State.FAILED, State.LOST, State.FAILED]
    assert stage.runs("web-1") == stage.runs("web-2") == []


async def test_agent_is_asked_in_rounds_and_nothing_is_lost_before_its_turn() -> None:
    stage = Stage("web-1")
    leave(stage)
    names = [f"c{number:04}" for number in range(limits.HELLO_TASKS + 3)]
    for name in names:
        await stage.submit(name, agent="web-1")
    put_back(stage)
    assert (await greet(stage)).recall == names[: limits.HELLO_TASKS]
    # A welcome may get lost: the same is asked again.
    assert (await greet(stage)).recall == names[: limits.HELLO_TASKS]
    assert not await conclude(stage, *[ended(name) for name in names[: limits.HELLO_TASKS]])
    assert (await greet(stage)).recall == names[limits.HELLO_TASKS :]
    assert await conclude(stage, *[ended(name) for name in names[limits.HELLO_TASKS :]])
    assert restored(stage)["recalled"] == len(names)
    assert (await greet(stage)).recall == []


async def test_answer_counts_for_what_was_asked_only() -> None:
    """One agent cannot end what another may have run, nor what is of after the restore."""
    stage = Stage("web-1", "web-2")
    leave(stage)
    theirs = await stage.submit("theirs", agent="web-2")
    put_back(stage)
    later = await stage.submit("later", agent="web-1")
    assert (await greet(stage)).recall == []
    await conclude(stage, ended("theirs"), ended("later"), unknown("theirs"))
    assert [each.agent for each in theirs.attempts] == ["web-2"]
    assert theirs.state is State.SENT
    assert [each.agent for each in later.attempts] == ["web-1"]
    assert restored(stage) == {}


async def test_state_that_was_put_back_without_a_word_is_one_alarm_for_a_group() -> None:
    stage = Stage("web-1", "web-2")
    noted: list[AuditEntry] = []
    stage.plane.telemetry.noted.listen(noted.append)
    for agent in ("web-1", "web-2"):
        presence = stage.plane.roster.get(agent)
        assert presence is not None
        presence.reconciled = False
        stage.presence.aftermath.note_past(presence)
    assert [(each.action, each.target, each.group, each.result) for each in noted] == [
        ("group.restore", "web", "web", "alarm")
    ]
    assert stage.plane.telemetry.counters[("restore", "noticed")] == 1
