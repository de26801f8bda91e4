"""The facts of a command in the event stream; a fold over them gives its state.

Each fact holds everything that the fold needs, its time included: a replay never reads a clock.
"""

from typing import Annotated, Any, Final

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
from schemas.messages.work import INPUT_ABILITY, Output, Result

# Stored facts are read with wider limits than new ones are written with, so that the facts of
# earlier versions stay readable.
_Labels = Annotated[dict[Label, Label], Meta(max_length=limits.LABELS + limits.OWN_LABELS)]
_Said = Annotated[str, Meta(max_length=4 * limits.TEXT_LEN)]


class Assigned(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Choice of an agent by the master; written before the request is sent. why: its reason."""

    agent: Label
    at: Timestamp
    epoch: Count
    why: _Said = ""


class Terms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Terms on which a command waits and runs, chosen by its submitter.

    priority: among waiting commands the greater one goes first. tags: required of its agent.
    kill_after_s: silence of the master that its task may outlive, in seconds; 0: as the timers say.
    """

    queue_ttl_s: Duration = 900.0
    on_lost: Label = "error"
    kill_after_s: Duration = 0.0
    priority: Priority = 2
    tags: Tags = {}


DEFAULT_TERMS: Final = Terms()


class Accepted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole command (attempt 0). digest: of its body, to detect another body with the same id.

    first: attempt 1, if an agent was free at once; the attempt then has no `assigned` fact.
    A label `traceparent` is a W3C trace context, and goes into the environment of the task.
    connection: through which it works, or empty; timeout_s, output_bytes: its limits there, 0 for
    those of the connection. key: idempotency key of its calls; empty: its id. input: id of its
    staged input, or empty.
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
    connection: Label = ""
    timeout_s: Duration = 0.0
    output_bytes: Count = 0
    key: Label = ""
    input: Label = ""

    @property
    def needs(self) -> str:
        """The action, or another ability, that its agent needs."""
        return INPUT_ABILITY if self.input else self.action

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
    """End of an attempt, or (attempt 0) of a command without one.

    final: the command ends with it. Otherwise the command is retried, or waits for an operator's
    decision, as its `on_lost` says. result, effect, code: as in the agent's report.
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
    result: Result = b""
    effect: Label = ""
    code: Label = ""


class Decided(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Decision of an operator about a lost attempt: `rerun` the command, or `fail` it."""

    by: Label
    at: Timestamp
    what: Label


class CancelAsked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    by: Label
    at: Timestamp


Fact = Accepted | Assigned | Started | Outcome | CancelAsked | Decided

# `late` is an outcome received after the master's verdict; it is kept beside the verdict.
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

    why: reason for the choice of the agent. reason: of its end. effect: on the system behind a
    connection, `none`, `unknown` or `done`. code: of the fault that ended it.
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
    effect: str = ""
    code: str = ""


class ArgumentsRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Arguments of a process. env: names without values. stdin_bytes: size of its input."""

    argv: list[str]
    env: list[str] = []
    cwd: str | None = None
    stdin_bytes: int = 0
    timeout_s: float | None = None


class CommandRecord(msgspec.Struct, kw_only=True, omit_defaults=False):
    """A command as users see it: in answers, in result messages and in history.

    program: the program and its arguments, in one line quoted as a shell would, control characters
    spelled out; for other actions than `process` their name. arguments: of a process, whole in
    `command.show` and shortened elsewhere; None if an older master kept none.

    since: when `state` began. next: the next step and its time, for states that wait. output: only
    if it was requested and is small. cut: parts that were too long and are shortened here:
    `output`, `reasons`, `attempts` (the first and the last ones are left), `labels`, `arguments`,
    `accepted` (the body; the command cannot be submitted again), `result`.

    connection: through which it works, or None. result: of its action, if it has one.
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
    connection: str | None = None
    result: dict[str, Any] | None = None


class HistoryRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One ended command, complete; the read model is rebuilt from these entries.

    amended: a result came after the verdict; this record replaces the earlier one. accepted: the
    whole command, for a retry; 0.1.0 kept it for dead letters only. argv: the first arguments, as
    kept by 0.1.0; now they are in the record.
    """

    record: CommandRecord
    digest: bytes = b""
    submitted: Timestamp
    ended: Timestamp
    argv: Annotated[list[Text], Meta(max_length=limits.LIST_LEN)] = []
    amended: bool = False
    accepted: Accepted | None = None
