"""What master and agent say to each other about attempts."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from schemas import limits
from schemas.messages.enrol import Pem
from schemas.messages.fields import (
    AttemptNumber,
    CommandId,
    Count,
    Duration,
    Label,
    Text,
    Timestamp,
    Token,
)


class Output(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Small output, whole. `truncated` says that bytes of a larger one are missing here."""

    stdout: bytes = b""
    stderr: bytes = b""
    truncated: bool = False


class Run(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt for one agent; answered at `up.<group>.<agent>.reply.<token>`.

    beat_seq: the newest beat of `incarnation` that the master had seen when it sent this. The agent
    knows when it sent that beat, and so how old this request can be, without any wall clock.
    args: the arguments as the client sent them, checked by the master against the action's type.
    trace: a W3C trace context, for the task's environment.
    kill_after_s: silence of the master that the task may outlive; the usual, if that is longer.
    """

    command: CommandId
    attempt: AttemptNumber
    epoch: Count
    incarnation: Token
    beat_seq: Count
    token: Token
    action: Label
    args: msgspec.Raw
    output_limit_bytes: Count = limits.OUTPUT_LIMIT_BYTES
    client: Label = ""
    trace: Label = ""
    kill_after_s: Duration = 0.0


# Attempts are numbered from 1; this one is a probe of an agent, which belongs to no command.
PROBE_ATTEMPT: Final = 0

RunAnswer = Literal["accepted", "duplicate", "rejected"]


class RunReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """accepted: journalled. duplicate: known, `state` is where it stands. rejected: see `code`."""

    command: CommandId
    attempt: AttemptNumber
    answer: RunAnswer
    state: Label = ""
    code: Label = ""
    message: Text = ""


class Control(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """cancel: end one attempt. drain: take nothing new. resume: take work again.

    rotate: get a new certificate now. trust: trust the authorities of `ca_pem` and no others. ping:
    answer.
    """

    kind: Label
    epoch: Count
    token: Token
    command: Label = ""
    attempt: AttemptNumber = 0
    ca_pem: Pem = ""


class ControlReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """known is false for an attempt the agent has never had, and will now refuse."""

    kind: Label
    command: Label = ""
    attempt: AttemptNumber = 0
    known: bool = True
    code: Label = ""
    message: Text = ""


class AttemptReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one attempt. kind `started` or `ended`; an end repeats when it started.

    exit_code: as the program gave it, or 128 + the signal that ended it. output: only where both
    streams together are small and whole; otherwise the sizes say how much went to the log stream.
    seq: the agent's number of this event, growing over restarts of the agent.
    """

    command: CommandId
    attempt: AttemptNumber
    kind: Literal["started", "ended"]
    seq: Count
    state: Label
    accepted_at: Timestamp = 0.0
    started_at: Timestamp = 0.0
    ended_at: Timestamp = 0.0
    exit_code: Annotated[int, Meta(ge=-(2**31), le=2**31)] | None = None
    reason: Text = ""
    pid: Count = 0
    stdout_bytes: Count = 0
    stderr_bytes: Count = 0
    output: Output | None = None
    truncated: bool = False


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Agent to master, sent again until every item is released."""

    incarnation: Token
    items: Annotated[list[AttemptReport], Meta(max_length=limits.REPORT_ITEMS)]


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """One report that is durable at the master's side and may be forgotten by the agent."""

    command: CommandId
    attempt: AttemptNumber
    seq: Count


class Release(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    epoch: Count
    items: Annotated[list[Released], Meta(max_length=limits.REPORT_ITEMS)]


class LogChunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Bytes of one stream of one attempt, from `offset` on.

    skipped: so many bytes before `offset` were dropped by the agent, as the attempt printed more
    than its limit. Where chunks hold some of them all the same, those count.
    """

    offset: Count
    data: Annotated[bytes, Meta(max_length=limits.CHUNK_BYTES)]
    skipped: Count = 0
    at: Timestamp = 0.0
