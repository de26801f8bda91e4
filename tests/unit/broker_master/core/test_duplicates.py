"""One identity in two places: heard at once, and nobody gets work while they fight for it."""

import pytest

from broker_master.core.badges import badges
from broker_master.core.liveness import CONTEST_S
from broker_master.core.standing import classify
from schemas.messages.liveness import Details
from schemas.messages.registry import AgentEntry
from schemas.states import AgentStatus
from tests.unit.broker_master.core.test_liveness import TIMERS, Watch

ENTRY = AgentEntry(name="web-1", group="web", created_at=1.0, connected=True)


def meet(watch: Watch, incarnation: str, host: str) -> None:
    watch.hello(incarnation, details=Details(host=host))
    watch.done(incarnation)
    watch.beat(incarnation)


def status_of(watch: Watch) -> tuple[AgentStatus, str, str]:
    at = watch.clock.now()
    told = classify(ENTRY, watch.agent, at)
    return told.status, told.reason, told.next


def test_superseded_session_that_still_beats_raises_one_alarm_with_its_host() -> None:
    watch = Watch()
    meet(watch, "i1", "h1")
    meet(watch, "i2", "h2")
    assert watch.beat("i1") == ["duplicate"]
    assert watch.beat("i1") == []
    assert badges(watch.agent, at=watch.clock.now()) == ["second session on h1"]
    assert watch.takes_work
    assert status_of(watch)[0] is AgentStatus.ACTIVE


def test_session_that_only_says_goodbye_is_no_alarm() -> None:
    watch = Watch()
    meet(watch, "i1", "h1")
    meet(watch, "i2", "h2")
    assert watch.beat("i1", goodbye=True) == []


def test_sessions_that_supersede_each_other_three_times_in_a_minute_get_no_work() -> None:
    watch = Watch()
    meet(watch, "i1", "h1")
    for number in range(2, 5):
        assert not watch.agent.frozen
        meet(watch, f"i{number}", "h1" if number % 2 else "h2")
        assert watch.beat(f"i{number - 1}") == ["duplicate"]
        watch.live_for(10, f"i{number}")
    assert not watch.takes_work
    status, reason, then = status_of(watch)
    assert (status, reason) == (
        AgentStatus.NO_RESPONSE,
        "duplicate identity: it lives on h2 and h1, in turn",
    )
    assert "mesh agent revoke web-1" in then
    watch.live_for(CONTEST_S, "i4")
    assert watch.takes_work
    assert status_of(watch)[0] is AgentStatus.ACTIVE


def test_sessions_that_supersede_each_other_slowly_are_alarms_and_go_on_working() -> None:
    watch = Watch()
    meet(watch, "i1", "h1")
    for number in range(2, 8):
        meet(watch, f"i{number}", "h2")
        assert watch.beat(f"i{number - 1}") == ["duplicate"]
        watch.live_for(CONTEST_S / 2, f"i{number}")
    assert watch.takes_work


@pytest.mark.parametrize("is_goodbye", [True, False])
def test_superseded_session_may_return_once_its_successor_has_left(is_goodbye: bool) -> None:
    watch = Watch()
    meet(watch, "i1", "h1")
    meet(watch, "i2", "h2")
    assert watch.roster.is_superseded("web-1", "i1")
    assert watch.hello("i1") == []
    if is_goodbye:
        watch.beat("i2", goodbye=True)
    else:
        watch.later(TIMERS.suspect_s)
        assert watch.roster.is_superseded("web-1", "i1"), "its successor may yet come back"
        watch.later(TIMERS.lost_s)
    assert not watch.roster.is_superseded("web-1", "i1")
    assert watch.handshake("i1") == ["incarnation", "returned"]
    assert watch.roster.is_superseded("web-1", "i2")
