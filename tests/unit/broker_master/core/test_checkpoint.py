"""Purges of the event stream, played against a stream held in a dict."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from broker_master.core.book import CommandBook
from broker_master.core.checkpoint import Checkpoint, Plan
from broker_master.core.fold import fold
from schemas import subjects
from tests.unit.broker_master.deeds import (
    Deed,
    accepted,
    assigned,
    ended,
    replayed,
    shape,
    started,
)

WINDOW_S = 100.0


class Stream:
    """The event stream, its book and its checkpoint: what a master does, without the broker."""

    def __init__(self) -> None:
        self.facts: dict[int, Deed] = {}
        self.book = CommandBook()
        self.checkpoint = Checkpoint(WINDOW_S)
        self.last = 0
        self.now_s = 0.0

    def write(self, deed: Deed) -> None:
        self.last += 1
        self.facts[self.last] = deed
        fact, body = deed
        command = self.book.get(fact.command) or self.book.open(body)  # type: ignore[arg-type]
        fold(command, fact, body)
        command.facts[subjects.fact(*fact)] = self.last

    def step(self, seconds: float = 10.0, *, crash_after: int | None = None) -> Plan | None:
        """Time passes, the head is marked, and what the plan says is done, or a part of it."""
        self.now_s += seconds
        self.checkpoint.mark(self.now_s, self.last)
        plan = self.checkpoint.plan(self.now_s, self.book)
        if plan is None:
            return None
        for subject, sequence in itertools.islice(plan.carry, crash_after):
            self.write(self.facts[sequence])
            assert subjects.fact(*self.facts[sequence][0]) == subject
        if crash_after is None:
            self.facts = {at: deed for at, deed in self.facts.items() if at >= plan.purge_to}
        return plan

    def replayed(self) -> CommandBook:
        book = CommandBook()
        for sequence, (fact, body) in sorted(self.facts.items()):
            book.replay(fact, body, sequence)
        book.end_replay()
        return book


def deeds(command_id: str) -> list[Deed]:
    return [accepted(command_id), assigned(command_id), started(command_id), ended(command_id)]


def test_nothing_is_planned_before_the_window_has_passed() -> None:
    stream = Stream()
    stream.write(accepted("a"))
    assert stream.step(0) is None
    assert stream.step(WINDOW_S - 1) is None
    plan = stream.step(1)
    assert plan == Plan([("mesh.v1.fact.a.0.accepted", 1)], 2)


def test_checkpoint_purges_recorded_ends_and_keeps_newer_facts() -> None:
    stream = Stream()
    for deed in deeds("old"):
        stream.write(deed)
    stream.step(0)
    stream.book.forget("old")
    for deed in deeds("new"):
        stream.write(deed)
    assert stream.step(WINDOW_S) == Plan([], 5)
    assert sorted(stream.facts) == [5, 6, 7, 8]


def test_command_whose_history_is_not_written_yet_keeps_its_facts() -> None:
    stream = Stream()
    for deed in deeds("a"):
        stream.write(deed)
    stream.step(0)
    plan = stream.step(WINDOW_S)
    assert plan is not None
    assert [sequence for _, sequence in plan.carry] == [1, 2, 3, 4]
    kept = stream.replayed().get("a")
    assert kept is not None
    assert kept.is_terminal


def test_facts_are_carried_in_their_order_over_all_commands() -> None:
    stream = Stream()
    for deed in (accepted("b"), accepted("a"), assigned("b"), assigned("a")):
        stream.write(deed)
    stream.step(0)
    plan = stream.step(WINDOW_S)
    assert plan is not None
    assert [sequence for _, sequence in plan.carry] == [1, 2, 3, 4]


def test_marks_of_an_idle_stream_plan_no_second_purge_of_the_same() -> None:
    stream = Stream()
    stream.write(accepted("a"))
    stream.book.forget("a")
    plans = [stream.step() for _ in range(40)]
    assert {plan.purge_to for plan in plans if plan is not None} == {2}
    assert stream.facts == {}


def test_carried_facts_are_carried_again_a_window_later() -> None:
    stream = Stream()
    stream.write(accepted("a"))
    for _ in range(60):
        stream.step()
        assert len(stream.facts) <= 2
    assert stream.last <= 1 + 60 * 10.0 / WINDOW_S + 1
    assert stream.replayed().get("a") is not None


Steps = list[tuple[str, str, int]]
steps: st.SearchStrategy[Steps] = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "write", "forget", "step", "crash"]),
        st.sampled_from(["a", "b", "c", "d"]),
        st.integers(0, 6),
    ),
    max_size=80,
)


@given(steps)
def test_no_open_command_ever_loses_a_fact(plan: Steps) -> None:
    """At every moment, also when a carrying is cut short, a replay of what the stream holds says of
    each command in the book what the whole of its facts says."""
    stream = Stream()
    written: dict[str, list[Deed]] = {}
    for action, name, count in plan:
        life = deeds(name)
        done = written.setdefault(name, [])
        if action == "write" and len(done) < len(life):
            done.append(life[len(done)])
            stream.write(done[-1])
        elif action == "forget":
            command = stream.book.get(name)
            if command is not None and command.is_terminal:
                stream.book.forget(name)
        elif action == "step":
            stream.step(WINDOW_S / 3)
        elif action == "crash":
            stream.step(WINDOW_S / 3, crash_after=count)
            # The next master starts with what is in the stream.
            held = {command.id for command in stream.book}
            stream.book = stream.replayed()
            for command in stream.book:
                if command.id not in held:
                    stream.book.forget(command.id)
            stream.checkpoint = Checkpoint(WINDOW_S)
        found = stream.replayed()
        for command in stream.book:
            kept = found.get(command.id)
            assert kept is not None
            assert shape(kept) == shape(next(iter(replayed(*written[command.id]))))
            for subject, sequence in command.facts.items():
                assert subjects.fact(*stream.facts[sequence][0]) == subject


@given(steps)
def test_stream_holds_little_more_than_what_is_open_and_the_last_window(plan: Steps) -> None:
    stream = Stream()
    for action, name, _ in plan:
        if action == "write":
            for deed in deeds(name):
                stream.write(deed)
            stream.book.forget(name)
        stream.step()
    for _ in range(12):
        stream.step()
    assert stream.facts == {}
