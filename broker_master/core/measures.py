"""Counters of the flow of work: plain numbers in fixed places, rendered by a scrape.

Nothing here allocates per command, and no label comes from a message: groups are those of the
registry, actions, states and codes are closed sets. The number of programs with a label is limited.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from broker_master.core.call_measures import CallMeasures
from broker_master.core.commands import Attempt, Command
from broker_master.core.histograms import Histogram
from broker_master.core.liveness import Change, Presence
from schemas.messages.actions import ACTIONS
from schemas.messages.facts import Accepted, Outcome
from schemas.states import AgentStatus, State
from schemas.timers import Timers

# Upper bounds in seconds. An acknowledgement is due after 5 s; after six timeouts the attempt is
# undeliverable.
ACKNOWLEDGE: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
QUEUE: Final = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0)
DURATION: Final = (0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0)
ROUND_TRIP: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
WRITE: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
REQUEST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

KILLS: Final[Mapping[str, str]] = {
    State.KILLED_FENCED: "connection_lost",
    State.TIMED_OUT: "timeout",
    State.CANCELLED: "cancel",
}
# The label of all programs beyond those with labels of their own.
OTHERS: Final = "(others)"
# The label of all actions of plug-ins.
PLUGGED: Final = "(plug-in)"
RECOVERED: Final = 0
UNRECOVERABLE: Final = 1
# Reasons for refusing a message, by the counter of the services.
AUTH_REASONS: Final[Mapping[tuple[str, ...], str]] = {
    ("refused", "forbidden"): "permission",
    ("reply_forbidden",): "permission",
    ("forged_report",): "name_mismatch",
    ("forged_reply",): "name_mismatch",
    ("unknown_agent",): "name_mismatch",
    ("refused", "client_disabled"): "revoked",
    ("handshake_refused", "agent_revoked"): "revoked",
    ("comparison", "revoked"): "revoked",
    ("comparison", "mismatch"): "certificate_mismatch",
    ("comparison", "unregistered"): "unregistered",
    ("duplicate_identity",): "duplicate_identity",
    ("renewal", "agent_revoked"): "revoked",
    ("enrolment", "token_expired"): "expired",
    ("enrolment", "token_invalid"): "token",
    ("enrolment", "token_used"): "token",
    ("enrolment", "rate_limited"): "token",
}


class ProgramMeasures:
    """Counters of one program in one group: commands by outcome, and run times.

    told: outcomes that a scrape has rendered already.
    """

    __slots__ = ("finished", "runs", "seconds", "told")

    def __init__(self) -> None:
        self.finished: dict[str, int] = {}
        self.runs = 0
        self.seconds = 0.0
        self.told: set[str] = set()


class GroupMeasures:
    """Counters of one group."""

    __slots__ = (
        "acknowledge",
        "beats",
        "beats_missed",
        "changes",
        "duration",
        "finished",
        "killed",
        "programs",
        "queue",
        "round_trip",
        "sends",
        "submitted",
    )

    def __init__(self) -> None:
        self.submitted: dict[tuple[str, str], int] = {}
        self.finished: dict[tuple[str, str], int] = {}
        self.sends: dict[int, int] = {}
        self.killed: dict[str, int] = {}
        self.changes: dict[tuple[str, str], int] = {}
        self.acknowledge = Histogram(ACKNOWLEDGE)
        self.round_trip = Histogram(ROUND_TRIP)
        self.queue: dict[str, Histogram] = {}
        self.duration: dict[str, Histogram] = {}
        self.programs: dict[str, ProgramMeasures] = {}
        self.beats = 0
        self.beats_missed = 0


class Loss(NamedTuple):
    incarnation: str
    since_s: float


class Measures:
    """All counters of a master since its start.

    programs: number of programs with series of their own, the first ones that end; 0: none.
    """

    def __init__(self, programs: int = 0) -> None:
        self._programs_max = programs
        self._programs: set[str] = set()
        self.groups: dict[str, GroupMeasures] = {}
        self.connections: dict[str, CallMeasures] = {}
        self.losses: dict[str, list[int]] = {}
        self.store_writes = {name: Histogram(WRITE) for name in ("accept", "history", "readmodel")}
        self.requests: dict[tuple[str, str], Histogram] = {}
        self.answers: dict[tuple[str, str, int], int] = {}
        self._losing: dict[str, Loss] = {}

    def group(self, name: str) -> GroupMeasures:
        found = self.groups.get(name)
        if found is None:
            found = self.groups[name] = GroupMeasures()
        return found

    def connection(self, name: str) -> CallMeasures:
        found = self.connections.get(name)
        if found is None:
            found = self.connections[name] = CallMeasures()
        return found

    # -- commands

    def on_submitted(self, accepted: Accepted, now: float) -> None:
        """A new command is durable."""
        submitted = self.group(accepted.group).submitted
        key = (known_action(accepted.action), accepted.source)
        submitted[key] = submitted.get(key, 0) + 1
        self.store_writes["accept"].observe(now - accepted.submitted_at)

    def on_sent(self, command: Command, attempt: Attempt, now: float) -> None:
        """Count a transmission; the first one ends the time in the queue."""
        accepted = command.accepted
        group = self.group(accepted.group)
        number = attempt.sent
        group.sends[number] = group.sends.get(number, 0) + 1
        if number == 1 and attempt.number == 1:
            _of_action(group.queue, known_action(accepted.action), QUEUE).observe(
                now - accepted.submitted_at
            )

    def on_acknowledged(self, command: Command, attempt: Attempt, now: float) -> None:
        """Observe the time to the first acknowledgement of an attempt."""
        self.group(command.accepted.group).acknowledge.observe(now - attempt.assigned_at)

    def on_outcome(self, command: Command, outcome: Outcome) -> None:
        """Count the final end of an attempt, and of its command if that ends too."""
        accepted = command.accepted
        group = self.group(accepted.group)
        if accepted.connection:
            self.connection(accepted.connection).on_outcome(outcome)
        if outcome.started_at:
            ended_at = outcome.ended_at or outcome.at
            duration = _of_action(group.duration, known_action(accepted.action), DURATION)
            duration.observe(ended_at - outcome.started_at)
            reason = KILLS.get(outcome.state)
            if reason is not None:
                group.killed[reason] = group.killed.get(reason, 0) + 1
        if outcome.final:
            key = (known_action(accepted.action), str(outcome.state))
            group.finished[key] = group.finished.get(key, 0) + 1

    def on_finished(self, command: Command, program: str) -> None:
        """Count an ended command. program: its base name, chosen by the client."""
        outcome = command.outcome
        if not self._programs_max or outcome is None or not program:
            return
        programs = self.group(command.accepted.group).programs
        name = self._program(program)
        found = programs.get(name)
        if found is None:
            found = programs[name] = ProgramMeasures()
        found.finished[outcome.state] = found.finished.get(outcome.state, 0) + 1
        if outcome.started_at:
            found.runs += 1
            found.seconds += max(0.0, (outcome.ended_at or outcome.at) - outcome.started_at)

    def _program(self, name: str) -> str:
        """The label of a program: clients choose names, so their number is limited."""
        if name in self._programs:
            return name
        if len(self._programs) >= self._programs_max:
            return OTHERS
        self._programs.add(name)
        return name

    # -- agents

    def on_beat(self, group: str, missed: int, rtt_s: float) -> None:
        measures = self.group(group)
        measures.beats += 1
        measures.beats_missed += missed
        if rtt_s > 0:
            measures.round_trip.observe(rtt_s)

    def on_status(self, group: str, old: AgentStatus, new: AgentStatus) -> None:
        changes = self.group(group).changes
        changes[old, new] = changes.get((old, new), 0) + 1

    def on_change(self, change: Change, presence: Presence, timers: Timers, now_s: float) -> None:
        """Count losses of connections: each ends as recovered or as unrecoverable.

        Unrecoverable: the agent has ended its tasks meanwhile, or is another process.
        """
        agent = presence.agent
        if change.event == "suspected":
            self._losing[agent] = Loss(presence.incarnation, now_s - timers.suspect_s)
            self.losses.setdefault(agent, [0, 0])
            self.group(presence.group).beats_missed += int(timers.suspect_s / timers.beat_s)
        elif change.event in ("returned", "given_up"):
            loss = self._losing.pop(agent, None)
            if loss is None:
                return
            kept = (
                change.event == "returned"
                and presence.incarnation == loss.incarnation
                and now_s - loss.since_s < timers.unrecoverable_s
            )
            self.losses[agent][RECOVERED if kept else UNRECOVERABLE] += 1

    def forget_agent(self, agent: str) -> None:
        """Drop the series of a deleted agent; a new one of its name begins at 0."""
        self.losses.pop(agent, None)
        self._losing.pop(agent, None)

    # -- HTTP

    def on_request(self, route: str, method: str, code: int, spent_s: float) -> None:
        """Count a request. route: the path as declared, never as requested."""
        key = (route, method, code)
        self.answers[key] = self.answers.get(key, 0) + 1
        histogram = self.requests.get((route, method))
        if histogram is None:
            histogram = self.requests[route, method] = Histogram(REQUEST)
        histogram.observe(spent_s)


def known_action(name: str) -> str:
    """The label of an action; those of plug-ins, whose names clients choose, share one."""
    return name if name in ACTIONS else PLUGGED


def missed_beats(silence_s: float, beat_s: float) -> int:
    """Missed heartbeats in a pause between two; a beat may come a tenth late."""
    return max(0, int(silence_s / beat_s - 0.5))


def _of_action(table: dict[str, Histogram], action: str, bounds: tuple[float, ...]) -> Histogram:
    found = table.get(action)
    if found is None:
        found = table[action] = Histogram(bounds)
    return found
