"""The open commands, as the facts of the event stream make them.

`fold` is the only way a command changes for good, live and in replay alike, so a restarted master
holds exactly what the facts say. What is not a fact (transmissions, acknowledgements, silence) is
set by the methods below it and is learnt again after a restart.
"""

from collections import Counter
from collections.abc import Iterator

import msgspec

from schemas import subjects
from schemas.messages.facts import (
    Accepted,
    Assigned,
    CancelAsked,
    Decided,
    Fact,
    Outcome,
    Started,
)
from schemas.states import STATES, TERMINAL, State, check_move

# Arguments up to this size are what commands usually have.
_HEAVY = 4096


class Attempt(msgspec.Struct, kw_only=True):
    """One try on one agent.

    hidden: the state that stood before the agent fell silent. token: of the newest transmission.
    elsewhere_s: until then an earlier start of the agent may still run it, which the present one
    has no memory of; a reading of the clock that is never set. elsewhere_at: the same for people.
    """

    number: int
    agent: str
    assigned_at: float = 0.0
    state: State = State.SENT
    since: float = 0.0
    sent: int = 0
    accepted_at: float = 0.0
    started_at: float = 0.0
    ended_at: float = 0.0
    exit_code: int | None = None
    reason: str = ""
    why: str = ""
    late: bool = False
    hidden: State | None = None
    token: str = ""
    elsewhere_s: float = 0.0
    elsewhere_at: float = 0.0

    @property
    def is_open(self) -> bool:
        return self.state not in TERMINAL


class Command(msgspec.Struct, kw_only=True):
    """A command with its attempts. facts: stream sequence of each of its facts, by subject.

    order: place in the queue. expires_at: unix time after which it no longer waits for an agent.
    expires_s: the same as a reading of the clock that is never set, once it began to wait.
    """

    accepted: Accepted
    order: int
    expires_at: float
    expires_s: float | None = None
    facts: dict[str, int] = {}
    attempts: list[Attempt] = []
    state: State = State.QUEUED
    since: float = 0.0
    reason: str = ""
    cancel_by: str = ""
    outcome: Outcome | None = None
    late: Outcome | None = None
    settling: bool = False

    @property
    def id(self) -> str:
        return self.accepted.id

    @property
    def attempt(self) -> Attempt | None:
        """The newest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def open_attempt(self) -> Attempt | None:
        attempt = self.attempts[-1] if self.attempts else None
        return attempt if attempt is not None and attempt.state not in TERMINAL else None

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL

    @property
    def is_undecided(self) -> bool:
        """Its attempt is lost, and it waits for an operator's word."""
        return self.state is State.UNKNOWN and self.open_attempt is None

    def start_waiting(self, *, now_s: float, at: float) -> float:
        """When it will have waited long enough, by the clock that is never set.

        The time of day is compared once: nobody ages because somebody sets it later.
        """
        if self.expires_s is None:
            self.expires_s = now_s + self.expires_at - at
        return self.expires_s

    def find(self, number: int) -> Attempt | None:
        if 0 < number <= len(self.attempts):
            return self.attempts[number - 1]
        return None

    def move(self, attempt: Attempt, state: State, at: float) -> None:
        """Move the newest attempt, and with it the command; the table of moves decides."""
        attempt.state = check_move(attempt.state, state)
        attempt.since = at
        if attempt is self.attempts[-1]:
            self.state, self.since = state, at


def heavy_bytes(accepted: Accepted) -> int:
    """What its arguments hold, if they are large; nothing for those of the usual size."""
    size = memoryview(accepted.args).nbytes
    return size if size > _HEAVY else 0


class CommandBook:
    """All commands that are open, or ended and not yet in history. One order for all."""

    def __init__(self) -> None:
        self._commands: dict[str, Command] = {}
        self._per_group: dict[str, int] = {}
        # Bytes of large arguments, by client.
        self.heavy: Counter[str] = Counter()
        self._replayed: dict[str, dict[subjects.Fact, tuple[Fact, int]]] = {}
        self._order = 0

    def __len__(self) -> int:
        return len(self._commands)

    def __iter__(self) -> Iterator[Command]:
        return iter(list(self._commands.values()))

    def get(self, command_id: str) -> Command | None:
        return self._commands.get(command_id)

    def forget(self, command_id: str) -> None:
        """Drop a command that history holds, or that was refused after all."""
        command = self._commands.pop(command_id, None)
        if command is not None:
            self._per_group[command.accepted.group] -= 1
            self._lighten(command.accepted)

    def _lighten(self, accepted: Accepted) -> None:
        if size := heavy_bytes(accepted):
            self.heavy[accepted.client] -= size
            if not self.heavy[accepted.client]:
                del self.heavy[accepted.client]

    def open_in(self, group: str) -> int:
        """How many commands of `group` are in the book."""
        return self._per_group.get(group, 0)

    def waiting(self) -> list[Command]:
        """The commands that wait for an agent."""
        return [c for c in self._commands.values() if c.state is State.QUEUED]

    def undecided(self) -> list[Command]:
        return [c for c in self._commands.values() if c.is_undecided]

    def open(self, accepted: Accepted) -> Command:
        """Enter a command before its fact is durable; `forget` it if the fact is refused."""
        self._order += 1
        command = Command(
            accepted=accepted,
            order=self._order,
            expires_at=accepted.submitted_at + accepted.queue_ttl_s,
            since=accepted.submitted_at,
        )
        self._commands[accepted.id] = command
        self._per_group[accepted.group] = self._per_group.get(accepted.group, 0) + 1
        if size := heavy_bytes(accepted):
            self.heavy[accepted.client] += size
        return command

    def replay(self, fact: subjects.Fact, body: Fact, sequence: int) -> Command | None:
        """Fold one fact read back from the stream; None while its command is not known.

        Facts that were carried forward stand behind newer ones in the stream, so a command is
        folded anew when one comes that belongs before another. Facts without their `accepted`
        belong to a command whose history is written and whose older facts were purged. Call
        `end_replay` after the last one.
        """
        facts = self._replayed.setdefault(fact.command, {})
        is_next = not facts or _place(fact) > max(map(_place, facts))
        # A second copy is one that was carried forward: same words, newer place.
        facts[fact] = (facts[fact][0] if fact in facts else body, sequence)
        command = self._commands.get(fact.command)
        if command is not None and is_next:
            fold(command, fact, body)
            command.facts[subjects.fact(*fact)] = sequence
            return command
        return self._fold_anew(fact.command)

    def _fold_anew(self, command_id: str) -> Command | None:
        facts = self._replayed[command_id]
        accepted = facts.get(subjects.Fact(command_id, 0, "accepted"))
        if accepted is None or not isinstance(accepted[0], Accepted):
            return None
        self.forget(command_id)
        command = self.open(accepted[0])
        for fact in sorted(facts, key=_place):
            body, sequence = facts[fact]
            fold(command, fact, body)
            command.facts[subjects.fact(*fact)] = sequence
        return command

    def end_replay(self) -> None:
        """Drop what only a replay needs, and number the commands as they were submitted."""
        self._replayed.clear()
        by_age = sorted(self._commands.values(), key=lambda each: each.accepted.submitted_at)
        for self._order, command in enumerate(by_age, 1):
            command.order = self._order


_KINDS = {
    "accepted": 0,
    "cancel": 1,
    "assigned": 2,
    "started": 3,
    "outcome": 4,
    "decided": 5,
    "late": 6,
}


def _place(fact: subjects.Fact) -> tuple[int, int, int]:
    """Where a fact belongs among those of its command.

    An end without an attempt comes after all attempts. A late word comes last: what it would amend
    is over then, so that whatever was decided had been decided before it came.
    """
    kind = _KINDS.get(fact.kind, len(_KINDS))
    after = 2 if fact.kind == "late" else int(fact.kind == "outcome" and fact.attempt == 0)
    return after, fact.attempt, kind


def fold(command: Command, fact: subjects.Fact, body: Fact) -> None:
    """Change `command` as a durable fact says. A fact that is folded again changes nothing."""
    match body:
        case Accepted():
            if body.first is not None:
                _fold_assigned(command, 1, body.first)
        case Assigned():
            _fold_assigned(command, fact.attempt, body)
        case Started():
            _fold_started(command, fact.attempt, body)
        case CancelAsked():
            command.cancel_by = command.cancel_by or body.by
        case Decided():
            if body.what == "rerun" and command.is_undecided:
                command.state, command.since = State.QUEUED, body.at
                command.reason = f"run again by {body.by}"
        case Outcome():
            if fact.kind == "late":
                command.late = body
                _fold_late(command, fact.attempt, body)
            else:
                _fold_outcome(command, fact.attempt, body)


def _fold_assigned(command: Command, number: int, body: Assigned) -> None:
    if number != len(command.attempts) + 1:
        return
    attempt = Attempt(
        number=number, agent=body.agent, assigned_at=body.at, since=body.at, why=body.why
    )
    command.attempts.append(attempt)
    command.state, command.since = State.SENT, body.at
    command.reason = ""


def _fold_started(command: Command, number: int, body: Started) -> None:
    attempt = command.find(number)
    if attempt is None or not attempt.is_open:
        return
    attempt.accepted_at, attempt.started_at = body.accepted_at, body.started_at
    attempt.sent = max(attempt.sent, body.sent)
    if attempt.state is State.STOPPING:
        return
    state = State.RUNNING if body.started_at else State.ACCEPTED
    command.move(attempt, state, body.started_at or body.accepted_at)


def _fold_outcome(command: Command, number: int, body: Outcome) -> None:
    attempt = command.find(number)
    if attempt is not None:
        if not attempt.is_open:
            return
        _end(attempt, body)
    if body.final:
        command.state, command.since = STATES[body.state], body.at
        command.reason, command.outcome = body.reason, body
    else:
        waits = command.accepted.on_lost == "wait" and body.state != State.REJECTED
        command.state = State.UNKNOWN if waits else State.QUEUED
        command.since, command.reason = body.at, body.reason


def _fold_late(command: Command, number: int, body: Outcome) -> None:
    """A later word amends a verdict of `lost`; on a re-run command it only stands beside it."""
    attempt = command.find(number)
    if attempt is None or attempt.state is not State.LOST or attempt.late:
        return
    judged, is_newest = attempt.reason, attempt is command.attempts[-1]
    if is_newest and (command.state is State.LOST or command.is_undecided):
        _end(attempt, body)
        command.state, command.since, command.outcome = STATES[body.state], body.at, body
        command.reason = attempt.reason = late_reason(body, judged)
    else:
        attempt.exit_code = body.exit_code
        attempt.reason = late_reason(body, judged)
    attempt.late = True


def late_reason(body: Outcome, judged: str) -> str:
    """Both words in one line: what was heard late, and what had been said before."""
    return f"late result: {body.state}{': ' * bool(body.reason)}{body.reason}; before: {judged}"


def _end(attempt: Attempt, body: Outcome) -> None:
    attempt.state, attempt.since = STATES[body.state], body.at
    attempt.accepted_at = body.accepted_at or attempt.accepted_at
    attempt.started_at = body.started_at or attempt.started_at
    attempt.ended_at = body.ended_at or body.at
    attempt.exit_code, attempt.reason = body.exit_code, body.reason
    attempt.sent = max(attempt.sent, body.sent)
    attempt.late, attempt.hidden = body.late, None
