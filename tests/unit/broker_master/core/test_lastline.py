"""The last line on stderr is the reason of a failure that has no other."""

import pytest
from msgspec import structs

from broker_master.core.lastline import explained, explained_by, is_in_logs
from schemas.messages.facts import Outcome
from schemas.messages.work import LogChunk, Output
from schemas.texts import MARK

FAILED = Outcome(state="failed", at=1.0, agent="web-1", exit_code=1)


def said(stderr: bytes, **changes: object) -> str:
    outcome = structs.replace(FAILED, output=Output(stderr=stderr), **changes)
    return explained(outcome).reason


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (b"trying\nno space left on device\n\n", "stderr: no space left on device"),
        (b"one line", "stderr: one line"),
        (b"a\r\nb\r\n", "stderr: b"),
        (b"\x1b[31mred\x1b[0m\n", "stderr: \\x1b[31mred\\x1b[0m"),
        (b"bad \xff byte", "stderr: bad \N{REPLACEMENT CHARACTER} byte"),
        (b"", ""),
        (b" \n\n", ""),
    ],
)
def test_line_is_the_last_one_that_is_not_empty_and_steers_nothing(
    stderr: bytes, reason: str
) -> None:
    assert said(stderr) == reason


def test_line_is_cut_with_a_mark() -> None:
    for long in (b"x" * 3000, b"\x00" * 5000):
        reason = said(long)
        assert len(reason) <= 208
        assert reason.endswith(MARK)


@pytest.mark.parametrize(
    "changes", [{"state": "succeeded"}, {"state": "timed_out"}, {"reason": "ended by signal 9"}]
)
def test_other_ends_and_other_reasons_stay(changes: dict[str, object]) -> None:
    outcome = structs.replace(FAILED, output=Output(stderr=b"line"), **changes)
    assert explained(outcome) is outcome
    assert not is_in_logs(structs.replace(outcome, output=None, stderr_bytes=4))


def test_cut_output_gives_no_last_line() -> None:
    outcome = structs.replace(FAILED, output=Output(stderr=b"line", truncated=True))
    assert explained(outcome) is outcome


def test_chunk_gives_the_last_line_only_if_nothing_follows_it() -> None:
    outcome = structs.replace(FAILED, stderr_bytes=100_010)
    assert is_in_logs(outcome)
    last = LogChunk(offset=100_000, data=b"x\nno disk\n")
    assert explained_by(outcome, last).reason == "stderr: no disk"
    assert explained_by(structs.replace(outcome, stderr_bytes=100_011), last).reason == ""
