"""Cuts records to the size limits of storage and messages, and marks the cut parts.

An agent chooses the text of its refusals and the size of its output, so a record is bounded here
and nowhere else. `CommandRecord.cut` names the shortened parts.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from schemas import codec, limits
from schemas.messages.audit import AuditEntry
from schemas.messages.facts import (
    ArgumentsRecord,
    AttemptRecord,
    CommandRecord,
    HistoryRecord,
    Outcome,
)
from schemas.messages.work import Output
from schemas.programs import is_short, shortened
from schemas.texts import cut_text

# Of a record that is too large: characters of each reason, and the attempts that stay.
_SHORT_LEN: Final = 200
_FIRST: Final = 4
_LAST: Final = 12
# Bytes of one attempt, and of one record, beside its texts.
_ATTEMPT_BYTES: Final = 400
_PLAIN_BYTES: Final = 4096
# Names of the fields that give the length of a text.
_HEAD_BYTES: Final = 5
# The longest encoding of one character.
_WIDE: Final = 4
# Changes a record in place; returns whether anything was cut.
_Step: TypeAlias = Callable[[CommandRecord], bool]


def cut_output(output: Output | None, most: int = limits.INLINE_OUTPUT_BYTES) -> Output | None:
    """Cut both streams to `most` bytes in all; `truncated` says that more is missing."""
    if output is None or len(output.stdout) + len(output.stderr) <= most:
        return output
    stdout = output.stdout[: max(most // 2, most - len(output.stderr))]
    return Output(stdout=stdout, stderr=output.stderr[: most - len(stdout)], truncated=True)


def fit_outcome(outcome: Outcome) -> Outcome:
    """Cut an outcome to the limits of what agents may add: reason and output."""
    output = cut_output(outcome.output, limits.INLINE_OUTPUT_BYTES - len(outcome.result))
    if output is outcome.output and len(outcome.reason) <= limits.REASON_LEN:
        return outcome
    return msgspec.structs.replace(
        outcome,
        reason=cut_text(outcome.reason),
        output=output,
        truncated=outcome.truncated or output is not outcome.output,
    )


def bare_outcome(outcome: Outcome) -> Outcome:
    """The same end without output and result, for a store that takes even less."""
    lost = outcome.output is not None
    return msgspec.structs.replace(
        outcome,
        reason=cut_text(outcome.reason, _SHORT_LEN),
        output=None,
        result=b"",
        truncated=outcome.truncated or lost,
    )


def fit_entry(entry: AuditEntry) -> AuditEntry:
    """Cut each text of an audit entry to the limit of readers."""
    changes: dict[str, str] = {}
    for name in ("by", "action", "address", "target", "group", "code"):
        text = getattr(entry, name)
        if len(text) > limits.LABEL_LEN:
            changes[name] = cut_text(text, limits.LABEL_LEN)
    if len(entry.detail) > limits.TEXT_LEN:
        changes["detail"] = cut_text(entry.detail, limits.TEXT_LEN)
    return msgspec.structs.replace(entry, **changes) if changes else entry


# -- commands


def fit_record(record: CommandRecord, most: int = limits.RECORD_BYTES) -> CommandRecord:
    """Return `record` if it fits into `most` bytes, else a copy with parts cut.

    The least valuable parts go first; the remainder after the last step fits into a few KiB. Usual
    records are not measured: their longest possible encoding is small enough.
    """
    if _longest(record) <= most:
        return record
    for name, step in _STEPS:
        if len(codec.encode(record)) <= most:
            return record
        record = _cut(record, name, step)
    return record


def bare_record(record: CommandRecord) -> CommandRecord:
    """Cut all parts of a record: its id, its state, and a short reason stay."""
    for name, step in _STEPS:
        record = _cut(record, name, step)
    return record


def fit_history(history: HistoryRecord, most: int = limits.HISTORY_BYTES) -> HistoryRecord:
    """As `fit_record`, for what history keeps.

    The whole command stays as long as it fits, as it may be submitted again.
    """
    accepted = history.accepted
    longest = _longest(history.record) + 4 * _PLAIN_BYTES
    if accepted is not None:
        longest += _longest(history.record) + len(bytes(accepted.args))
    if longest <= most:
        return history
    room = most - _beside(history)
    record = fit_record(history.record, room)
    if accepted is not None and len(codec.encode(record)) > room:
        record = _mark(record, "accepted")
        history = msgspec.structs.replace(history, accepted=None, argv=[])
        record = fit_record(record, most - _beside(history))
    if record is history.record:
        return history
    return msgspec.structs.replace(history, record=record)


def bare_history(history: HistoryRecord) -> HistoryRecord:
    """Cut a history record to the smallest form, for a store that takes nothing larger."""
    record = bare_record(history.record)
    if history.accepted is not None:
        record = _mark(record, "accepted")
    return msgspec.structs.replace(history, record=record, argv=[], accepted=None)


def _beside(history: HistoryRecord) -> int:
    """Bytes of a history record beside the record of its command."""
    return len(codec.encode(msgspec.structs.replace(history, record=_NOTHING)))


def _longest(record: CommandRecord) -> int:
    """An upper bound of the encoded size, without encoding."""
    output = record.output
    size = _PLAIN_BYTES + _WIDE * (len(record.reason) + len(record.next) + len(record.action))
    if record.arguments is not None:
        size += _longest_arguments(record.arguments)
    size += _WIDE * len(record.program)
    if output is not None:
        size += len(output.stdout) + len(output.stderr)
    if record.result is not None:
        size += len(codec.encode(record.result))
    for label, value in record.labels.items():
        size += _WIDE * (len(label) + len(value) + 2)
    for attempt in record.attempts:
        size += _ATTEMPT_BYTES + _WIDE * (len(attempt.reason) + len(attempt.why))
    return size


def _longest_arguments(arguments: ArgumentsRecord) -> int:
    texts = (*arguments.argv, *arguments.env, arguments.cwd or "")
    return sum(_WIDE * len(text) + _HEAD_BYTES for text in texts)


def _cut(record: CommandRecord, name: str, step: _Step) -> CommandRecord:
    changed = msgspec.structs.replace(record)
    return _mark(changed, name) if step(changed) else record


def _mark(record: CommandRecord, name: str) -> CommandRecord:
    if name in record.cut:
        return record
    return msgspec.structs.replace(record, cut=[*record.cut, name])


def _small_output(record: CommandRecord) -> bool:
    output = cut_output(record.output)
    return _put_output(record, output)


def _no_output(record: CommandRecord) -> bool:
    return _put_output(record, None)


def _put_output(record: CommandRecord, output: Output | None) -> bool:
    if output is record.output:
        return False
    record.output, record.truncated = output, True
    return True


def _short_reasons(record: CommandRecord) -> bool:
    attempts = [_short(attempt) for attempt in record.attempts]
    reason = cut_text(record.reason, limits.REASON_LEN)
    is_cut = attempts != record.attempts or reason != record.reason
    record.attempts, record.reason = attempts, reason
    return is_cut


def _short(attempt: AttemptRecord) -> AttemptRecord:
    return msgspec.structs.replace(
        attempt,
        reason=cut_text(attempt.reason, _SHORT_LEN),
        why=cut_text(attempt.why, _SHORT_LEN),
    )


def _short_arguments(record: CommandRecord) -> bool:
    if record.arguments is None or is_short(record.arguments):
        return False
    record.arguments = shortened(record.arguments)
    return True


def _no_arguments(record: CommandRecord) -> bool:
    had, record.arguments = record.arguments is not None, None
    return had


def _few_attempts(record: CommandRecord) -> bool:
    attempts = record.attempts
    if len(attempts) <= _FIRST + _LAST:
        return False
    record.attempts = [*attempts[:_FIRST], *attempts[-_LAST:]]
    return True


def _no_labels(record: CommandRecord) -> bool:
    had, record.labels = bool(record.labels), {}
    return had


def _no_result(record: CommandRecord) -> bool:
    had, record.result = record.result is not None, None
    return had


def _short_words(record: CommandRecord) -> bool:
    before = (record.reason, record.next)
    record.reason = cut_text(record.reason, _SHORT_LEN)
    record.next = cut_text(record.next, _SHORT_LEN)
    return before != (record.reason, record.next)


def _one_attempt(record: CommandRecord) -> bool:
    had = len(record.attempts) > 1
    record.attempts = record.attempts[-1:]
    return had


# Least valuable part first. The names are those of `CommandRecord.cut`.
_STEPS: Final[tuple[tuple[str, _Step], ...]] = (
    ("output", _small_output),
    ("arguments", _short_arguments),
    ("reasons", _short_reasons),
    ("attempts", _few_attempts),
    ("labels", _no_labels),
    ("arguments", _no_arguments),
    ("output", _no_output),
    ("result", _no_result),
    ("reasons", _short_words),
    ("attempts", _one_attempt),
)
_NOTHING: Final = CommandRecord(
    id="", group="", agent=None, action="", state="", attempts=[], submitted_at="", client=""
)
