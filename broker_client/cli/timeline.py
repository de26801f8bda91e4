"""What happened to a command, line by line."""

from broker_client.cli.tables import local_and_utc
from broker_client.cli.terminal import shown
from schemas.messages.facts import AttemptRecord, CommandRecord

_NO_TIME = " " * len("2025-01-01 00:00:00 +0000 (00:00:00 UTC)")


def timeline(record: CommandRecord) -> list[str]:
    """One line per event, oldest first; what has no time stands where it must have happened."""
    events: list[tuple[str | None, str]] = [(record.submitted_at, f"submitted by {record.client}")]
    for index, attempt in enumerate(record.attempts):
        is_last = index == len(record.attempts) - 1
        events += _events(attempt, record.reason if is_last else attempt.reason)
    if record.ended_at:
        events.append((record.ended_at, f"command {record.state}"))
    return [
        f"{local_and_utc(at) if at else _NO_TIME}  {shown(text)}".rstrip() for at, text in events
    ]


def _events(attempt: AttemptRecord, reason: str) -> list[tuple[str | None, str]]:
    """reason: why it is in its state."""
    head = f"attempt {attempt.attempt}"
    times = "once" if attempt.sent == 1 else f"{attempt.sent} times"
    sent = f"{head} sent to {attempt.agent} {times}"
    if attempt.why:
        sent += f" ({attempt.why})"
    events: list[tuple[str | None, str]] = [(None, sent)]
    if attempt.accepted_at:
        events.append((attempt.accepted_at, f"{head} accepted by {attempt.agent}"))
    if attempt.started_at:
        events.append((attempt.started_at, f"{head} started"))
    return [*events, (attempt.ended_at, _end(head, attempt, reason))]


def _end(head: str, attempt: AttemptRecord, reason: str) -> str:
    text = f"{head} {attempt.state}" if attempt.ended_at else f"{head} is {attempt.state}"
    if attempt.exit_code is not None:
        text += f", exit code {attempt.exit_code}"
    if attempt.late:
        text += ", reported late"
    return f"{text}: {reason}" if reason else text
