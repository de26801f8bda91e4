"""Records whatever agents and clients have put into them: small enough, and marked where cut."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from broker_master.core.fit import bare_history, cut_output, fit_history, fit_outcome, fit_record
from schemas import codec, limits
from schemas.messages.facts import (
    Accepted,
    AttemptRecord,
    CommandRecord,
    HistoryRecord,
    Outcome,
)
from schemas.messages.work import Output
from schemas.texts import MARK, cut_text
from tests.unit.schemas.strategies import quick

WIDE = "\U0001f512"
# What 0.1.0 has stored: reasons and late words without a limit of their own.
LENGTHS = st.sampled_from([0, 1, 200, 999, 1000, 1001, 4096, 9000])
OUTPUTS = st.sampled_from([0, 1, 32 * 1024, 32 * 1024 + 1, 250 * 1024])


@st.composite
def records(draw: st.DrawFn) -> CommandRecord:
    attempts = [
        AttemptRecord(
            attempt=number,
            agent="a" * 63,
            state="rejected",
            reason=WIDE * draw(LENGTHS),
            why=WIDE * draw(st.sampled_from([0, 20, 1000])),
        )
        for number in range(1, draw(st.sampled_from([0, 1, 2, 6, 17, 100])) + 1)
    ]
    count = draw(st.sampled_from([0, 1, limits.LABELS + limits.OWN_LABELS]))
    label = WIDE * (limits.LABEL_LEN - 2)
    output = Output(stdout=bytes(draw(OUTPUTS)), stderr=bytes(draw(OUTPUTS)))
    return CommandRecord(
        id="i" * 64,
        group="g" * 63,
        agent=draw(st.sampled_from([None, "a" * 63])),
        action="process",
        state="rejected",
        attempts=attempts,
        submitted_at="2026-01-01T00:00:00.000Z",
        client="c" * 63,
        reason=WIDE * draw(LENGTHS),
        labels={f"{number:02}{label}": label for number in range(count)},
        output=draw(st.sampled_from([None, output])),
    )


def accepted(args_bytes: int, labels: dict[str, str]) -> Accepted:
    args = {"argv": ["x" * args_bytes]}
    return Accepted(
        id="i" * 64,
        client="c" * 63,
        group="g" * 63,
        action="process",
        args=msgspec.Raw(codec.encode(args)),
        submitted_at=1.0,
        labels=labels,
    )


@given(record=records())
@quick(150)
def test_sec_s30_record_fits_and_says_what_was_cut(record: CommandRecord) -> None:
    before = codec.encode(record)
    fitted = fit_record(record)
    assert codec.encode(record) == before, "what was given is not changed"
    assert len(codec.encode(fitted)) <= limits.RECORD_BYTES
    assert (fitted.id, fitted.state, fitted.client) == (record.id, record.state, record.client)
    assert (fitted.attempts[-1:] == []) == (record.attempts == [])
    if len(before) <= limits.RECORD_BYTES:
        assert (fitted, fitted.cut) == (record, [])
    said = {attempt.attempt: attempt.reason for attempt in record.attempts}
    whole = {
        "output": fitted.output == record.output,
        "attempts": len(fitted.attempts) == len(record.attempts),
        "labels": fitted.labels == record.labels,
    }
    for part, is_whole in whole.items():
        assert (part in fitted.cut) == (not is_whole), part
    if fitted.reason != record.reason or any(
        attempt.reason != said[attempt.attempt] for attempt in fitted.attempts
    ):
        assert "reasons" in fitted.cut


@given(record=records(), args_bytes=st.sampled_from([0, 100_000, 190_000]), dead=st.booleans())
@quick(150)
def test_sec_s30_history_fits_is_read_back_and_keeps_dead_letters(
    record: CommandRecord,
    args_bytes: int,
    dead: bool,
) -> None:
    command = accepted(args_bytes, record.labels) if dead else None
    history = HistoryRecord(
        record=fit_record(record),
        digest=bytes(16),
        submitted=1.0,
        ended=2.0,
        argv=[WIDE * 200] * 16,
        accepted=command,
    )
    fitted = fit_history(history)
    payload = codec.encode(fitted)
    assert len(payload) <= limits.HISTORY_BYTES
    read = codec.decode_trusted(HistoryRecord, payload)
    assert read.record == fitted.record
    assert (read.accepted is not None) == dead, "it can be submitted again"


def test_sec_s30_dead_letter_of_the_largest_command_can_be_submitted_again() -> None:
    label = WIDE * (limits.LABEL_LEN - 2)
    labels = {f"{number:02}{label}": label for number in range(limits.LABELS)}
    room = limits.PAYLOAD_BYTES - len(codec.encode(labels)) - 100
    command = accepted(room, labels)
    record = CommandRecord(
        id="i", group="g", agent=None, action="process", state="undeliverable",
        attempts=[AttemptRecord(attempt=1, agent="a", state="undeliverable", reason=WIDE * 1000)],
        submitted_at="", client="c", labels=labels, reason=WIDE * 1000,
    )  # fmt: skip
    history = HistoryRecord(
        record=record, submitted=1.0, ended=2.0, accepted=command, argv=[WIDE * 200] * 16
    )
    fitted = fit_history(history)
    assert len(codec.encode(fitted)) <= limits.HISTORY_BYTES
    assert fitted.accepted == command
    assert fitted.record.cut == ["reasons", "labels"]
    assert len(codec.encode(bare_history(history))) < 4096


@given(stdout=OUTPUTS, stderr=OUTPUTS)
@quick(30)
def test_sec_s30_output_keeps_the_beginning_of_both_streams(stdout: int, stderr: int) -> None:
    output = Output(stdout=b"o" * stdout, stderr=b"e" * stderr)
    cut = cut_output(output)
    assert cut is not None
    most = limits.INLINE_OUTPUT_BYTES
    assert len(cut.stdout) + len(cut.stderr) == min(most, stdout + stderr)
    assert cut.truncated == (stdout + stderr > most)
    assert len(cut.stdout) >= min(stdout, most // 2)
    assert len(cut.stderr) >= min(stderr, most // 2)


def test_sec_s30_reported_reason_of_an_end_is_limited_and_stays_readable() -> None:
    said = Outcome(
        state="failed", at=1.0, reason=WIDE * 4096, output=Output(stdout=bytes(250 * 1024))
    )
    stored = fit_outcome(said)
    assert (len(stored.reason), stored.truncated) == (limits.REASON_LEN, True)
    assert stored.reason.endswith(MARK)
    assert stored.output is not None
    assert (len(stored.output.stdout), stored.output.truncated) == (32 * 1024, True)
    assert codec.decode_trusted(Outcome, codec.encode(stored)) == stored
    assert fit_outcome(stored) is stored
    assert cut_text("x" * limits.REASON_LEN) == "x" * limits.REASON_LEN
