"""The reason why an open command waits, and its next step: one table for both.

Each row stands for one cause, with its reason and its advice beside the condition. The first row of
a state whose condition holds decides. A reason kept with the command replaces the row's; a reason
of the last attempt's end is added after the row's.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import Final, NamedTuple

from broker_master.core.commands import Attempt, Command
from schemas.messages.facts import Accepted
from schemas.moments import rfc3339
from schemas.states import State
from schemas.timers import Timers

# Transmissions of one attempt: the second one means that the first was not acknowledged.
_SENT_AGAIN: Final = 2


class CommandCase(NamedTuple):
    """Inputs of a row. waits_for: returns the reason why a queued command waits just now."""

    command: Command
    timers: Timers
    waits_for: Callable[[Accepted], str] | None = None

    @property
    def attempt(self) -> Attempt:
        return self.command.attempts[-1]


Words = Callable[[CommandCase], str]


class ReasonRow(NamedTuple):
    holds: Callable[[CommandCase], bool]
    reason: Words
    advice: Words


def _nothing(_: CommandCase) -> str:
    return ""


def _always(_: CommandCase) -> bool:
    return True


def _waits(case: CommandCase) -> str:
    accepted = case.command.accepted
    if case.waits_for is not None:
        return case.waits_for(accepted)
    target = accepted.agent or f"an agent of {accepted.group}"
    return f"waits for {target} to be active with a free slot"


def _resends(case: CommandCase) -> str:
    return f"sent again each {case.timers.ack_s:g} s, up to {case.timers.resends} times"


def _undecided_until(case: CommandCase) -> str:
    command = case.command
    return (
        f"mesh command decide {command.id} fail, or rerun;"
        f" it fails at {rfc3339(command.since + case.timers.decide_s)} by itself"
    )


def _given_up_at(case: CommandCase) -> str:
    timers = case.timers
    silent_s = timers.lost_after_s(case.command.accepted.kill_after_s) - timers.suspect_s
    return f"given up at {rfc3339(case.attempt.since + silent_s)} unless the agent returns"


_GOES_ON: Final = ReasonRow(_always, _nothing, _nothing)

TABLE: Final = MappingProxyType(
    {
        State.QUEUED: (
            ReasonRow(
                _always,
                _waits,
                lambda c: f"expires at {rfc3339(c.command.expires_at)} unless an agent takes it",
            ),
        ),
        State.SENT: (
            ReasonRow(
                lambda c: c.attempt.sent >= _SENT_AGAIN,
                lambda c: (
                    f"{c.attempt.agent} has acknowledged none of {c.attempt.sent} transmissions"
                ),
                _resends,
            ),
            ReasonRow(_always, _nothing, _resends),
        ),
        State.ACCEPTED: (_GOES_ON,),
        State.RUNNING: (_GOES_ON,),
        State.STOPPING: (
            ReasonRow(
                _always,
                lambda c: (
                    f"cancelled by {c.command.cancel_by}"
                    if c.command.cancel_by
                    else "it is being ended"
                ),
                lambda c: f"killed {c.timers.grace_s:g} s after it was asked to end",
            ),
        ),
        State.UNKNOWN: (
            ReasonRow(lambda c: c.command.is_undecided, _nothing, _undecided_until),
            ReasonRow(
                lambda c: c.attempt.elsewhere_at > 0,
                lambda c: (
                    f"{c.attempt.agent} came back without any memory of it;"
                    " it may still run elsewhere"
                ),
                lambda c: f"given up at {rfc3339(c.attempt.elsewhere_at)}: by then it runs nowhere",
            ),
            ReasonRow(
                lambda c: c.attempt.ended_as is not None,
                lambda c: f"{c.attempt.agent} is back, where it has ended: {c.attempt.ended_as}",
                lambda _: "ends here with its report, which follows its output",
            ),
            ReasonRow(
                _always,
                lambda c: (
                    f"{c.attempt.agent} does not respond;"
                    f" it was {c.attempt.hidden or State.SENT} before"
                ),
                _given_up_at,
            ),
        ),
    }
)


class Explanation(NamedTuple):
    """Reason and next step of a command.

    next: empty once the command has ended, or only its end is due.
    """

    reason: str
    next: str


def explain(case: CommandCase) -> Explanation:
    """Return the reason of a command's state, and its next step."""
    command = case.command
    for row in TABLE.get(command.state, ()):
        if row.holds(case):
            return Explanation(_whole(case, row), row.advice(case))
    return Explanation(command.reason, "")


def _whole(case: CommandCase, row: ReasonRow) -> str:
    kept = case.command.reason
    if not kept:
        return row.reason(case)
    command = case.command
    if command.state is State.QUEUED and command.attempts and not command.rerun_by:
        return f"{row.reason(case)}; before: {kept}"
    return kept
