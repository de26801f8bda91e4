"""Facets of a command: the fields of `schemas.listed.COMMANDS`, of open and ended ones."""

from typing import Final, NamedTuple

from broker_master.core.commands import Command
from schemas.argv import base_name, quoted
from schemas.filters import Value
from schemas.messages.facts import HistoryRecord
from schemas.moments import parse_rfc3339
from schemas.programs import arguments_of, program_of

# Each of these decodes the arguments, so they are matched last.
COSTLY: Final = frozenset({"program", "argv"})


class Facets(NamedTuple):
    """Facets of an ended command. exit, took: None if none of its attempts has one."""

    id: str
    state: str
    group: str
    agent: str
    client: str
    action: str
    connection: str
    program: str
    argv: str
    exit: float | None
    attempts: float
    took: float | None
    submitted: float
    ended: float | None
    label: dict[str, str]


def facets_of(history: HistoryRecord) -> Facets:
    record = history.record
    given = record.arguments.argv if record.arguments is not None else history.argv
    last = record.attempts[-1] if record.attempts else None
    codes = [each.exit_code for each in record.attempts if each.exit_code is not None]
    took = None
    if last is not None and last.started_at and last.ended_at:
        took = max(0.0, parse_rfc3339(last.ended_at) - parse_rfc3339(last.started_at))
    return Facets(
        id=record.id,
        state=record.state,
        group=record.group,
        agent=last.agent if last is not None else record.agent or "",
        client=record.client,
        action=record.action,
        connection=record.connection or "",
        program=base_name(given),
        argv=record.program or (quoted(given) if given else ""),
        exit=float(codes[-1]) if codes else None,
        attempts=float(len(record.attempts)),
        took=took,
        submitted=history.submitted,
        ended=history.ended,
        label=record.labels,
    )


def open_value(command: Command, field: str) -> Value | None:  # noqa: PLR0911  (one per field)
    """One facet of a command in the book, without computing the others."""
    accepted, attempt = command.accepted, command.attempt
    match field:
        case "id" | "group" | "client" | "action" | "connection":
            text: str = getattr(accepted, field)
            return text
        case "state":
            return str(command.state)
        case "agent":
            return attempt.agent if attempt is not None else accepted.agent
        case "program" | "argv":
            given = arguments_of(accepted.action, accepted.args)
            if field == "argv":
                return program_of(accepted.action, accepted.args, given)
            return base_name(given.argv) if given is not None else ""
        case "exit":
            codes = [each.exit_code for each in command.attempts if each.exit_code is not None]
            return float(codes[-1]) if codes else None
        case "attempts":
            return float(len(command.attempts))
        case "took":
            if attempt is None or not attempt.started_at or not attempt.ended_at:
                return None
            return max(0.0, attempt.ended_at - attempt.started_at)
        case "submitted":
            return accepted.submitted_at
        case "ended":
            return _ended(command)
        case _:
            return accepted.labels


def _ended(command: Command) -> float | None:
    if not command.is_terminal:
        return None
    outcome = command.outcome
    return command.since if outcome is None else outcome.ended_at or outcome.at
