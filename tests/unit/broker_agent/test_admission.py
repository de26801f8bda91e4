"""Admission: every run request gets exactly one answer, and deduplication comes first."""

import msgspec
import pytest

from broker_agent.core.admission import ACCEPTED, AdmissionState, is_foreign, judge
from broker_agent.core.tasks import CANCELLED, REFUSALS_KEPT, TaskBook, TaskEntry, TaskPhase
from schemas.faults import FAULTS
from schemas.messages.work import Run
from schemas.states import State

FREE = AdmissionState(
    epoch=3,
    incarnation="inc",
    linked=True,
    draining=False,
    full=False,
    age_s=1.0,
    start_before_s=60.0,
)


def run(*, epoch: int = 3, incarnation: str = "inc") -> Run:
    return Run(
        command="c",
        attempt=1,
        epoch=epoch,
        incarnation=incarnation,
        beat_seq=1,
        token="t",
        action="noop",
        args=msgspec.Raw(b"\x80"),
    )


def test_free_agent_accepts() -> None:
    assert judge(run(), FREE) == ACCEPTED


@pytest.mark.parametrize(
    ("request_", "standing", "code"),
    [
        (run(epoch=2), FREE, "epoch_stale"),
        (run(), FREE._replace(refused=CANCELLED), "attempt_stale"),
        (run(), FREE._replace(age_s=60.1), "attempt_stale"),
        (run(), FREE._replace(age_s=None), "attempt_stale"),
        (run(), FREE._replace(linked=False), "agent_unleased"),
        (run(epoch=4), FREE, "agent_unleased"),
        (run(), FREE._replace(draining=True), "agent_draining"),
        (run(), FREE._replace(full=True), "agent_full"),
    ],
)
def test_request_that_cannot_run_is_rejected_with_its_code(
    request_: Run, standing: AdmissionState, code: str
) -> None:
    admission = judge(request_, standing)
    assert (admission.answer, admission.code) == ("rejected", code)
    assert admission.message
    assert code in FAULTS


@pytest.mark.parametrize(
    "standing",
    [
        FREE,
        FREE._replace(full=True),
        FREE._replace(draining=True),
        FREE._replace(linked=False),
        FREE._replace(age_s=None),
    ],
)
def test_redelivered_request_is_deduplicated_in_any_state_of_the_agent(
    standing: AdmissionState,
) -> None:
    admission = judge(run(incarnation="old"), standing._replace(known="running"))
    assert (admission.answer, admission.state) == ("duplicate", "running")


def test_request_for_another_incarnation_gets_no_answer() -> None:
    assert is_foreign(run(incarnation="old"), FREE)
    assert not is_foreign(run(incarnation="old"), FREE._replace(known="running"))
    assert not is_foreign(run(), FREE)


def test_stale_epoch_is_refused_before_deduplication() -> None:
    assert judge(run(epoch=2), FREE._replace(known="running")).code == "epoch_stale"


def test_request_at_its_age_limit_runs() -> None:
    assert judge(run(), FREE._replace(age_s=60.0)) == ACCEPTED


def test_slots_are_held_from_acceptance_until_freed_once() -> None:
    book = TaskBook(slots=1)
    entry = TaskEntry("c", 1, 1, 0.0)
    book.add(entry, holds_slot=True)
    assert (book.running, book.is_full) == (1, True)
    book.free(entry)
    book.free(entry)
    book.drop(entry)
    assert (book.running, book.is_full, len(book)) == (0, False, 0)


def test_first_reason_to_stop_stays() -> None:
    entry = TaskEntry("c", 1, 1, 0.0)
    assert entry.ask_stop(State.CANCELLED, "cancelled")
    assert not entry.ask_stop(State.KILLED_FENCED, "silence")
    assert (entry.stop, entry.stop_reason) == (State.CANCELLED, "cancelled")


def test_stop_of_an_ended_attempt_is_refused() -> None:
    entry = TaskEntry("c", 1, 1, 0.0)
    entry.phase = TaskPhase.ENDED
    assert not entry.ask_stop(State.CANCELLED, "cancelled")


def test_refusals_are_bounded_and_the_oldest_is_evicted() -> None:
    book = TaskBook(slots=1)
    for number in range(REFUSALS_KEPT + 1):
        book.refuse(f"c{number}", 1)
    assert book.refusal("c0", 1) is None
    assert book.refusal("c1", 1) == CANCELLED
    assert book.refusal("c1", 2) is None
