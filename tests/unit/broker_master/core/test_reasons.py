"""Each row of the table of reasons: its condition, its reason, its advice, and its place."""

from typing import Final, NamedTuple

import pytest

from broker_master.core import attempts, reasons
from broker_master.core.badges import group_status
from broker_master.core.commands import Command
from broker_master.core.phases import Event
from broker_master.core.reasons import TABLE, explain
from schemas.moments import rfc3339
from schemas.states import TERMINAL, AgentStatus, GroupStatus, State
from schemas.timers import Timers
from tests.fake_clock import EPOCH
from tests.unit.broker_master.deeds import (
    accepted,
    assigned,
    cancel_asked,
    command_of,
    decided,
    ended,
)
from tests.unit.broker_master.deeds import started as began

TIMERS: Final = Timers()
SENT_AGAIN: Final = "sent again each 5 s, up to 5 times"
KILLED: Final = "killed 10 s after it was asked to end"


class Case(NamedTuple):
    """row: its place in the table of the state."""

    command: Command
    state: State
    row: int
    reason: str
    then: str


def sent(times: int) -> Command:
    command = command_of(accepted(), assigned())
    command.attempts[-1].sent = times
    return command


def acknowledged() -> Command:
    command = sent(1)
    attempts.on_acknowledged(command, command.attempts[-1], EPOCH + 2)
    return command


def stopping(*deeds: object) -> Command:
    command = command_of(accepted(), assigned(), began(), *deeds)  # type: ignore[arg-type]
    assert command.enter(Event.STOP, EPOCH + 20)
    return command


def silent(command: Command) -> Command:
    attempts.on_silent(command, command.attempts[-1], EPOCH + 20)
    return command


def ended_elsewhere() -> Command:
    command = silent(command_of(accepted(), assigned(), began()))
    attempts.on_named_ended(command, command.attempts[-1], State.LOST)
    return command


def forgotten() -> Command:
    command = command_of(accepted(), assigned(), began())
    attempts.on_forgotten(
        command, command.attempts[-1], until_s=30.0, reason="lost", now_s=10.0, now=EPOCH + 20
    )
    return command


def undecided() -> Command:
    lost = ended(state=State.LOST, reason="web-1 fell silent", final=False)
    return command_of(accepted(on_lost="wait"), assigned(), lost)


def again() -> Command:
    lost = ended(state=State.LOST, reason="web-1 fell silent", final=False)
    return command_of(accepted(on_lost="rerun"), assigned(), lost)


def ordered() -> Command:
    """Queued again by an operator, whose word is the same text as the reason of the loss."""
    lost = ended(state=State.LOST, reason="run again by ops", final=False)
    return command_of(accepted(on_lost="wait"), assigned(), lost, decided())


def doubted() -> Command:
    command = command_of(accepted())
    attempts.on_doubted(command, "open in the backup: it may have run since")
    return command


EXPIRES: Final = f"expires at {rfc3339(command_of(accepted()).expires_at)} unless an agent takes it"
UNLESS: Final = f"given up at {rfc3339(EPOCH + 60)} unless the agent returns"
CASES: Final = [
    Case(command_of(accepted()), State.QUEUED, 0, "waits for group web", EXPIRES),
    Case(again(), State.QUEUED, 0, "waits for group web; before: web-1 fell silent", EXPIRES),
    Case(ordered(), State.QUEUED, 0, "run again by ops", EXPIRES),
    Case(doubted(), State.QUEUED, 0, "open in the backup: it may have run since", EXPIRES),
    Case(sent(2), State.SENT, 0, "web-1 has acknowledged none of 2 transmissions", SENT_AGAIN),
    Case(sent(0), State.SENT, 1, "", SENT_AGAIN),
    Case(sent(1), State.SENT, 1, "", SENT_AGAIN),
    Case(acknowledged(), State.ACCEPTED, 0, "", ""),
    Case(command_of(accepted(), assigned(), began()), State.RUNNING, 0, "", ""),
    Case(stopping(), State.STOPPING, 0, "it is being ended", KILLED),
    Case(stopping(cancel_asked()), State.STOPPING, 0, "cancelled by ops", KILLED),
    Case(
        undecided(),
        State.UNKNOWN,
        0,
        "web-1 fell silent",
        f"mesh command decide c1 fail, or rerun; it fails at"
        f" {rfc3339(EPOCH + 9 + TIMERS.decide_s)} by itself",
    ),
    Case(
        forgotten(),
        State.UNKNOWN,
        1,
        "web-1 came back without any memory of it; it may still run elsewhere",
        f"given up at {rfc3339(EPOCH + 40)}: by then it runs nowhere",
    ),
    Case(
        ended_elsewhere(),
        State.UNKNOWN,
        2,
        "web-1 is back, where it has ended: lost",
        "ends here with its report, which follows its output",
    ),
    Case(silent(sent(1)), State.UNKNOWN, 3, "web-1 does not respond; it was sent before", UNLESS),
    Case(
        silent(command_of(accepted(), assigned(), began())),
        State.UNKNOWN,
        3,
        "web-1 does not respond; it was running before",
        UNLESS,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{c.state}-{n}" for n, c in enumerate(CASES)])
def test_row_says_why_and_what_happens_next(case: Case) -> None:
    seen = reasons.CommandCase(case.command, TIMERS, lambda each: f"waits for group {each.group}")
    assert case.command.state is case.state
    assert explain(seen) == (case.reason, case.then)
    before = TABLE[case.state][: case.row]
    assert TABLE[case.state][case.row].holds(seen)
    assert not any(row.holds(seen) for row in before), "an earlier row decides"


def test_every_row_is_tried_and_every_open_state_has_rows() -> None:
    rows = {(state, place) for state, rows in TABLE.items() for place in range(len(rows))}
    assert {(case.state, case.row) for case in CASES} == rows
    assert set(TABLE) == set(State) - TERMINAL


@pytest.mark.parametrize("state", sorted(TERMINAL - {State.LOST, State.EXPIRED}))
def test_command_that_has_ended_keeps_its_own_reason_and_waits_for_nothing(state: State) -> None:
    command = command_of(accepted(), assigned(), ended(state=state, reason="for a reason"))
    assert explain(reasons.CommandCase(command, TIMERS)) == ("for a reason", "")


def test_queued_command_says_what_it_waits_for_where_nobody_can_look() -> None:
    for agent, target in (("", "an agent of web"), ("web-7", "web-7")):
        case = reasons.CommandCase(command_of(accepted(agent=agent)), TIMERS)
        assert explain(case).reason == f"waits for {target} to be active with a free slot"


# -- of groups

ADVICE: Final = {
    "mesh agent create NAME --group GROUP",
    "set one up: broker-agent setup",
    "mesh agent enable NAME",
    "active again with the first that returns: mesh agent list",
    "commands wait: mesh agent list has what each of them lacks",
    "commands wait for a task to end, or add agents",
    "",
}


def test_group_has_a_reason_in_every_state_and_an_advice_in_each_where_work_waits() -> None:
    found = set()
    for number in range(3**4):
        counts = {str(status): number // 3**place % 3 for place, status in enumerate(AgentStatus)}
        active = counts[AgentStatus.ACTIVE]
        for idle, is_busy in ((0, False), (0, True), (1, False), (active, False)):
            verdict = group_status(counts, {"disk low": min(idle, active)}, is_busy=is_busy)
            assert verdict.reason
            assert (verdict.status is GroupStatus.ACTIVE) == (active > 0)
            waits = not active or min(idle, active) == active or is_busy
            assert bool(verdict.next) == waits, (counts, idle, is_busy)
            found.add(verdict.next)
    assert found == ADVICE
