"""`command.*` and `deadletter.*`: submit, show, wait, cancel, decide, read output, retry."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas import limits
from schemas.messages.api.base import Request
from schemas.messages.facts import CommandRecord
from schemas.messages.fields import (
    AttemptNumber,
    CommandId,
    Count,
    Label,
    Labels,
    Name,
    Priority,
    Tags,
)

# After the loss of its attempt a command ends as lost, is run again, or waits for a decision.
OnLost = Literal["error", "rerun", "wait"]
# While the master is silent the agent ends the task as the timers say, after `hold_s`, or after the
# longest time that the mesh allows.
Loss = Literal["kill", "hold", "continue"]
# While no agent of its target is active a command waits, or is refused.
OnInactive = Literal["queue", "refuse"]


class SubmitRequest(Request, frozen=True, kw_only=True):
    """`command.submit`. Exactly one of group, agent and connection.

    id: for deduplication; the master makes one if it is absent. deadline: unix time after which the
    master refuses the request, as a client's buffer may deliver late. loss, hold_s: policy and
    seconds for the task while its master is silent. with_output: small output comes with the
    result. on_inactive: while no agent of the target is active, wait or be refused; None: `refuse`
    through a connection, else `queue`. priority: among waiting commands the greater one goes first.
    tags: required of an agent of the group. connection: through which an action with a capability
    works. timeout_s, output_bytes: limits of
    a command through a connection, not above the connection's own.
    """

    id: CommandId | None = None
    group: Name | None = None
    agent: Name | None = None
    action: Label = "process"
    args: msgspec.Raw = msgspec.Raw(b"\x80")
    queue_ttl_s: Annotated[float, Meta(ge=0, le=limits.QUEUE_TTL_MAX_S)] | None = None
    deadline: Annotated[float, Meta(gt=0, le=1e11)] | None = None
    on_lost: OnLost = "error"
    loss: Loss = "kill"
    hold_s: Annotated[float, Meta(gt=0, le=limits.TIMEOUT_MAX_S)] | None = None
    labels: Labels = {}
    with_output: bool = False
    on_inactive: OnInactive | None = None
    priority: Priority = 2
    tags: Tags = {}
    connection: Name | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=limits.TIMEOUT_MAX_S)] | None = None
    output_bytes: Annotated[int, Meta(ge=1, le=2**53)] | None = None


class SubmitAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The command is durable when this arrives. duplicate: the id was already known.

    target: whether an agent that may run it is active. next: reason and end of its wait, if no such
    agent is active, or if the active ones have exhausted a resource other than slots. Both are left
    out if an agent takes work.
    """

    id: str
    state: str
    duplicate: bool
    target: Literal["active", "inactive"] = "active"
    next: str = ""


class InputPart(Request, frozen=True, kw_only=True):
    """`command.input`: one part of the input of a command that is submitted afterwards.

    input: its id, chosen by the client, unique among its own. part: number, from 0; each but the
    last has 96 KiB. The same part again replaces it (idempotent).
    """

    input: CommandId
    part: Annotated[int, Meta(ge=0, le=limits.INPUT_PARTS - 1)] = 0
    data: Annotated[bytes, Meta(min_length=1, max_length=limits.INPUT_PART_BYTES)]


class InputAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The part is durable when this arrives. parts: number of stored parts of this input."""

    input: CommandId
    parts: Count


class CommandQuery(Request, frozen=True, kw_only=True):
    """`command.show`, `command.wait` (until terminal, at most `timeout_s`) and `command.cancel`."""

    id: CommandId
    with_output: bool = False
    timeout_s: Annotated[float, Meta(ge=0, le=60)] = 30.0


class DecideRequest(Request, frozen=True, kw_only=True):
    """`command.decide`, for a command that waits for a decision about its lost attempt."""

    id: CommandId
    decision: Literal["fail", "rerun"]


class RetryRequest(Request, frozen=True, kw_only=True):
    """`command.retry`: submit an ended command again, under a new id; `deadletter.retry` likewise.

    The new command belongs to the caller, has the same body, and the label `retry-of`.
    """

    id: CommandId
    new_id: CommandId | None = None


class CommandList(Request, frozen=True, kw_only=True):
    """`command.list`: open commands first, newest first; then ended ones, last ended first.

    cursor: from the previous page; None: the first page. filter: words such as `state:failed,lost
    label:deploy=42 program:apt* since:1d !client:cron`; all must match.
    """

    group: Name | None = None
    agent: Name | None = None
    state: Label | None = None
    filter: Annotated[str, Meta(max_length=limits.FILTER_LEN)] = ""
    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    cursor: Label | None = None


class CommandPage(msgspec.Struct, frozen=True, kw_only=True):
    """cursor: of the next page; None: this is the last one.

    A page with a cursor may be short or empty: each request searches a limited part of history.
    filter: the applied one; empty from masters of 0.1.0, which know no filters.
    """

    commands: list[CommandRecord]
    cursor: str | None = None
    filter: str = ""


class LogsRequest(Request, frozen=True, kw_only=True):
    """`command.logs`: output from these offsets on. attempt None: the newest.

    wait_s: longest wait for new bytes while the command runs. times: answer with `marks`.
    """

    id: CommandId
    attempt: AttemptNumber | None = None
    stdout_from: Count = 0
    stderr_from: Count = 0
    wait_s: Annotated[float, Meta(ge=0, le=30)] = 0.0
    max_bytes: Annotated[int, Meta(ge=1, le=192 * 1024)] = 192 * 1024
    times: bool = False


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one stream that are lost: from `start` to before `end`."""

    stream: str
    start: int
    end: int


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Time at which the bytes of a stream from `offset` on were printed, to about 0.25 s."""

    stream: str
    offset: int
    at: str


class LogsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of both streams that follow the offsets asked for.

    They end at `stdout_next` and `stderr_next`. end: the attempt has ended and these are its last
    bytes. truncated: the attempt wrote more than its limit, and some bytes were dropped. gaps: lost
    bytes; the bytes of the stream in this answer follow its gap. marks: print times of the bytes,
    if requested by `times`; never from masters of 0.1.0.
    """

    id: str
    attempt: int
    state: str
    stdout: bytes
    stderr: bytes
    stdout_next: int
    stderr_next: int
    end: bool
    truncated: bool = False
    gaps: list[Gap] = []
    marks: list[Mark] = []
