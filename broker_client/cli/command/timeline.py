"""Timeline of a command, an event per line."""

import textwrap
from typing import NamedTuple

from broker_client.cli.screen.size import PIPE_WIDTH
from broker_client.cli.screen.tables import GAP, in_local_time, local_and_utc, moment_in
from broker_client.cli.screen.terminal import shown
from schemas.messages.facts import AttemptRecord, CommandRecord
from schemas.states import State

# Least width of a text, in cells.
_LEAST = 20
_NO_TIME = " " * len("2025-01-01 00:00:00 +0000 (00:00:00 UTC)")
# Marks of the master between a late result and the reason of its verdict.
_LATE, _BEFORE = "late result: ", "; before: "


class TimelineEvent(NamedTuple):
    """An event. at: RFC 3339, or None if the time is unknown."""

    at: str | None
    text: str


def timeline(record: CommandRecord, width: int = PIPE_WIDTH) -> list[str]:
    """Return the events, oldest first; an event without a time follows its predecessor.

    Texts are broken into lines of at most `width` cells.
    """
    lines = []
    for event in in_order(events(record)):
        moment = local_and_utc(event.at) if event.at else _NO_TIME
        room = max(_LEAST, width - len(_NO_TIME) - len(GAP))
        for part in textwrap.wrap(shown(event.text), room) or [""]:
            lines.append(f"{moment}{GAP}{part}".rstrip())
            moment = _NO_TIME
    return lines


def in_order(found: list[TimelineEvent]) -> list[TimelineEvent]:
    """Sort by time; an event without a time stays behind its predecessor."""
    keyed: list[tuple[str, TimelineEvent]] = []
    latest = ""
    for event in found:
        latest = event.at or latest
        keyed.append((latest, event))
    # Times in records have one form, so that they sort as texts.
    return [event for _, event in sorted(keyed, key=lambda pair: pair[0])]


def events(record: CommandRecord) -> list[TimelineEvent]:
    found = [TimelineEvent(record.submitted_at, f"submitted by {record.client}")]
    for index, attempt in enumerate(record.attempts):
        found += _begun(attempt)
        if index == len(record.attempts) - 1 and not attempt.ended_at:
            found += _open(attempt, record)
        else:
            found += _ended(attempt, record, is_last=index == len(record.attempts) - 1)
    return found + _now(record)


def _begun(attempt: AttemptRecord) -> list[TimelineEvent]:
    head = f"attempt {attempt.attempt}"
    times = "once" if attempt.sent <= 1 else f"{attempt.sent} times"
    sent = f"{head} sent to {attempt.agent} {times}"
    found = [TimelineEvent(None, f"{sent} ({attempt.why})" if attempt.why else sent)]
    if attempt.accepted_at:
        found.append(TimelineEvent(attempt.accepted_at, f"{head} accepted by {attempt.agent}"))
    if attempt.started_at:
        found.append(TimelineEvent(attempt.started_at, f"{head} started"))
    return found


def _open(attempt: AttemptRecord, record: CommandRecord) -> list[TimelineEvent]:
    """Return the state of the newest attempt, if the events so far do not show it."""
    head = f"attempt {attempt.attempt}"
    found = []
    if record.last_output_at:
        found.append(TimelineEvent(record.last_output_at, "the newest output that has arrived"))
    if attempt.state == State.UNKNOWN:
        found.append(
            TimelineEvent(record.since, _with_reason(f"{head} unknown since then", record.reason))
        )
    elif attempt.state == State.STOPPING:
        found.append(
            TimelineEvent(record.since, _with_reason(f"{head} is being ended", record.reason))
        )
    elif attempt.started_at and record.since > attempt.started_at:
        found.append(
            TimelineEvent(record.since, f"{head} is {attempt.state}: {attempt.agent} says so")
        )
    return found


def _ended(attempt: AttemptRecord, record: CommandRecord, *, is_last: bool) -> list[TimelineEvent]:
    """Return the end of an attempt; the verdict and the late result if they differ."""
    head = f"attempt {attempt.attempt}"
    reason = attempt.reason or (record.reason if is_last else "")
    code = "" if attempt.exit_code is None else f", exit code {attempt.exit_code}"
    word, _, judged = reason.partition(_BEFORE)
    if not attempt.late or not word.startswith(_LATE) or not judged:
        late = ", heard of late" if attempt.late else ""
        text = _with_reason(f"{head} {attempt.state}{code}{late}", reason)
        return [TimelineEvent(attempt.ended_at, text)]
    if attempt.state == State.LOST:
        # The command was run again meanwhile: the late result is shown without effect.
        return [
            TimelineEvent(attempt.ended_at, f"{head} lost: {judged}"),
            TimelineEvent(None, f"{head}, beside the verdict: {word}{code}"),
        ]
    is_apart = is_last and record.ended_at and record.ended_at != attempt.ended_at
    return [
        TimelineEvent(attempt.ended_at, f"{head} {attempt.state}{code}, heard of late{_why(word)}"),
        TimelineEvent(
            record.ended_at if is_apart else None, f"{head} was given up before that was heard"
        ),
        TimelineEvent(None, f"the verdict was lost: {judged}"),
    ]


def _now(record: CommandRecord) -> list[TimelineEvent]:
    """Return the end, or the next step and its time."""
    if record.ended_at:
        has_ended = record.attempts and record.attempts[-1].state == record.state
        reason = "" if has_ended else record.reason
        amended = bool(has_ended) and record.attempts[-1].reason.startswith(_LATE)
        text = f"command {record.state}{', amended' if amended else ''}"
        return [
            TimelineEvent(record.since if amended else record.ended_at, _with_reason(text, reason))
        ]
    found = []
    if record.state == State.UNKNOWN and record.attempts and record.attempts[-1].ended_at:
        found.append(TimelineEvent(record.since, "command waits for a word: fail or rerun"))
    elif record.state == State.QUEUED and record.attempts:
        found.append(
            TimelineEvent(record.since, _with_reason("command queued again", record.reason))
        )
    if record.next:
        found.append(TimelineEvent(moment_in(record.next), f"next: {in_local_time(record.next)}"))
    return found


def _why(word: str) -> str:
    """Return the reason in `late result: STATE: REASON`, or ""."""
    _, colon, reason = word.removeprefix(_LATE).partition(": ")
    return colon + reason


def _with_reason(text: str, reason: str) -> str:
    return f"{text}: {reason}" if reason else text
