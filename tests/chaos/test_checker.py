"""The judge itself: a clean history has no violation, and each broken promise is found."""

from collections.abc import Callable

import pytest

from tests.chaos.checker import RULES, judge
from tests.chaos.history import Event
from tests.chaos.world import FAST

# U, after which an agent that hears nothing ends its tasks.
UNRECOVERABLE_S = 3.5


class Story:
    """A history that is written down by hand."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.at(0, "run", fault="F00", seed=1, timers=dict(FAST))
        self.at(0, "status", agent="a1", status="active", reason="", running=0)
        self.at(0, "epoch", epoch=1)

    def at(self, mono: float, kind: str, **fields: object) -> "Story":
        self.events.append({"kind": kind, "mono": float(mono), "wall": 0.0, **fields})
        return self

    def submitted(self, id: str, at: float, **fields: object) -> "Story":
        given = {"program": "sleeper", "probe": False, "loss": "kill", "hold_s": None}
        self.at(at, "submit", id=id, **{**given, "on_lost": "error", **fields})
        return self.at(at, "accepted", id=id, duplicate=False)

    def began(self, id: str, at: float, *, attempt: int = 1, agent: str = "a1") -> "Story":
        pid = 100 + attempt
        self.at(at, "start", id=id, attempt=attempt, agent=agent, pid=pid)
        self.at(at, "seen", id=id, attempt=attempt, pid=pid, start=1)
        return self.at(at, "state", id=id, state="running", reason="")

    def gone(self, id: str, at: float, *, attempt: int = 1) -> "Story":
        return self.at(at, "gone", id=id, attempt=attempt, pid=100 + attempt, start=1)

    def came_to_end(self, id: str, at: float, *, attempt: int = 1) -> "Story":
        self.at(at, "end", id=id, attempt=attempt, agent="a1", pid=100 + attempt)
        return self.gone(id, at, attempt=attempt)

    def told(self, id: str, at: float, state: str, *, agents: tuple[str, ...] = ("a1",)) -> "Story":
        self.at(at, "result", id=id, state=state)
        attempts = [{"attempt": n, "agent": agent} for n, agent in enumerate(agents, 1)]
        record = {"state": state, "reason": "", "attempts": attempts}
        return self.at(at, "final", id=id, record=record)

    def silent(self, began: float, healed: float, cut: str = "both") -> "Story":
        """Noticed in time, and active again in time."""
        self.at(began, "silence", agent="a1", cut=cut)
        if healed > began + 1:
            self.at(began + 1, "status", agent="a1", status="no_response", reason="", running=0)
        self.at(healed, "healed", agent="a1")
        self.at(healed + 1, "status", agent="a1", status="active", reason="", running=0)
        return self.at(healed + 1, "looked", asked=healed + 0.9)

    def without(self, kind: str, **fields: object) -> "Story":
        self.events = [
            event
            for event in self.events
            if event["kind"] != kind or any(event.get(k) != v for k, v in fields.items())
        ]
        return self

    def violated(self) -> set[str]:
        events = sorted(self.events, key=lambda event: float(event["mono"]))
        return {name for name, _ in judge(events).violations}


def survived() -> Story:
    """A task that outlives a recoverable silence."""
    story = Story().submitted("c1", 1).began("c1", 1).silent(2, 4)
    story.at(3, "state", id="c1", state="unknown", reason="")
    return story.came_to_end("c1", 8).told("c1", 8, "succeeded").at(30, "note")


def fenced() -> Story:
    """One that is ended within an unrecoverable one."""
    story = Story().submitted("c1", 1).began("c1", 1).silent(2, 9)
    story.at(3, "state", id="c1", state="unknown", reason="")
    story.gone("c1", 2 + UNRECOVERABLE_S).at(7.1, "state", id="c1", state="lost", reason="")
    return story.told("c1", 10, "killed_fenced").at(30, "note")


@pytest.mark.parametrize("story", [survived, fenced])
def test_kept_promises_are_no_violations(story: Callable[[], Story]) -> None:
    assert story().violated() == set()


def forgotten() -> Story:
    return survived().without("final")


def unended() -> Story:
    record = {"state": "unknown", "reason": "", "attempts": []}
    return survived().submitted("c2", 1).at(29, "final", id="c2", record=record)


def twice() -> Story:
    return survived().began("c1", 6, attempt=2).came_to_end("c1", 7, attempt=2)


def same_attempt_twice() -> Story:
    return survived().at(5, "start", id="c1", attempt=1, agent="a1", pid=101)


def two_live_copies() -> Story:
    story = Story().submitted("c1", 1, on_lost="rerun").began("c1", 1).began("c1", 2, attempt=2)
    story.came_to_end("c1", 4).came_to_end("c1", 4, attempt=2)
    return story.told("c1", 4, "succeeded", agents=("a1", "a1")).at(30, "note")


def never_asked_for() -> Story:
    return survived().at(5, "start", id="c9", attempt=1, agent="a1", pid=109)


def two_ends() -> Story:
    return survived().at(8.5, "result", id="c1", state="failed")


def back_from_the_dead() -> Story:
    return survived().at(8.5, "state", id="c1", state="running", reason="")


def amended_twice() -> Story:
    return fenced().at(11, "result", id="c1", state="succeeded")


def output(**fields: object) -> Story:
    given = {"attempt": 1, "stream": "stdout", "size": 5, "sha": "x", "local_size": 5}
    told = {**given, "local_sha": "x", "gaps": [], "truncated": False, "error": "", **fields}
    return survived().at(9, "output", id="c1", **told)


def lived_on() -> Story:
    return fenced().without("gone").gone("c1", 8)


def given_up_too_early() -> Story:
    return fenced().without("state", state="lost").at(4, "state", id="c1", state="lost", reason="")


def given_up_on_a_guess() -> Story:
    """The task was gone by then, but no process could know."""
    story = fenced().without("state", state="lost").without("gone").gone("c1", 4)
    return story.at(4.5, "state", id="c1", state="lost", reason="")


def lived_on_after_its_end() -> Story:
    return survived().at(2, "seen", id="c1", attempt=1, pid=200, start=2)


def killed_in_vain() -> Story:
    story = survived().without("result").without("final").without("end")
    return story.told("c1", 8, "killed_fenced")


def run_again_in_vain() -> Story:
    return survived().without("end").without("result").without("final").told("c1", 8, "failed")


def older_master() -> Story:
    return survived().at(3, "epoch", epoch=3).at(5, "epoch", epoch=2)


def untrue_success() -> Story:
    return survived().without("end")


def untrue_loss() -> Story:
    return survived().without("result").without("final").told("c1", 8, "lost")


def shown_as_running() -> Story:
    return (
        survived().without("state", state="unknown").without("healed").at(5, "healed", agent="a1")
    )


def elsewhere() -> Story:
    return survived().without("result").without("final").told("c1", 8, "succeeded", agents=("a2",))


def usage(phase: str, **fields: object) -> Callable[[Story], Story]:
    given = {"name": "a1", "rss": 40_000_000, "fds": 20, "threads": 3}
    return lambda story: story.at(9, "usage", phase=phase, **{**given, **fields})


def too_fat() -> Story:
    return usage("after", rss=90_000_000)(survived())


def leaking() -> Story:
    return usage("after", fds=40)(usage("before")(survived()))


def dead() -> Story:
    return survived().at(29, "process", name="master", event="dead", pid=1, words="")


def unnoticed() -> Story:
    story = survived().without("status", status="no_response")
    return story.without("healed").at(5, "healed", agent="a1")


def not_active_again() -> Story:
    story = survived().without("status", status="active")
    return story.at(0, "status", agent="a1", status="active", reason="", running=0)


def nobody_could_be_asked() -> Story:
    """Shown as active from before the silence on, because no answer has come since."""
    story = Story().submitted("c1", 1).began("c1", 1)
    story.at(2, "silence", agent="a1", cut="master").at(4, "healed", agent="a1")
    return story.came_to_end("c1", 8).told("c1", 8, "succeeded").at(30, "note")


def slow_start() -> Story:
    story = survived().submitted("c2", 3, probe=True).at(10, "start", id="c2", attempt=1)
    for event in story.events:
        if event.get("id") == "c2" and event["kind"] == "start":
            event |= {"agent": "a1", "pid": 7}
    story.at(10, "end", id="c2", attempt=1, agent="a1", pid=7)
    return story.told("c2", 10, "succeeded")


def killed_too_early() -> Story:
    return fenced().without("gone").gone("c1", 3)


def killed_too_late() -> Story:
    return fenced().without("gone").gone("c1", 7.2)


@pytest.mark.parametrize(
    ("rule", "story"),
    [
        ("I1", forgotten),
        ("I1", unended),
        ("I2", twice),
        ("I2", same_attempt_twice),
        ("I2", two_live_copies),
        ("I2", never_asked_for),
        ("I3", two_ends),
        ("I3", back_from_the_dead),
        ("I3", amended_twice),
        ("I4", lambda: output(sha="y")),
        ("I4", lambda: output(size=4)),
        ("I4", lambda: output(size=3, gaps=[(3, 4)])),
        ("I4", lambda: output(error="no answer")),
        ("I4", lambda: output(size=3, truncated=True, differs=3)),
        ("I5", lived_on),
        ("I5", lived_on_after_its_end),
        ("I5", given_up_too_early),
        ("I6", killed_in_vain),
        ("I6", run_again_in_vain),
        ("I7", older_master),
        ("I8", untrue_success),
        ("I8", untrue_loss),
        ("I8", shown_as_running),
        ("I8", given_up_on_a_guess),
        ("I9", elsewhere),
        ("I10", too_fat),
        ("I10", leaking),
        ("up", dead),
        ("T1", unnoticed),
        ("T2", not_active_again),
        ("T2", nobody_could_be_asked),
        ("T3", slow_start),
        ("T4", killed_too_early),
        ("T4", killed_too_late),
    ],
)
def test_broken_promise_is_found(rule: str, story: Callable[[], Story]) -> None:
    assert rule in story().violated()


def test_marked_gap_is_no_violation() -> None:
    assert output(size=3, gaps=[(1, 3)], truncated=True).violated() == set()
    assert output(size=2, truncated=True).violated() == set()


def test_task_that_may_go_on_is_judged_by_its_own_deadline() -> None:
    for loss, hold_s in (("hold", 100.0), ("continue", None)):
        story = Story().submitted("c1", 1, loss=loss, hold_s=hold_s).began("c1", 1).silent(2, 9)
        story.at(3, "state", id="c1", state="unknown", reason="")
        story.came_to_end("c1", 12).told("c1", 12, "succeeded").at(30, "note")
        assert story.violated() == set()


def test_every_rule_has_a_story_that_breaks_it() -> None:
    marks = test_broken_promise_is_found.pytestmark  # type: ignore[attr-defined]
    cases = next(mark.args[1] for mark in marks if mark.name == "parametrize")
    assert {rule for rule, _ in cases} == set(RULES)
