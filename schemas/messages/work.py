"""Messages between master and agent about attempts."""

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
    """Output of an attempt. truncated: it was larger, and bytes are missing here."""

    stdout: bytes = b""
    stderr: bytes = b""
    truncated: bool = False


class Run(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt for one agent; answered at `up.<group>.<agent>.reply.<token>`.

    beat_seq: number of the newest beat of `incarnation` that the master had seen when it sent this
    request; the agent knows when it sent the beat, hence the greatest age of the request, without
    a wall clock. args: as the client sent them, checked by the master against the action's type.
    trace: a W3C trace context, for the task's environment. kill_after_s: silence of the master, in
    seconds, that the task may outlive; never less than the timers say. connection: name of the
    profile that it works through, or empty. timeout_s: longest time of a call through it. key: by
    which a server may recognize a repetition of the call.
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
    connection: Label = ""
    timeout_s: Duration = 0.0
    key: Label = ""


# A msgpack map with the names and values of the action; docs/connections.md lists them.
Result = Annotated[bytes, Meta(max_length=limits.RESULT_BYTES)]

# Number of a probe of an agent, which belongs to no command; attempts are numbered from 1.
PROBE_ATTEMPT: Final = 0

RunAnswer = Literal["accepted", "duplicate", "rejected"]


class RunReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """accepted: in the journal. duplicate: already known, `state` is current. rejected: `code`."""

    command: CommandId
    attempt: AttemptNumber
    answer: RunAnswer
    state: Label = ""
    code: Label = ""
    message: Text = ""


class Control(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Order to an agent. cancel: end one attempt. drain: take no new work. resume: take work again.

    rotate: renew the certificate now. trust: trust the authorities of `ca_pem` and no others. ping:
    answer. drain and resume are reserved: every agent obeys them, no master sends them so far.
    """

    kind: Label
    epoch: Count
    token: Token
    command: Label = ""
    attempt: AttemptNumber = 0
    ca_pem: Pem = ""


class ControlReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Answer to an order. known: false for an attempt not received so far, refused from now on."""

    kind: Label
    command: Label = ""
    attempt: AttemptNumber = 0
    known: bool = True
    code: Label = ""
    message: Text = ""


class AttemptReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Start or end of one attempt, by `kind`; an `ended` repeats the time of the start.

    exit_code: of the program, or 128 + number of the signal that ended it. output: only if both
    streams together are small and whole; otherwise the sizes say how much is in the log stream.
    seq: number of this event at the agent, growing over restarts of the agent. result: of an action
    through a connection, a msgpack map. effect: on the
    system behind the connection; empty for other actions. code: of the fault that ended it.
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
    result: Result = b""
    effect: Literal["", "none", "unknown", "done"] = ""
    code: Label = ""


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Reports of an agent, sent again until the master has released every item."""

    incarnation: Token
    items: Annotated[list[AttemptReport], Meta(max_length=limits.REPORT_ITEMS)]


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """One report that the master has stored durably; the agent may delete it."""

    command: CommandId
    attempt: AttemptNumber
    seq: Count


class Release(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    epoch: Count
    items: Annotated[list[Released], Meta(max_length=limits.REPORT_ITEMS)]


# What an agent must be able to do for a process with a staged input, in place of its action.
INPUT_ABILITY: Final = "process+input"


class InputRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Request of an agent for one part of the staged input of an attempt that it has accepted.

    Answered at `down.<group>.<agent>.input`; without an answer it is sent again.
    """

    command: CommandId
    attempt: AttemptNumber
    part: Annotated[int, Meta(ge=0, le=limits.INPUT_PARTS - 1)] = 0


class InputReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One part of a staged input. code, message: of a fault, if it is not stored any more."""

    command: CommandId
    attempt: AttemptNumber
    part: Annotated[int, Meta(ge=0, le=limits.INPUT_PARTS - 1)] = 0
    data: Annotated[bytes, Meta(max_length=limits.INPUT_PART_BYTES)] = b""
    code: Label = ""
    message: Text = ""


class LogChunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Bytes of one stream of one attempt, from `offset` on.

    skipped: number of bytes before `offset` that the agent dropped, as the attempt printed more
    than its limit. A byte that another chunk holds counts as kept.
    """

    offset: Count
    data: Annotated[bytes, Meta(max_length=limits.CHUNK_BYTES)]
    skipped: Count = 0
    at: Timestamp = 0.0
