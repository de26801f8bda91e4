"""The story of a command: in order, with both words where a verdict and a late one disagree."""

import time
from collections.abc import Iterator

import msgspec
import pytest

from broker_client.cli.command.story import described
from broker_client.cli.command.timeline import timeline
from schemas.messages.facts import AttemptRecord, CommandRecord
from schemas.moments import parse_rfc3339

WIDE = 400


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(second: int) -> str:
    return f"2025-11-21T20:00:{second:02d}.000Z"


def attempt(state: str, number: int = 1, **fields: object) -> AttemptRecord:
    begun = AttemptRecord(
        attempt=number, agent="web-1", state=state, sent=1, accepted_at=at(1), started_at=at(2)
    )
    return msgspec.structs.replace(begun, **fields)


def record(state: str, *attempts: AttemptRecord, **fields: object) -> CommandRecord:
    submitted = CommandRecord(
        id="c1",
        group="web",
        agent=None,
        action="process",
        state=state,
        attempts=[*attempts],
        submitted_at=at(0),
        client="ann",
    )
    return msgspec.structs.replace(submitted, **fields)


def told(shown: CommandRecord) -> list[str]:
    """The timeline with seconds in place of moments; `--` where no time is known."""
    lines = []
    for line in timeline(shown, WIDE):
        moment, text = line[:40], line[42:]
        lines.append(f"{moment[17:19] if moment.strip() else '--'} {text}")
    return lines


BEGUN = [
    "00 submitted by ann",
    "-- attempt 1 sent to web-1 once",
    "01 attempt 1 accepted by web-1",
    "02 attempt 1 started",
]


def test_end_of_an_attempt_comes_with_exit_code_and_reason() -> None:
    failed = attempt("failed", ended_at=at(5), exit_code=3, reason="it says no", why="least loaded")
    assert told(record("failed", failed, ended_at=at(5), reason="it says no")) == [
        "00 submitted by ann",
        "-- attempt 1 sent to web-1 once (least loaded)",
        *BEGUN[2:],
        "05 attempt 1 failed, exit code 3: it says no",
        "05 command failed",
    ]


def test_unknown_shows_its_start_the_last_output_and_the_next_decision() -> None:
    unknown = record(
        "unknown",
        attempt("unknown"),
        since=at(9),
        reason="web-1 does not respond; it was running before",
        next=f"given up at {at(49)} unless the agent returns",
        last_output_at=at(4),
    )
    assert told(unknown) == [
        *BEGUN,
        "04 the newest output that has arrived",
        "09 attempt 1 unknown since then: web-1 does not respond; it was running before",
        "49 next: given up at 2025-11-21 20:00:49 unless the agent returns",
    ]
    lines = described(unknown, parse_rfc3339(at(18)))
    assert "next         given up at 2025-11-21 20:00:49 (in 31s) unless the agent returns" in lines
    assert "last output  2025-11-21 20:00:04 +0000 (20:00:04 UTC)" in lines


def test_sec_s30_record_that_was_cut_says_which_parts_are_not_whole() -> None:
    whole = record("failed", attempt("failed"), since=at(9))
    assert not any(line.startswith("not whole") for line in described(whole, 0.0))
    cut = msgspec.structs.replace(whole, cut=["output", "reasons"])
    (line,) = [each for each in described(cut, 0.0) if each.startswith("not whole")]
    assert line.split() == [
        "not",
        "whole",
        "output,",
        "reasons:",
        "too",
        "long",
        "for",
        "one",
        "record",
    ]


def test_attempt_that_was_heard_of_again_says_so() -> None:
    back = record("running", attempt("running"), since=at(20))
    assert told(back) == [*BEGUN, "20 attempt 1 is running: web-1 says so"]


def test_late_result_that_amends_a_verdict_stands_beside_it() -> None:
    reason = "late result: failed: out of paper; before: web-1 fell silent while it was running"
    amended = attempt("failed", ended_at=at(7), exit_code=3, reason=reason, late=True)
    shown = record("failed", amended, since=at(50), ended_at=at(50), reason=reason)
    assert told(shown) == [
        *BEGUN,
        "07 attempt 1 failed, exit code 3, heard of late: out of paper",
        "50 attempt 1 was given up before that was heard",
        "-- the verdict was lost: web-1 fell silent while it was running",
        "50 command failed, amended",
    ]


def test_late_result_of_a_command_that_ran_again_changes_nothing_and_is_shown() -> None:
    reason = "late result: succeeded; before: web-1 fell silent while it was running"
    lost = attempt("lost", ended_at=at(50), exit_code=0, reason=reason, late=True)
    second = attempt(
        "succeeded", 2, accepted_at=at(51), started_at=at(52), ended_at=at(53), exit_code=0
    )
    assert told(record("succeeded", lost, second, ended_at=at(53))) == [
        *BEGUN,
        "50 attempt 1 lost: web-1 fell silent while it was running",
        "-- attempt 1, beside the verdict: late result: succeeded, exit code 0",
        "-- attempt 2 sent to web-1 once",
        "51 attempt 2 accepted by web-1",
        "52 attempt 2 started",
        "53 attempt 2 succeeded, exit code 0",
        "53 command succeeded",
    ]


def test_late_end_without_a_verdict_is_marked() -> None:
    fenced = attempt("killed_fenced", ended_at=at(37), reason="silence", late=True)
    assert told(record("killed_fenced", fenced, ended_at=at(37)))[-2:] == [
        "37 attempt 1 killed_fenced, heard of late: silence",
        "37 command killed_fenced",
    ]


def test_command_that_waits_for_a_word_says_who_gives_it_and_until_when() -> None:
    lost = attempt("lost", ended_at=at(50), reason="web-1 fell silent")
    following = f"mesh command decide c1 fail, or rerun; it fails at {at(59)} by itself"
    shown = record("unknown", lost, since=at(50), reason="web-1 fell silent", next=following)
    assert told(shown)[-3:] == [
        "50 attempt 1 lost: web-1 fell silent",
        "50 command waits for a word: fail or rerun",
        "59 next: mesh command decide c1 fail, or rerun; it fails at 2025-11-21 20:00:59 by itself",
    ]


def test_long_text_is_broken_below_itself() -> None:
    failed = attempt("failed", ended_at=at(5), reason="why " * 40)
    lines = timeline(record("failed", failed, ended_at=at(5)), 80)
    assert max(len(line) for line in lines) <= 80
    assert lines[5].startswith(" " * 42 + "why why")
