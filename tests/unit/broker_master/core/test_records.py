"""Commands as users see them; field names and spellings here are what outsiders rely on."""

import msgspec
import pytest

from broker_master.core import attempts
from broker_master.core.commands import Command
from broker_master.core.phases import Event
from broker_master.core.records import amend_record, command_record, history_record
from schemas import codec
from schemas.messages.facts import HistoryRecord, Outcome
from schemas.messages.work import Output
from schemas.moments import rfc3339
from schemas.states import State
from schemas.timers import Timers
from tests.fake_clock import EPOCH
from tests.unit.broker_master.deeds import (
    accepted,
    assigned,
    cancel_asked,
    command_of,
    ended,
    late,
    started,
)

TIMERS = Timers()
SMALL = Output(stdout=b"out", stderr=b"err")


def argv(*parts: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode({"argv": list(parts)}))


def history_of(command: Command) -> HistoryRecord:
    return history_record(command, command_record(command, TIMERS, with_output=True))


def test_record_of_a_success_has_every_field() -> None:
    command = command_of(
        accepted(labels={"ticket": "42"}),
        assigned(),
        started(),
        ended(exit_code=0, ended_at=EPOCH + 8, stdout_bytes=3, output=SMALL),
    )
    assert msgspec.to_builtins(command_record(command, TIMERS)) == {
        "id": "c1",
        "group": "web",
        "agent": None,
        "action": "noop",
        "state": "succeeded",
        "attempts": [
            {
                "attempt": 1,
                "agent": "web-1",
                "state": "succeeded",
                "sent": 1,
                "accepted_at": rfc3339(EPOCH + 2),
                "started_at": rfc3339(EPOCH + 3),
                "ended_at": rfc3339(EPOCH + 8),
                "exit_code": 0,
                "reason": "",
                "why": "least loaded",
                "late": False,
                "effect": "",
                "code": "",
            }
        ],
        "submitted_at": rfc3339(EPOCH),
        "client": "ops",
        "reason": "",
        "since": rfc3339(EPOCH + 9),
        "next": "",
        "ended_at": rfc3339(EPOCH + 8),
        "labels": {"ticket": "42"},
        "program": "noop",
        "arguments": None,
        "stdout_bytes": 3,
        "stderr_bytes": 0,
        "truncated": False,
        "last_output_at": None,
        "output": None,
        "cut": [],
        "connection": None,
        "result": None,
    }


def test_output_is_there_only_where_it_was_asked_for() -> None:
    command = command_of(accepted(), assigned(), ended(output=SMALL))
    assert command_record(command, TIMERS).output is None
    assert command_record(command, TIMERS, with_output=True).output == SMALL
    assert command_record(command_of(accepted()), TIMERS, with_output=True).output is None


def test_queued_command_says_what_it_waits_for_and_until_when() -> None:
    record = command_record(command_of(accepted(queue_ttl_s=60.0)), TIMERS)
    assert (record.state, record.reason) == (
        "queued",
        "waits for an agent of web to be active with a free slot",
    )
    assert record.next == f"expires at {rfc3339(EPOCH + 60)} unless an agent takes it"
    assert record.ended_at is None
    one = command_record(command_of(accepted(agent="web-7")), TIMERS)
    assert (one.agent, one.reason) == ("web-7", "waits for web-7 to be active with a free slot")


def test_sent_command_says_that_it_is_sent_again() -> None:
    record = command_record(command_of(accepted(), assigned()), TIMERS)
    assert (record.state, record.next) == ("sent", "sent again each 5 s, up to 5 times")


def test_unknown_command_says_what_it_was_and_when_it_is_given_up() -> None:
    command = command_of(accepted(), assigned(), started())
    attempts.on_silent(command, command.attempts[0], EPOCH + 20)
    record = command_record(command, TIMERS)
    assert record.reason == "web-1 does not respond; it was running before"
    assert record.next == f"given up at {rfc3339(EPOCH + 60)} unless the agent returns"


@pytest.mark.parametrize(
    ("cancelled", "reason"), [(True, "cancelled by ops"), (False, "it is being ended")]
)
def test_stopping_command_says_why_and_when_it_is_killed(cancelled: bool, reason: str) -> None:
    deeds = [accepted(), assigned(), started(), *([cancel_asked()] if cancelled else [])]
    command = command_of(*deeds)
    assert command.enter(Event.STOP, EPOCH + 20)
    record = command_record(command, TIMERS)
    assert (record.reason, record.next) == (reason, "killed 10 s after it was asked to end")


def test_end_without_an_attempt_has_its_reason_and_its_time() -> None:
    command = command_of(accepted(), ended(attempt=0, state=State.EXPIRED, reason="too late"))
    record = command_record(command, TIMERS)
    assert (record.state, record.reason, record.attempts) == ("expired", "too late", [])
    assert record.ended_at == rfc3339(EPOCH + 9)


def test_history_keeps_what_dedup_lists_and_a_retry_need() -> None:
    command = command_of(
        accepted(action="process", args=argv("prog", "x" * 900, *["y"] * 40), digest=b"d"),
        assigned(),
        ended(ended_at=EPOCH + 8, output=SMALL),
    )
    kept = history_of(command)
    assert (kept.digest, kept.submitted, kept.ended) == (b"d", EPOCH, EPOCH + 8)
    given = kept.record.arguments
    assert given is not None
    assert (len(given.argv), given.argv[0], len(given.argv[1])) == (16, "prog", 200)
    assert kept.record.cut == ["arguments"]
    assert kept.accepted == command.accepted, "it can be submitted again"
    large = command_of(accepted(action="process", args=argv("x", "y" * 70_000)), ended())
    assert history_of(large).accepted is None
    assert (kept.record.output, kept.amended) == (SMALL, False)


def test_history_of_a_verdict_that_was_amended_says_so() -> None:
    command = command_of(accepted(), assigned(), ended(state=State.LOST), late())
    kept = history_of(command)
    assert (kept.amended, kept.record.state) == (True, "succeeded")


def test_late_word_amends_a_record_as_it_amends_the_book() -> None:
    """The same late word, before and after the command has left the book, gives the same."""
    lost = ended(state=State.LOST, reason="web-1 fell silent")
    word = Outcome(
        state=State.FAILED,
        at=EPOCH + 20,
        agent="web-1",
        started_at=EPOCH + 3,
        ended_at=EPOCH + 19,
        exit_code=3,
        reason="said no",
        stdout_bytes=3,
        output=SMALL,
        late=True,
    )
    fact, _ = late()
    in_book = history_of(command_of(accepted(), assigned(), lost, (fact, word)))
    in_history = amend_record(history_of(command_of(accepted(), assigned(), lost)), 1, word)
    assert in_history is not None
    assert in_history.amended
    for field in ("state", "reason", "stdout_bytes", "output", "truncated"):
        assert getattr(in_history.record, field) == getattr(in_book.record, field), field
    assert in_history.record.attempts == in_book.record.attempts
    assert in_history.record.reason == "late result: failed: said no; before: web-1 fell silent"


def test_amending_leaves_the_old_record_as_it_was() -> None:
    before = history_of(command_of(accepted(), assigned(), ended(state=State.LOST)))
    copied = codec.encode(before)
    _, word = late()
    assert isinstance(word, Outcome)
    assert amend_record(before, 1, word) is not None
    assert codec.encode(before) == copied


@pytest.mark.parametrize(
    ("agent", "number"), [("web-2", 1), ("web-1", 2), ("web-1", 0)], ids=["agent", "two", "none"]
)
def test_late_word_of_anybody_else_or_of_no_attempt_amends_nothing(agent: str, number: int) -> None:
    before = history_of(command_of(accepted(), assigned(), ended(state=State.LOST)))
    word = Outcome(state=State.SUCCEEDED, at=EPOCH + 20, agent=agent, late=True)
    assert amend_record(before, number, word) is None


def test_late_word_amends_once_and_only_what_was_lost() -> None:
    _, word = late()
    assert isinstance(word, Outcome)
    done = history_of(command_of(accepted(), assigned(), ended()))
    assert amend_record(done, 1, word) is None
    lost = history_of(command_of(accepted(), assigned(), ended(state=State.LOST)))
    amended = amend_record(lost, 1, word)
    assert amended is not None
    assert amend_record(amended, 1, word) is None


def test_late_word_on_a_command_that_was_run_again_leaves_its_state() -> None:
    command = command_of(
        accepted(),
        assigned(),
        ended(state=State.LOST, final=False),
        assigned(attempt=2, agent="web-2"),
        ended(attempt=2, state=State.FAILED, exit_code=4),
    )
    _, word = late()
    assert isinstance(word, Outcome)
    amended = amend_record(history_of(command), 1, word)
    assert amended is not None
    assert amended.record.state == "failed"
    assert [each.late for each in amended.record.attempts] == [True, False]
