"""Order of the targets of a fan-out, its stop, and its end."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_master.core.fanout import (
    FAILURES,
    HELD,
    SILENT,
    Fanout,
    child_id,
    reason_of,
    skip_reason,
    verdict,
)
from schemas.ids import is_command_id
from schemas.messages.api import SubmitRequest
from schemas.messages.fanouts import FanoutEntry
from schemas.states import State

AGENTS = ["web-1", "web-2", "web-3", "web-4"]


def entry(
    *,
    agents: list[str] = AGENTS,
    at_once: int = 0,
    max_failures: int | None = None,
    skipped: dict[str, str] | None = None,
    stopped: str = "",
    batch_sleep_s: float = 0.0,
) -> FanoutEntry:
    return FanoutEntry(
        id="f1",
        client="ann",
        digest=b"d",
        submitted_at=1.0,
        groups=["web"],
        agents=agents,
        command=SubmitRequest(),
        at_once=at_once,
        max_failures=max_failures,
        skipped=skipped or {},
        stopped=stopped,
        batch_sleep_s=batch_sleep_s,
    )


def nothing(_agent: str) -> str:
    return ""


def ended(fanout: Fanout, *agents: str, state: State = State.SUCCEEDED) -> None:
    for agent in agents:
        fanout.on_started(agent)
        fanout.on_ended(agent, state)


def test_all_are_asked_at_once_without_a_batch() -> None:
    decision = Fanout(entry(), {}).decide(nothing)
    assert (decision.start, decision.done) == (AGENTS, False)


def test_batch_limits_how_many_work_at_the_same_time() -> None:
    fanout = Fanout(entry(at_once=2), {})
    assert fanout.decide(nothing).start == ["web-1", "web-2"]
    fanout.on_started("web-1")
    fanout.on_started("web-2")
    assert fanout.decide(nothing).start == []
    fanout.on_ended("web-1", State.SUCCEEDED)
    assert fanout.decide(nothing).start == ["web-3"]


def test_place_that_an_agent_has_left_rests_before_the_next_one_has_it() -> None:
    fanout = Fanout(entry(at_once=2, batch_sleep_s=10.0), {})
    for agent in fanout.decide(nothing, now_s=0.0).start:
        fanout.on_started(agent)
    fanout.on_ended("web-1", State.SUCCEEDED, now_s=5.0)
    decision = fanout.decide(nothing, now_s=6.0)
    assert (decision.start, decision.rest_s, decision.done) == ([], 9.0, False)
    fanout.on_ended("web-2", State.FAILED, now_s=8.0)
    assert fanout.decide(nothing, now_s=14.9).start == []
    later = fanout.decide(nothing, now_s=15.0)
    assert (later.start, later.rest_s) == (["web-3"], 3.0)


def test_last_agents_are_not_rested_for() -> None:
    fanout = Fanout(entry(agents=["web-1"], at_once=1, batch_sleep_s=10.0), {})
    fanout.on_started("web-1")
    fanout.on_ended("web-1", State.SUCCEEDED, now_s=1.0)
    decision = fanout.decide(nothing, now_s=1.0)
    assert (decision.done, decision.rest_s) == (True, None)


def test_redelivered_end_rests_one_place() -> None:
    fanout = Fanout(entry(at_once=2, batch_sleep_s=10.0), {})
    for _ in range(2):
        fanout.on_ended("web-1", State.SUCCEEDED, now_s=0.0)
    assert fanout.decide(nothing, now_s=1.0).start == ["web-2"]


def test_restarted_master_rests_all_places_once_more() -> None:
    states: dict[str, State | None] = {
        "web-1": State.SUCCEEDED,
        "web-2": State.SUCCEEDED,
        "web-3": State.RUNNING,
    }
    fanout = Fanout(entry(at_once=2, batch_sleep_s=10.0), states, now_s=100.0)
    fanout.on_ended("web-3", State.SUCCEEDED, now_s=101.0)
    assert fanout.decide(nothing, now_s=109.0).start == []
    assert fanout.decide(nothing, now_s=110.0).start == ["web-4"]


def test_silent_agent_takes_no_place_of_a_batch_and_is_named() -> None:
    fanout = Fanout(entry(at_once=2), {})
    decision = fanout.decide(lambda agent: SILENT if agent == "web-1" else "")
    assert (decision.start, decision.skip) == (["web-2", "web-3"], {"web-1": SILENT})
    assert skip_reason(entry(skipped=decision.skip), "web-1").startswith("silent")


def test_agent_of_whom_nothing_is_known_yet_has_its_turn_put_off() -> None:
    fanout = Fanout(entry(agents=["web-1", "web-2"], at_once=1), {})
    decision = fanout.decide(lambda agent: HELD if agent == "web-1" else "")
    assert (decision.start, decision.skip, decision.held) == (["web-2"], {}, True)
    ended(fanout, "web-2")
    assert not fanout.decide(lambda _agent: HELD).done


def test_more_failures_than_allowed_ask_nobody_else() -> None:
    fanout = Fanout(entry(at_once=1, max_failures=1), {})
    ended(fanout, "web-1", state=State.FAILED)
    assert fanout.decide(nothing).stop == ""
    ended(fanout, "web-2", state=State.LOST)
    decision = fanout.decide(nothing)
    assert (decision.start, decision.stop, decision.done) == ([], FAILURES, True)
    assert "more than the 1 failure" in reason_of(entry(max_failures=1, stopped=FAILURES))


def test_limit_that_is_reached_by_the_last_agent_stops_nothing() -> None:
    fanout = Fanout(entry(max_failures=0), {})
    ended(fanout, *AGENTS, state=State.FAILED)
    decision = fanout.decide(nothing)
    assert (decision.stop, decision.done) == ("", True)


def test_silent_agents_count_as_failures_and_disabled_ones_do_not() -> None:
    obstacles = {"web-1": "disabled", "web-2": SILENT}
    fanout = Fanout(entry(at_once=1, max_failures=0), {})
    decision = fanout.decide(lambda agent: obstacles.get(agent, ""))
    assert (decision.skip, decision.start, decision.stop) == (obstacles, [], FAILURES)


def test_stopped_one_is_done_when_nothing_is_open() -> None:
    fanout = Fanout(entry(stopped="cancelled by ann"), {"web-1": State.RUNNING})
    assert not fanout.decide(nothing).done
    fanout.on_ended("web-1", State.CANCELLED)
    decision = fanout.decide(nothing)
    assert (decision.start, decision.done) == ([], True)
    assert verdict(fanout.entry, fanout.counts({})) == "cancelled"
    assert fanout.counts({}) == {"cancelled": 1, "skipped": 3}


def test_after_a_restart_only_those_are_asked_who_have_no_command() -> None:
    states = {"web-1": State.SUCCEEDED, "web-2": State.RUNNING, "web-3": None}
    fanout = Fanout(entry(skipped={"web-4": SILENT}), states)
    assert fanout.decide(nothing).start == ["web-3"]
    assert fanout.counts({"web-2": State.RUNNING}) == {
        "running": 1,
        "skipped": 1,
        "succeeded": 1,
        "waiting": 1,
    }


def test_put_back_agent_is_next() -> None:
    fanout = Fanout(entry(at_once=1), {})
    fanout.on_started("web-1")
    fanout.on_put_back("web-1")
    assert fanout.decide(nothing).start == ["web-1"]


@pytest.mark.parametrize(
    ("counts", "state"),
    [
        ({"succeeded": 4}, "succeeded"),
        ({"succeeded": 3, "skipped": 1}, "partial"),
        ({"failed": 3, "lost": 1}, "failed"),
    ],
)
def test_verdict_is_success_only_if_every_agent_succeeded(
    counts: dict[str, int], state: str
) -> None:
    assert verdict(entry(), counts) == state


NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
IDS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


@given(first=st.tuples(IDS, NAMES), second=st.tuples(IDS, NAMES))
def test_ids_of_children_are_valid_and_differ_if_parent_or_agent_does(
    first: tuple[str, str], second: tuple[str, str]
) -> None:
    assert is_command_id(child_id(*first))
    assert (child_id(*first) == child_id(*second)) == (first == second)


@given(
    ends=st.lists(st.sampled_from([State.SUCCEEDED, State.FAILED, State.LOST]), min_size=8),
    silent=st.sets(st.sampled_from([f"a{n}" for n in range(8)])),
    at_once=st.integers(0, 8),
    max_failures=st.none() | st.integers(0, 8),
)
def test_every_fan_out_comes_to_an_end_and_accounts_for_every_agent(
    ends: list[State], silent: set[str], at_once: int, max_failures: int | None
) -> None:
    agents = [f"a{n}" for n in range(8)]
    fanout = Fanout(entry(agents=agents, at_once=at_once, max_failures=max_failures), {})
    decision = fanout.decide(nothing)
    for _ in range(40):
        decision = fanout.decide(lambda agent: SILENT if agent in silent else "")
        skipped = {**fanout.entry.skipped, **decision.skip}
        fanout.on_changed(
            msgspec.structs.replace(fanout.entry, skipped=skipped, stopped=decision.stop)
        )
        for agent in decision.start:
            fanout.on_started(agent)
        assert len(fanout.open) <= (at_once or 8)
        if decision.done:
            break
        if fanout.open:
            fanout.on_ended(min(fanout.open), ends.pop() if ends else State.SUCCEEDED)
    assert decision.done
    assert sum(fanout.counts({}).values()) == 8
    if max_failures is not None and fanout.entry.stopped:
        assert fanout.failures > max_failures


def test_remaining_agents_are_those_that_run_or_are_asked_still() -> None:
    fanout = Fanout(entry(skipped={"web-4": "disabled"}), {})
    assert fanout.remaining == 3
    ended(fanout, "web-1")
    fanout.on_started("web-2")
    assert fanout.remaining == 2
    fanout.on_changed(entry(skipped={"web-4": "disabled"}, stopped=FAILURES))
    assert fanout.remaining == 1, "the one that runs"
    ended(fanout, "web-2")
    assert fanout.remaining == 0
