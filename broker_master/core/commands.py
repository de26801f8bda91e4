"""A command and its attempts, in the master's memory.

Only `core/attempts.py` and `core/ends.py` (messages and timers) and `core/fold.py` (durable facts)
change them; each moves them through `Command.enter`.
"""

import msgspec

from broker_master.core.phases import BEHIND, HELD, SHOWN, TABLE, Event, Phase
from schemas.messages.facts import Accepted, Outcome
from schemas.states import TERMINAL, State, check_move


class Attempt(msgspec.Struct, kw_only=True):
    """One try on one agent.

    hidden: the state before the agent fell silent. token: of the newest transmission. elsewhere_s:
    until then an earlier process of the agent may still run it, unknown to the present one; a
    reading of the monotonic clock. elsewhere_at: the same as unix time, for people. ended_as: its
    end as the agent's handshake names it, while its report is awaited. code: of the fault or the
    refusal that it ended with.
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
    effect: str = ""
    code: str = ""
    late: bool = False
    hidden: State | None = None
    token: str = ""
    elsewhere_s: float = 0.0
    elsewhere_at: float = 0.0
    ended_as: State | None = None

    @property
    def is_open(self) -> bool:
        return self.state not in TERMINAL


class Command(msgspec.Struct, kw_only=True):
    """A command with its attempts. facts: stream sequence of each of its facts, by subject.

    order: place in the queue. expires_at: unix time after which it no longer waits for an agent.
    expires_s: the same as a reading of the monotonic clock, once it began to wait. rerun_by: the
    operator who has queued it again, until its next attempt. before: the phase to go back to if its
    end cannot be stored.
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
    rerun_by: str = ""
    outcome: Outcome | None = None
    late: Outcome | None = None
    phase: Phase = Phase.WAITING
    before: Phase = Phase.WAITING

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
        """Whether the attempt is lost and the command waits for an operator's decision."""
        return self.state is State.UNKNOWN and self.open_attempt is None

    def start_waiting(self, *, now_s: float, at: float) -> float:
        """Set and return the deadline of the wait for an agent, on the monotonic clock.

        The wall clock is read once, so that setting it later makes no command older.
        """
        if self.expires_s is None:
            self.expires_s = now_s + self.expires_at - at
        return self.expires_s

    def find(self, number: int) -> Attempt | None:
        if 0 < number <= len(self.attempts):
            return self.attempts[number - 1]
        return None

    def may(self, event: Event) -> bool:
        """Whether the table has a move for `event` in the present phase."""
        return self.phase in TABLE[event]

    def has_open(self, attempt: Attempt, event: Event) -> bool:
        """Whether `attempt` is the open one, and the table has a move for `event`."""
        return attempt is self.open_attempt and self.phase in TABLE[event]

    def enter(self, event: Event, at: float, state: State | None = None) -> bool:
        """Move by the table, and the newest attempt with the command while an agent has it.

        state: of the command, where the phase does not determine it. False: the table has no such
        move, and nothing has changed. Raises Misused if the state may not follow the present one.
        """
        target = TABLE[event].get(self.phase)
        if target is None:
            return False
        if target is Phase.SETTLING:
            self.before, self.phase = self.phase, target
            return True
        if target is Phase.BACK:
            if self.phase is Phase.SETTLING:
                self.phase = self.before
                return True
            target = BEHIND[self.attempts[-1].hidden or State.SENT]
        shown = check_move(self.state, state or SHOWN[target])
        if target in HELD:
            attempt = self.attempts[-1]
            attempt.state, attempt.since = check_move(attempt.state, shown), at
        self.phase, self.state, self.since = target, shown, at
        return True

    def keep_place(self, subject: str, sequence: int) -> None:
        """Note the stream sequence of the fact with this subject."""
        self.facts[subject] = sequence
