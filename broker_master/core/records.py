"""Records of commands for users, built from the book."""

from collections.abc import Callable
from typing import Final

import msgspec

from broker_master.core import results
from broker_master.core.commands import Attempt, Command
from broker_master.core.fit import fit_record
from broker_master.core.fold import late_reason
from broker_master.core.reasons import CommandCase, explain
from schemas.argv import quoted
from schemas.messages.facts import (
    Accepted,
    ArgumentsRecord,
    AttemptRecord,
    CommandRecord,
    HistoryRecord,
    Outcome,
)
from schemas.messages.work import Output
from schemas.moments import rfc3339, rfc3339_or_none
from schemas.programs import arguments_of, is_short, program_of, shortened
from schemas.states import TERMINAL, State
from schemas.timers import Timers

# A larger body is not kept in history: it would outweigh all other records.
BODY_BYTES: Final = 64 * 1024


def command_record(
    command: Command,
    timers: Timers,
    *,
    with_output: bool = False,
    with_arguments: bool = False,
    waits_for: Callable[[Accepted], str] | None = None,
) -> CommandRecord:
    """The record of a command, cut to the size of an answer.

    with_arguments: whole, if they fit, instead of the first ones that a list shows. waits_for:
    returns the reason why a queued command waits, from the present state of its target.
    """
    accepted, outcome = command.accepted, command.outcome
    ended = command.state in TERMINAL
    output: Output | None = None
    if with_output and outcome is not None:
        output = outcome.output
    reason, then = explain(CommandCase(command, timers, waits_for))
    record = CommandRecord(
        id=accepted.id,
        group=accepted.group,
        agent=accepted.agent or None,
        action=accepted.action,
        state=command.state,
        attempts=[attempt_record(attempt) for attempt in command.attempts],
        submitted_at=rfc3339(accepted.submitted_at),
        client=accepted.client,
        reason=reason,
        since=rfc3339(command.since),
        next=then,
        ended_at=rfc3339(_ended(command)) if ended else None,
        labels=accepted.labels,
        stdout_bytes=outcome.stdout_bytes if outcome else 0,
        stderr_bytes=outcome.stderr_bytes if outcome else 0,
        truncated=outcome.truncated if outcome else False,
        output=output,
        connection=accepted.connection or None,
        result=results.read(outcome.result) if outcome else None,
    )
    _put_program(record, accepted, whole=with_arguments)
    return fit_record(record)


def _put_program(record: CommandRecord, accepted: Accepted, *, whole: bool) -> None:
    arguments = arguments_of(accepted.action, accepted.args)
    record.program = program_of(accepted.action, accepted.args, arguments)
    if arguments is not None and not whole and not is_short(arguments):
        arguments, record.cut = shortened(arguments), [*record.cut, "arguments"]
    record.arguments = arguments


def shown_record(history: HistoryRecord, *, with_arguments: bool = False) -> CommandRecord:
    """The record kept in history, as it is answered, without output.

    Those of 0.1.0 have the first of their arguments beside them.
    """
    record = msgspec.structs.replace(history.record, output=None)
    if with_arguments and history.accepted is not None:
        record.cut = [part for part in record.cut if part != "arguments"]
        _put_program(record, history.accepted, whole=True)
    elif not record.program:
        if history.argv:
            record.arguments = ArgumentsRecord(argv=history.argv)
        record.program = quoted(history.argv) if history.argv else ""
    return record


def first_arguments(history: HistoryRecord) -> list[str]:
    """The program and first arguments for a list, of any version's record."""
    given = history.record.arguments
    return history.argv if given is None else given.argv


def attempt_record(attempt: Attempt) -> AttemptRecord:
    return AttemptRecord(
        attempt=attempt.number,
        agent=attempt.agent,
        state=attempt.state,
        sent=attempt.sent,
        accepted_at=rfc3339_or_none(attempt.accepted_at),
        started_at=rfc3339_or_none(attempt.started_at),
        ended_at=rfc3339_or_none(attempt.ended_at),
        exit_code=attempt.exit_code,
        reason=attempt.reason,
        why=attempt.why,
        late=attempt.late,
        effect=attempt.effect,
        code=attempt.code,
    )


def amend_record(history: HistoryRecord, number: int, body: Outcome) -> HistoryRecord | None:
    """A record with a late result in it; None if it is there already, or has no place there.

    The verdict `lost` is replaced by the real outcome, if the command was not run again since.
    """
    record = msgspec.structs.replace(
        history.record, attempts=[msgspec.structs.replace(each) for each in history.record.attempts]
    )
    found = [
        attempt
        for attempt in record.attempts
        if attempt.attempt == number and attempt.agent == body.agent
    ]
    if not found or found[0].state != State.LOST or found[0].late:
        return None
    attempt = found[0]
    attempt.late, attempt.exit_code = True, body.exit_code
    attempt.effect, attempt.code = body.effect, body.code
    attempt.reason = late_reason(body, attempt.reason)
    if record.state == State.LOST and attempt is record.attempts[-1]:
        attempt.state = record.state = body.state
        attempt.started_at = rfc3339_or_none(body.started_at) or attempt.started_at
        attempt.ended_at = rfc3339_or_none(body.ended_at) or attempt.ended_at
        record.reason, record.output = attempt.reason, body.output
        record.stdout_bytes, record.stderr_bytes = body.stdout_bytes, body.stderr_bytes
        record.truncated = body.truncated
        record.result = results.read(body.result)
    return msgspec.structs.replace(history, record=record, amended=True)


def history_record(command: Command, record: CommandRecord) -> HistoryRecord:
    """The history record of an ended command; `record` is its complete one, with small output."""
    return HistoryRecord(
        record=record,
        digest=command.accepted.digest,
        submitted=command.accepted.submitted_at,
        ended=_ended(command),
        amended=command.late is not None,
        accepted=command.accepted if _is_kept(command) else None,
    )


def _is_kept(command: Command) -> bool:
    """Whether the whole command stays: always for a dead letter."""
    is_small = len(bytes(command.accepted.args)) <= BODY_BYTES
    return is_small or command.state is State.UNDELIVERABLE


def _ended(command: Command) -> float:
    outcome = command.outcome
    if outcome is None:
        return command.since
    return outcome.ended_at or outcome.at
