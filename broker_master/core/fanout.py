"""One command for many agents: the next agents, when to stop, and the final state."""

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Final

import msgspec

from schemas.counting import counted
from schemas.ids import RESERVED_PREFIX
from schemas.messages.fanouts import LABEL, FanoutEntry
from schemas.states import TERMINAL, State

RUNNING: Final = "running"
SUCCEEDED: Final = "succeeded"
PARTIAL: Final = "partial"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
WAITING: Final = "waiting"
SKIPPED: Final = "skipped"
FAILURES: Final = "failures"
CANCELLED_BY: Final = "cancelled by "
RESTORED: Final = "the master's state was restored from a backup"

SILENT: Final = "no_response"
# Passing obstacles: the agent's turn is deferred.
HELD: Final = "held"
# Reasons for skipping an agent, for people. Missing ones are codes of faults.
WHY: Final = {
    SILENT: "silent: it does not respond",
    "disabled": "not asked: it is disabled",
    "awaiting_setup": "not asked: it has never connected",
    "deleted": "not asked: it was deleted meanwhile",
    "moved": "not asked: it has moved to another group",
}
_ID_LEN: Final = 64
_HEAD_LEN: Final = 38
_OLD_HEAD_LEN: Final = 40
# Form of the ids of children, in `FanoutEntry.form`; older entries have none.
FORM: Final = 1


def child_id(fanout: str, agent: str) -> str:
    """The id of an agent's command: the same each time, and unique to agent and fan-out.

    No client may choose an id that begins so. Names of agents have no underscore, so the last one
    in the id separates the parts; no name begins with a dash, so a digest is no name.
    """
    plain = f"{RESERVED_PREFIX}{fanout}_{agent}"
    if len(plain) <= _ID_LEN:
        return plain
    return f"{RESERVED_PREFIX}{fanout[:_HEAD_LEN]}_-{_digest(fanout, agent)}"


def child_of(entry: FanoutEntry, agent: str) -> str:
    """The id of the command of `agent` in this fan-out, in either form."""
    if entry.form == FORM:
        return child_id(entry.id, agent)
    plain = f"{entry.id}_{agent}"
    if len(plain) <= _ID_LEN:
        return plain
    return f"{entry.id[:_OLD_HEAD_LEN]}_{_digest(entry.id, agent)}"


def _digest(fanout: str, agent: str) -> str:
    return blake2b(f"{fanout}_{agent}".encode(), digest_size=11).hexdigest()


def is_child(
    entry: FanoutEntry,
    agent: str,
    *,
    client: str,
    group: str,
    target: str | None,
    labels: Mapping[str, str],
) -> bool:
    """Whether a command with the id of a child belongs to the fan-out."""
    is_labelled = labels.get(LABEL) == entry.id
    return is_labelled and (client, target) == (entry.client, agent) and group in entry.groups


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The next step of a fan-out.

    start: agents to submit to now. skip: agents left out, with reasons. stop: reason to end. done:
    nothing is open, and no agent is left. held: the turn of an agent is deferred. rest_s: seconds
    until the place of an ended command is free; None: no place is resting.
    """

    start: list[str]
    skip: dict[str, str]
    stop: str
    done: bool
    held: bool = False
    rest_s: float | None = None


class Fanout:
    """Progress of each agent of one fan-out.

    states: of the existing commands, by agent; None or missing: not submitted yet. now_s: a reading
    of the monotonic clock, like all times here.
    """

    def __init__(
        self, entry: FanoutEntry, states: Mapping[str, State | None], *, now_s: float = 0.0
    ) -> None:
        self.entry = entry
        self.ended: dict[str, State] = {}
        self.open: set[str] = set()
        self._waiting: dict[str, None] = {}
        for agent in entry.agents:
            state = states.get(agent)
            if state is None:
                if agent not in entry.skipped:
                    self._waiting[agent] = None
            elif state in TERMINAL:
                self.ended[agent] = state
            else:
                self.open.add(agent)
        # Moments until which places stay empty. Those of before a restart are not known: all of
        # them rest once more.
        self._rests: list[float] = []
        for _ in range(min(len(self.ended), entry.at_once - len(self.open))):
            self._rest(now_s)

    def _rest(self, now_s: float) -> None:
        if self.entry.batch_sleep_s:
            self._rests.append(now_s + self.entry.batch_sleep_s)

    @property
    def failures(self) -> int:
        """Agents whose command failed, and silent ones; other skipped agents do not count."""
        silent = sum(why == SILENT for why in self.entry.skipped.values())
        return silent + sum(state is not State.SUCCEEDED for state in self.ended.values())

    @property
    def remaining(self) -> int:
        """Agents whose command has not ended; none that will not be asked any more."""
        return len(self.open) + (0 if self.entry.stopped else len(self._waiting))

    def decide(self, obstacle: Callable[[str], str], *, now_s: float = 0.0) -> Decision:
        """Decide the next step. obstacle: why an agent cannot be given work, or an empty text."""
        entry, skip, start = self.entry, dict[str, str](), list[str]()
        stop = entry.stopped
        self._rests = [until_s for until_s in self._rests if until_s > now_s]
        room = (entry.at_once or len(entry.agents)) - len(self.open) - len(self._rests)
        silent, is_held = 0, False
        for agent in self._waiting:
            stop = stop or self._limit_reached(silent)
            if stop or room <= 0:
                break
            why = obstacle(agent)
            if why == HELD:
                is_held = True
            elif why:
                skip[agent] = why
                silent += why == SILENT
            else:
                start.append(agent)
                room -= 1
        stop = stop or (self._limit_reached(silent) if self._waiting else "")
        left = 0 if stop else len(self._waiting) - len(skip)
        done = not (left or start or self.open)
        rest_s = min(self._rests) - now_s if self._rests and left else None
        return Decision(start=start, skip=skip, stop=stop, done=done, held=is_held, rest_s=rest_s)

    def _limit_reached(self, more: int) -> str:
        limit = self.entry.max_failures
        return FAILURES if limit is not None and self.failures + more > limit else ""

    def on_started(self, agent: str) -> None:
        self._waiting.pop(agent, None)
        self.open.add(agent)

    def on_ended(self, agent: str, state: State, *, now_s: float = 0.0) -> None:
        self._waiting.pop(agent, None)
        if agent not in self.ended:
            self._rest(now_s)
        self.open.discard(agent)
        self.ended[agent] = state

    def on_put_back(self, agent: str) -> None:
        """Defer an agent whose submission was refused for the moment."""
        self.open.discard(agent)
        self._waiting = {agent: None, **self._waiting}

    def on_changed(self, entry: FanoutEntry) -> None:
        """Take in a changed entry: skipped agents, or the stop of the fan-out."""
        self.entry = entry
        for agent in entry.skipped:
            self._waiting.pop(agent, None)
            self.open.discard(agent)

    def counts(self, open_states: Mapping[str, State]) -> dict[str, int]:
        """Number of agents in each state; agents without a command are `skipped`."""
        states: list[str] = [str(state) for state in self.ended.values()]
        states += [str(open_states.get(agent, State.QUEUED)) for agent in self.open]
        states += [SKIPPED] * len(self.entry.skipped)
        states += [SKIPPED if self.entry.stopped else WAITING] * len(self._waiting)
        return _tally(states)


def _tally(states: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for state in sorted(states):
        found[state] = found.get(state, 0) + 1
    return found


def verdict(entry: FanoutEntry, counts: Mapping[str, int]) -> str:
    """State of a fan-out without open commands."""
    if entry.stopped.startswith(CANCELLED_BY):
        return CANCELLED
    succeeded = counts.get(SUCCEEDED, 0)
    if succeeded == len(entry.agents):
        return SUCCEEDED
    return PARTIAL if succeeded else FAILED


def is_repeated(state: str, *, failed: bool, silent: bool) -> bool:
    """Whether a retry includes an agent whose command ended so; all, if neither is set."""
    if not failed and not silent:
        return True
    if state in (SKIPPED, WAITING):
        return silent
    return failed and state != SUCCEEDED


def reason_of(entry: FanoutEntry) -> str:
    """Reason of a stop, for people."""
    if entry.stopped != FAILURES:
        return entry.stopped
    limit = counted(entry.max_failures or 0, "failure")
    return f"stopped: more than the {limit} that may be"


def skip_reason(entry: FanoutEntry, agent: str) -> str:
    """Reason for skipping `agent`, for people."""
    why = entry.skipped.get(agent)
    if why is not None:
        return WHY.get(why, f"refused: {why}")
    if entry.stopped == RESTORED:
        return f"not asked again: {RESTORED}, and it may have been asked since that was made"
    return f"not asked: {reason_of(entry)}"
