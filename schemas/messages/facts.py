"""The facts of a command, as they stand in the event stream. Folding them gives its state.

Everything a fold needs is in the fact, also its time: what is replayed never reads a clock.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from schemas import limits
from schemas.messages.fields import (
    CommandId,
    Count,
    Duration,
    Label,
    Priority,
    Tags,
    Text,
    Timestamp,
)
from schemas.messages.work import Output

# What is stored is read with wider limits than it is written with, so that what an earlier version
# has stored is still read.
_Labels = Annotated[dict[Label, Label], Meta(max_length=limits.LABELS + limits.OWN_LABELS)]
_Said = Annotated[str, Meta(max_length=4 * limits.TEXT_LEN)]


class Assigned(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The master chose an agent, and why; written before anything is sent."""

    agent: Label
    at: Timestamp
    epoch: Count
    why: _Said = ""


class Terms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """On which terms a command waits and runs, as its submitter has asked.

    priority: among waiting commands the greater goes first. tags: what its agent must have.
    kill_after_s: silence of the master that its task may outlive; 0: the usual.
    """

    queue_ttl_s: Duration = 900.0
    on_lost: Label = "error"
    kill_after_s: Duration = 0.0
    priority: Priority = 2
    tags: Tags = {}


DEFAULT_TERMS: Final = Terms()


class Accepted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole command (attempt 0). `digest` tells one body from another under the same id.

    first: attempt 1, where an agent was free at once: then it has no `assigned` of its own.
    A label `traceparent` is a W3C trace context, and goes into the environment of the task.
    """

    id: CommandId
    client: Label
    group: Label
    agent: Label = ""
    action: Label
    args: msgspec.Raw
    digest: bytes = b""
    submitted_at: Timestamp
    terms: Terms = DEFAULT_TERMS
    labels: _Labels = {}
    with_output: bool = False
    source: Label = "nats"
    first: Assigned | None = None

    @property
    def queue_ttl_s(self) -> float:
        return self.terms.queue_ttl_s

    @property
    def on_lost(self) -> str:
        return self.terms.on_lost

    @property
    def kill_after_s(self) -> float:
        return self.terms.kill_after_s


class Started(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    agent: Label
    accepted_at: Timestamp = 0.0
    started_at: Timestamp = 0.0
    pid: Count = 0
    sent: Count = 1


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an attempt ended, or (attempt 0) a command that has none to end.

    final: the command ends with it. Otherwise it is tried again, or waits for an operator's word,
    as its `on_lost` says.
    """

    state: Label
    at: Timestamp
    agent: Label = ""
    accepted_at: Timestamp = 0.0
    started_at: Timestamp = 0.0
    ended_at: Timestamp = 0.0
    exit_code: Annotated[int, Meta(ge=-(2**31), le=2**31)] | None = None
    reason: _Said = ""
    sent: Count = 0
    final: bool = True
    stdout_bytes: Count = 0
    stderr_bytes: Count = 0
    output: Output | None = None
    truncated: bool = False
    late: bool = False


class Decided(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An operator's word on a lost attempt: `rerun` it, or accept that it has failed (`fail`)."""

    by: Label
    at: Timestamp
    what: Label


class CancelAsked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    by: Label
    at: Timestamp


Fact = Accepted | Assigned | Started | Outcome | CancelAsked | Decided

# `late` is an outcome that came after the master's verdict; it stands beside, never instead.
FACTS: Final[dict[str, type[Fact]]] = {
    "accepted": Accepted,
    "assigned": Assigned,
    "started": Started,
    "outcome": Outcome,
    "late": Outcome,
    "cancel": CancelAsked,
    "decided": Decided,
}


class AttemptRecord(msgspec.Struct, kw_only=True, omit_defaults=False):
    """One attempt as users see it. Times are RFC 3339 in UTC, or None while unknown.

    why: why this agent was chosen. reason: why it ended as it did.
    """

    attempt: int
    agent: str
    state: str
    sent: int = 0
    accepted_at: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    exit_code: int | None = None
    reason: str = ""
    why: str = ""
    late: bool = False


class ArgumentsRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """What a process was given: env has the names alone, stdin_bytes the size of its input."""

    argv: list[str]
    env: list[str] = []
    cwd: str | None = None
    stdin_bytes: int = 0
    timeout_s: float | None = None


class CommandRecord(msgspec.Struct, kw_only=True, omit_defaults=False):
    """A command as users see it: in answers, in result messages and in history.

    program: what it runs, in one line quoted as a shell would, control characters spelled out; of
    other actions than `process` their name. arguments: of a process, whole in `command.show` and
    shortened elsewhere; None where an older master has kept none.

    since: when `state` began. next: what will happen next and when, for states that wait.
    output: only where it was asked for and is small enough to ride along. cut: parts that were too
    long and are not whole here: `output`, `reasons`, `attempts` (the first and the last ones are
    left), `labels`, `arguments`, `accepted` (the body, so that it cannot be submitted again).
    """

    id: str
    group: str
    agent: str | None
    action: str
    state: str
    attempts: list[AttemptRecord]
    submitted_at: str
    client: str
    reason: str = ""
    since: str = ""
    next: str = ""
    ended_at: str | None = None
    labels: dict[str, str] = {}
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    truncated: bool = False
    last_output_at: str | None = None
    output: Output | None = None
    cut: list[str] = []
    program: str = ""
    arguments: ArgumentsRecord | None = None


class HistoryRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One ended command, complete: what the read model is rebuilt from.

    amended: a later result came after the verdict; the record replaces the earlier one. accepted:
    the whole command, so that it may be submitted again; 0.1.0 kept it of dead letters alone. argv:
    its first arguments, as 0.1.0 kept them; now they are in the record.
    """

    record: CommandRecord
    digest: bytes = b""
    submitted: Timestamp
    ended: Timestamp
    argv: Annotated[list[Text], Meta(max_length=limits.LIST_LEN)] = []
    amended: bool = False
    accepted: Accepted | None = None
