"""The one judge: reads a history and says which promises were kept.

    judgement = judge(read_history(path))
    assert judgement.violations == []

Every rule is a function that yields what broke it and counts what it looked at, so that "nothing
broke" and "there was nothing to look at" are told apart. The promises:

I1  every accepted command has an end
I2  a command is executed at most once; an attempt at most once
I3  one end per command, never changed; a verdict of `lost` may be amended once by what was reported
I4  every byte a task wrote is told once and in order, or its absence is marked
I5  nothing of a task lives on once its time is over: neither after an unrecoverable loss nor
    after the end that was told of it
I6  within a recoverable loss no task is killed or restarted
I7  a later master has a greater number
I8  what is shown is true: silent agents' commands are unknown, and what succeeded did succeed
I9  a command ran on the agent that the record names
I10 memory, files and threads come back to what they were
up  no process of the mesh ended or stumbled by itself
T1  a silent agent is seen to be so within suspect_s + 1 s
T2  an agent that can be heard again is Active within 5 s
T3  what waited for it starts within 5 s of that
T4  tasks are ended within 1 s of their deadline
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

from schemas.states import STATES, TERMINAL, State
from tests.chaos.history import Event

RULES: Final[dict[str, Callable[["Run"], Iterator["Look"]]]] = {}

ENDED: Final = frozenset(str(state) for state in TERMINAL)
# How often a commander's list and /proc are looked at: nothing is known more exactly than that.
SIGHT_S: Final = 0.35
DETECT_S: Final = 1.0
ACTIVE_S: Final = 5.0
START_S: Final = 5.0
KILL_S: Final = 1.0
# An end is told when nothing is left of the task; a killed process is gone a moment later.
OUTLIVE_S: Final = 0.5
# A silence that is longer than a deadline by so much has surely made it pass.
SURE_S: Final = 0.5
MASTER_RSS: Final = 300 * 1024 * 1024
AGENT_RSS: Final = 80 * 1024 * 1024
BEAT_JITTER: Final = 1.1
# Cuts that the agent's process survives, and that leave it able to be recovered.
CUTS_OF_LINK: Final = frozenset({"both", "up", "down", "master", "broker", "stopped"})
# Those during which there is a master that can see it.
CUTS_SEEN: Final = frozenset({"both", "up", "down", "stopped", "killed"})


@dataclass(frozen=True)
class Look:
    """One thing that a rule looked at, and what was wrong with it if anything was."""

    wrong: str = ""


@dataclass(frozen=True)
class Silence:
    agent: str
    cut: str
    began: float
    healed: float

    @property
    def length(self) -> float:
        return self.healed - self.began


@dataclass
class Process:
    """A process of a task as it was seen: from its first to its last sight."""

    id: str
    attempt: int
    pid: int
    seen: float
    gone: float = float("inf")

    def lives_at(self, moment: float) -> bool:
        return self.seen <= moment < self.gone


@dataclass
class Judgement:
    """checked: how many things each rule looked at. violations: rule and what was wrong."""

    checked: dict[str, int] = field(default_factory=dict)
    violations: list[tuple[str, str]] = field(default_factory=list)

    def verdict(self, rule: str) -> str:
        if any(name == rule for name, _ in self.violations):
            return "VIOLATED"
        return "ok" if self.checked.get(rule) else "-"


def judge(events: Iterable[Event]) -> Judgement:
    run = Run(list(events))
    judgement = Judgement()
    for name, rule in RULES.items():
        looks = list(rule(run))
        judgement.checked[name] = len(looks)
        judgement.violations += [(name, look.wrong) for look in looks if look.wrong]
    return judgement


class Run:
    """A history, sorted into what the rules ask for."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.by_kind: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            self.by_kind[event["kind"]].append(event)
        self.timers: dict[str, float] = self.by_kind["run"][0]["timers"]
        self.submits = {event["id"]: event for event in reversed(self.by_kind["submit"])}
        self.accepted = {event["id"]: event for event in reversed(self.by_kind["accepted"])}
        self.finals: dict[str, Any] = {
            event["id"]: event["record"] for event in self.by_kind["final"]
        }
        self.starts = _by_id(self.by_kind["start"])
        self.ends = _by_id(self.by_kind["end"])

    @property
    def last(self) -> float:
        return float(self.events[-1]["mono"])

    @property
    def unrecoverable_s(self) -> float:
        if self.timers.get("strict"):
            return self.timers["suspect_s"]
        return self.timers["suspect_s"] + self.timers["resends"] * self.timers["ack_s"]

    @cached_property
    def agents(self) -> set[str]:
        return {event["agent"] for event in self.by_kind["status"]}

    @cached_property
    def silences(self) -> list[Silence]:
        """Silences per agent; overlapping ones are joined."""
        found = []
        open_: dict[str, Event] = {}
        for event in self.events:
            if event["kind"] not in {"silence", "healed"}:
                continue
            for agent in self.agents if event["agent"] == "*" else [event["agent"]]:
                if event["kind"] == "silence":
                    open_.setdefault(agent, event)
                elif agent in open_:
                    began = open_.pop(agent)
                    found.append(Silence(agent, began["cut"], began["mono"], event["mono"]))
        endless = float("inf")
        found += [Silence(agent, e["cut"], e["mono"], endless) for agent, e in open_.items()]
        return found

    @cached_property
    def processes(self) -> list[Process]:
        found: dict[tuple[int, int], Process] = {}
        for event in self.events:
            key = (event.get("pid", 0), event.get("start", 0))
            if event["kind"] == "seen":
                found[key] = Process(event["id"], event["attempt"], event["pid"], event["mono"])
            elif event["kind"] == "gone" and key in found:
                found[key].gone = event["mono"]
        return list(found.values())

    def kill_after_s(self, id: str) -> float:
        """For how long the tasks of this command outlive a silence."""
        submit = self.submits.get(id, {})
        if submit.get("loss") == "continue":
            return float("inf")
        held = float(submit.get("hold_s") or 0) if submit.get("loss") == "hold" else 0.0
        return max(self.unrecoverable_s, held)

    def lost_after_s(self, id: str) -> float:
        """After how much silence the master may give it up."""
        ended_s = self.kill_after_s(id) + self.timers["grace_s"] + self.timers["beat_s"]
        return max(self.timers["lost_s"], ended_s)

    def agent_of(self, id: str, attempt: int) -> str:
        for event in self.starts.get(id, []):
            if event["attempt"] == attempt:
                return str(event["agent"])
        return ""

    def status_within(self, agent: str, wanted: str, after: float, until: float) -> bool:
        """Whether it was shown so at some time of that span."""
        shown = ""
        for event in self.by_kind["status"]:
            if event["agent"] != agent or event["mono"] > until:
                continue
            if event["mono"] <= after:
                shown = event["status"]
            elif event["status"] == wanted:
                return True
        return shown == wanted

    def status_at(self, agent: str, moment: float) -> str:
        shown = ""
        for event in self.by_kind["status"]:
            if event["agent"] == agent and event["mono"] <= moment:
                shown = event["status"]
        return shown

    def program(self, id: str) -> str:
        return str(self.submits.get(id, {}).get("program", ""))

    @cached_property
    def first_ends(self) -> dict[str, Event]:
        """By id: the first time that its end was told to anybody."""
        found: dict[str, Event] = {}
        for event in self.events:
            if event["kind"] in {"state", "result"} and event["state"] in ENDED:
                found.setdefault(event["id"], event)
        return found


def _by_id(events: Iterable[Event]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        found[event["id"]].append(event)
    return found


def rule(name: str) -> Callable[[Callable[[Run], Iterator[Look]]], Callable[[Run], Iterator[Look]]]:
    def enter(check: Callable[[Run], Iterator[Look]]) -> Callable[[Run], Iterator[Look]]:
        RULES[name] = check
        return check

    return enter


@rule("I1")
def every_accepted_command_ends(run: Run) -> Iterator[Look]:
    for id in run.accepted:
        record = run.finals.get(id)
        if record is None:
            yield Look(f"{id} was accepted and is unknown at the end")
        elif record["state"] not in ENDED:
            yield Look(f"{id} was accepted and is {record['state']} at the end")
        else:
            yield Look()


@rule("I2")
def executed_at_most_once(run: Run) -> Iterator[Look]:
    for id, starts in run.starts.items():
        attempts = [event["attempt"] for event in starts]
        if len(attempts) != len(set(attempts)):
            yield Look(f"{id} has an attempt that began more than once: {sorted(attempts)}")
        elif len(attempts) > 1 and run.submits.get(id, {}).get("on_lost") != "rerun":
            yield Look(f"{id} began {len(attempts)} times, in attempts {sorted(attempts)}")
        elif id not in run.submits:
            yield Look(f"{id} was executed, and nobody had submitted it")
        else:
            yield Look(_live_twice(run, id))


def _live_twice(run: Run, id: str) -> str:
    mine = sorted((p for p in run.processes if p.id == id), key=lambda p: p.seen)
    for earlier in mine:
        for later in mine:
            if later.attempt > earlier.attempt and earlier.lives_at(later.seen):
                return f"{id}: attempts {earlier.attempt} and {later.attempt} lived together"
    return ""


@rule("I3")
def one_end_that_stays(run: Run) -> Iterator[Look]:
    told: dict[str, list[str]] = defaultdict(list)
    for event in run.events:
        if event["kind"] in {"state", "result"}:
            told[event["id"]].append(event["state"])
    for id, record in run.finals.items():
        if record is not None:
            told[id].append(record["state"])
    for id, states in told.items():
        ends = [state for state in states if state in ENDED]
        if ends:
            yield Look(_changed(id, states, ends))


def _changed(id: str, states: list[str], ends: list[str]) -> str:
    distinct = list(dict.fromkeys(ends))
    if distinct[0] == State.LOST:
        distinct = distinct[1:] or distinct
    if len(distinct) > 1:
        return f"{id} ended as {' and as '.join(dict.fromkeys(ends))}"
    after = states[states.index(ends[0]) :]
    back = [state for state in after if state in STATES and state not in ENDED]
    return f"{id} was {ends[0]} and then {back[0]}" if back else ""


@rule("I4")
def every_byte_once_and_in_order(run: Run) -> Iterator[Look]:
    for event in run.by_kind["output"]:
        what = f"{event['stream']} of {event['id']}.{event['attempt']}"
        size, local = event["size"], event.get("local_size")
        if event.get("error"):
            yield Look(f"{what} could not be read: {event['error']}")
        elif local is None:
            continue
        elif event.get("differs"):
            yield Look(f"{what}: {event['differs']} bytes are told that were not written there")
        elif event["truncated"]:
            yield Look()
        elif event["gaps"]:
            missing = sum(gap[1] - gap[0] for gap in event["gaps"])
            yield Look(
                f"{what}: {missing} bytes are missing, and nobody says that they were dropped"
            )
        elif (size, event["sha"]) != (local, event["local_sha"]):
            yield Look(f"{what}: {size} bytes are told, {local} were written, or they differ")
        else:
            yield Look()


@rule("I5")
def nothing_outlives_its_time(run: Run) -> Iterator[Look]:
    grace_s = run.timers["grace_s"]
    for process in run.processes:
        agent = run.agent_of(process.id, process.attempt)
        what = f"process {process.pid} of {process.id}.{process.attempt}"
        end = run.first_ends.get(process.id)
        if end is not None:
            # What is given up must not run at all: somebody else may begin it now.
            outlive_s = 0.0 if end["state"] == State.LOST else OUTLIVE_S
            is_late = min(process.gone, run.last) > end["mono"] + outlive_s + SIGHT_S
            yield Look(f"{what} lived on after it was told as {end['state']}" * is_late)
        for silence in run.silences:
            if silence.agent != agent or not process.lives_at(silence.began):
                continue
            fenced = silence.began + run.kill_after_s(process.id)
            by = fenced + grace_s + KILL_S + SIGHT_S
            # What has run out is not given back: an echo that comes now undoes no fencing.
            if silence.healed < fenced + SURE_S or by > run.last:
                continue
            late = process.gone - silence.began
            yield Look(f"{what} lived on for {late:.1f} s of silence" if process.gone > by else "")


@rule("I6")
def recoverable_loss_costs_nothing(run: Run) -> Iterator[Look]:
    certain_s = run.unrecoverable_s - 2 * run.timers["beat_s"]
    for id, starts in run.starts.items():
        for start in starts:
            met = [s for s in run.silences if s.agent == start["agent"] and _met(run, id, start, s)]
            others = [s for s in met if s.length > certain_s or s.cut not in CUTS_OF_LINK]
            if met and not others:
                yield Look(_harmed(run, id))


def _met(run: Run, id: str, start: Event, silence: Silence) -> bool:
    ended = min((end["mono"] for end in run.ends.get(id, [])), default=float("inf"))
    return float(start["mono"]) < silence.healed and ended > silence.began


def _harmed(run: Run, id: str) -> str:
    record = run.finals.get(id) or {"state": "unknown to the master", "reason": ""}
    if record["state"] in {"killed_fenced", "lost", "unknown to the master", "undeliverable"}:
        return f"{id} is {record['state']} ({record['reason']}) after a recoverable loss"
    if not run.ends.get(id) and record["state"] not in {"cancelled", "timed_out"}:
        return f"{id} never came to its end: {record['state']} ({record['reason']})"
    return ""


@rule("I7")
def later_masters_have_greater_numbers(run: Run) -> Iterator[Look]:
    epochs = [event["epoch"] for event in run.by_kind["epoch"]]
    for before, after in pairwise(epochs):
        yield Look(f"epoch {after} after {before}" if after < before else "")


@rule("I8")
def what_is_shown_is_true(run: Run) -> Iterator[Look]:
    killed = {e["name"] for e in run.by_kind["process"] if e["event"] in {"killed", "dead"}}
    for id, starts in run.starts.items():
        record = run.finals.get(id)
        if record is None or id not in run.submits:
            continue
        came_to_end = bool(run.ends.get(id))
        if record["state"] == "succeeded" and not came_to_end:
            yield Look(f"{id} is succeeded, and its task never came to its end")
        elif record["state"] == "lost" and came_to_end and starts[-1]["agent"] not in killed:
            yield Look(f"{id} is lost, and its task had come to its end on an agent that lives")
        else:
            yield Look()
    for id, record in run.finals.items():
        if record and record["state"] == "succeeded" and run.program(id) and not run.starts[id]:
            yield Look(f"{id} is succeeded and never began")
    yield from _silent_ones_are_unknown(run)
    yield from _losses_are_certain(run)


def _losses_are_certain(run: Run) -> Iterator[Look]:
    """No task is called lost before the deadline at which its agent must have ended it."""
    for id, end in run.first_ends.items():
        agents = {start["agent"] for start in run.starts.get(id, [])}
        if end["state"] != State.LOST:
            continue
        for silence in run.silences:
            if silence.agent not in agents or not silence.began < end["mono"] < silence.healed:
                continue
            after_s = end["mono"] - silence.began + run.timers["beat_s"] * BEAT_JITTER
            wrong = f"{id} was given up {after_s:.1f} s after the last beat, or sooner"
            yield Look(wrong if after_s < run.lost_after_s(id) else "")


def _silent_ones_are_unknown(run: Run) -> Iterator[Look]:
    for silence in run.silences:
        by = silence.began + run.timers["suspect_s"] + DETECT_S + SIGHT_S
        if silence.cut not in CUTS_SEEN:
            continue
        if silence.cut == "down":
            by += run.timers["beat_s"] * BEAT_JITTER
        if silence.healed < by:
            continue
        for id, starts in run.starts.items():
            if starts[-1]["agent"] != silence.agent:
                continue
            if starts[-1]["mono"] > silence.began - 2 * SIGHT_S:
                continue
            state = _shown_state(run, id, silence.began)
            if state in {"running", "accepted"}:
                shown = _shown_state(run, id, by)
                wrong = shown in {"running", "accepted", "sent"}
                yield Look(f"{id} was shown as {shown} while {silence.agent} was silent" * wrong)


def _shown_state(run: Run, id: str, at: float) -> str:
    shown = ""
    for event in run.by_kind["state"]:
        if event["id"] == id and event["mono"] <= at:
            shown = event["state"]
    return shown


@rule("I9")
def it_ran_where_the_record_says(run: Run) -> Iterator[Look]:
    for id, starts in run.starts.items():
        record = run.finals.get(id)
        agents = {a["attempt"]: a["agent"] for a in record["attempts"]} if record else {}
        for start in starts:
            named = agents.get(start["attempt"])
            if named is not None and named != start["agent"]:
                yield Look(f"{id}.{start['attempt']} ran on {start['agent']}, not on {named}")
            else:
                yield Look()


@rule("I10")
def resources_come_back(run: Run) -> Iterator[Look]:
    before = {e["name"]: e for e in run.by_kind["usage"] if e["phase"] == "before"}
    for event in run.by_kind["usage"]:
        name = event["name"]
        limit = MASTER_RSS if name == "master" else AGENT_RSS
        if event["rss"] > limit:
            yield Look(f"{name} holds {event['rss'] / 1e6:.0f} MB")
        if event["phase"] == "after" and name in before:
            for what in ("fds", "threads"):
                was, now = before[name][what], event[what]
                is_more = now > was + max(5, was * 0.05)
                yield Look(f"{name} has {now} {what}, and had {was}" if is_more else "")


@rule("up")
def nothing_dies_by_itself(run: Run) -> Iterator[Look]:
    for event in run.by_kind["process"]:
        if event["event"] in {"dead", "stumbled"}:
            yield Look(f"{event['name']}: {event['event']}: {event.get('words', '')}")
        elif event["event"] == "alive":
            yield Look()


@rule("T1")
def silence_is_noticed(run: Run) -> Iterator[Look]:
    for silence in run.silences:
        by = silence.began + run.timers["suspect_s"] + DETECT_S
        if silence.cut == "down":
            by += run.timers["beat_s"] * BEAT_JITTER
        if silence.cut in CUTS_SEEN and silence.healed > by + SIGHT_S:
            seen = run.status_within(silence.agent, "no_response", silence.began, by + SIGHT_S)
            allowed_s = by - silence.began
            wrong = f"{silence.agent} was not seen to be silent within {allowed_s:.1f} s"
            yield Look("" if seen else wrong)


@rule("T2")
def healed_agents_are_active(run: Run) -> Iterator[Look]:
    """By an answer that was asked for after the healing: what was shown before says nothing."""
    for silence in run.silences:
        by = silence.healed + ACTIVE_S
        answers = [
            look["mono"]
            for look in run.by_kind["looked"]
            if silence.healed < look["asked"] <= by + SIGHT_S
        ]
        if any(run.status_at(silence.agent, answered) == "active" for answered in answers):
            yield Look()
        elif by <= run.last and not _silent_again(run, silence, by):
            yield Look(f"{silence.agent} was not Active {ACTIVE_S:g} s after healing")


def _silent_again(run: Run, silence: Silence, by: float) -> bool:
    return any(
        other.agent == silence.agent and silence.healed <= other.began <= by
        for other in run.silences
    )


@rule("T3")
def what_waited_starts_soon(run: Run) -> Iterator[Look]:
    for id, submit in run.submits.items():
        if not submit.get("probe") or id not in run.accepted:
            continue
        healed = [s.healed for s in run.silences if s.began <= submit["mono"] <= s.healed]
        if not healed or max(healed) == float("inf"):
            continue
        started = min((event["mono"] for event in run.starts.get(id, [])), default=float("inf"))
        late_s = started - max(healed)
        yield Look(f"{id} began {late_s:.1f} s after healing" if late_s > START_S else "")


@rule("T4")
def kills_come_in_time(run: Run) -> Iterator[Look]:
    """The first signal, that is: a task's first process minds TERM, and is gone at once."""
    early_s = run.timers["beat_s"] * BEAT_JITTER + KILL_S
    for silence in run.silences:
        if silence.cut == "host":
            continue
        for process in run.processes:
            id = process.id
            after_s = run.kill_after_s(id)
            by = silence.began + after_s
            if silence.healed < by + SURE_S or by + KILL_S > run.last:
                continue
            came_to_end = any(e["attempt"] == process.attempt for e in run.ends.get(id, []))
            if run.agent_of(id, process.attempt) != silence.agent or came_to_end:
                continue
            if process.pid not in {event["pid"] for event in run.starts[id]}:
                continue
            if run.program(id) in {"stubborn", "forker"} or not process.lives_at(silence.began):
                continue
            lived_s = process.gone - silence.began
            wrong = not after_s - early_s <= lived_s <= after_s + KILL_S + SIGHT_S
            told = f"a process of {id} lived {lived_s:.1f} s of silence, not {after_s:g} s"
            yield Look(told if wrong else "")
