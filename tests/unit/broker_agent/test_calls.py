"""One call through a worker: what ends it, and with which state, effect and code."""

import pytest

from broker_agent.core.calls import (
    CANCEL_S,
    LATE_CANCEL_S,
    Act,
    Answer,
    CallEffect,
    CallPhase,
    CallState,
)
from broker_agent.core.program import GIVE_UP_S, Ending
from schemas.states import State

GRACE_S = 10.0
GOOD = Answer(b"\x80", "", "", "done")


def state(*, reads: bool = False, is_sent: bool = True) -> CallState:
    made = CallState(lambda: GRACE_S, reads=reads)
    if is_sent:
        made.on_sent()
    return made


def ending(effects: list[CallEffect]) -> Ending:
    (end,) = effects
    assert (end.act, end.ending is not None) == (Act.END, True)
    assert end.ending is not None
    return end.ending


def timers(effects: list[CallEffect]) -> dict[Act, float]:
    return {effect.act: effect.at for effect in effects if effect.at}


def test_answers_decide_state_effect_and_code() -> None:
    assert ending(state().on_answer(GOOD)) == Ending(State.SUCCEEDED, 0, "", b"\x80", "done", "")
    assert ending(state(reads=True).on_answer(GOOD)).effect == "none"
    failed = Answer(b"", "target_refused", "no such table", "none")
    assert ending(state().on_answer(failed)) == Ending(
        State.FAILED, None, "no such table", b"", "none", "target_refused"
    )
    late = Answer(code="target_timeout", message="late")
    assert ending(state().on_answer(late)).state is State.TIMED_OUT


def test_stop_decides_the_state_whatever_the_worker_answers() -> None:
    call = state()
    call.on_stop(State.CANCELLED, "asked", None, 100.0)
    assert ending(call.on_answer(GOOD)) == Ending(State.CANCELLED, None, "asked", b"", "done", "")
    call = state()
    call.on_limit(5.0, 100.0)
    late = ending(call.on_answer(GOOD))
    assert (late.state, late.code, late.effect) == (State.TIMED_OUT, "target_timeout", "done")


def test_stop_interrupts_the_call_then_ends_the_worker() -> None:
    effects = state().on_stop(State.CANCELLED, "asked", None, 100.0)
    assert effects[0].act is Act.CANCEL
    assert timers(effects) == {
        Act.TERM_AT: 100.0 + CANCEL_S,
        Act.KILL_AT: 100.0 + GRACE_S,
        Act.GIVE_UP_AT: 100.0 + GRACE_S + GIVE_UP_S,
    }
    assert timers(state().on_limit(5.0, 100.0))[Act.TERM_AT] == 100.0 + LATE_CANCEL_S
    assert [each.act for each in state().on_kill(1.0)] == [Act.CANCEL, Act.KILL, Act.GIVE_UP_AT]


def test_shortest_grace_of_several_stops_counts() -> None:
    call = state()
    call.on_stop(State.CANCELLED, "asked", None, 100.0)
    assert call.on_stop(State.CANCELLED, "again", None, 101.0) == []
    hastened = call.on_stop(State.KILLED_FENCED, "fenced", 2.0, 101.0)
    assert timers(hastened)[Act.KILL_AT] == 103.0
    assert Act.CANCEL not in [each.act for each in hastened]
    assert call.on_stop(State.CANCELLED, "longer", 60.0, 102.0) == []
    assert ending(call.on_gone("worker_lost", "gone")).state is State.CANCELLED


def test_call_without_a_worker_has_no_effect() -> None:
    call = state(is_sent=False)
    stopped = ending(call.on_stop(State.CANCELLED, "asked", None, 1.0))
    assert (stopped.state, stopped.effect) == (State.CANCELLED, "none")
    assert call.on_answer(GOOD) == call.on_stop(State.CANCELLED, "asked", None, 1.0) == []
    failed = ending(state(is_sent=False).on_gone("worker_lost", "no process could be made"))
    assert (failed.state, failed.code, failed.effect) == (State.FAILED, "worker_lost", "none")


@pytest.mark.parametrize(("reads", "effect"), [(True, "none"), (False, "unknown")])
def test_lost_worker_of_a_write_has_an_unknown_effect(*, reads: bool, effect: str) -> None:
    call = state(reads=reads)
    lost = ending(call.on_gone("worker_lost", "ended by signal 9"))
    assert (lost.state, lost.effect, lost.code) == (State.FAILED, effect, "worker_lost")
    assert call.phase is CallPhase.ENDED
