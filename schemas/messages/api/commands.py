"""`command.*` and `deadletter.*`: submit, look, wait, cancel, decide, read output, submit again."""

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

# What becomes of a command whose attempt is lost: it ends so, is run again, or waits for a word.
OnLost = Literal["error", "rerun", "wait"]
# What an agent does with the task when its master stays silent: end it, let it go on for `hold_s`,
# or let it go on for as long as the mesh allows.
Loss = Literal["kill", "hold", "continue"]
# What becomes of a command while no agent of its target is active: it waits, or is refused.
OnInactive = Literal["queue", "refuse"]


class SubmitRequest(Request, frozen=True, kw_only=True):
    """`command.submit`. Exactly one of group and agent.

    id: the dedup id; without one the master makes one. deadline: unix time after which the
    submitter no longer wants it accepted, since a client's buffer may deliver late. loss, hold_s:
    what becomes of the task while its master is silent. with_output: small output comes with the
    result. on_inactive: wait, or be refused, while no agent of the target is active. priority: of
    the commands that wait, the greater goes first. tags: what an agent of the group must have.
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
    on_inactive: OnInactive = "queue"
    priority: Priority = 2
    tags: Tags = {}


class SubmitAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The command is durable when this arrives. duplicate: the id was already known.

    target: whether any agent that may take it is active. next: what it waits for, and until when,
    if none is, or those that are have no room; slots that are taken are no lack of room. Both are
    left out where one takes work.
    """

    id: str
    state: str
    duplicate: bool
    target: Literal["active", "inactive"] = "active"
    next: str = ""


class CommandQuery(Request, frozen=True, kw_only=True):
    """`command.show`, `command.wait` (until terminal, at most `timeout_s`) and `command.cancel`."""

    id: CommandId
    with_output: bool = False
    timeout_s: Annotated[float, Meta(ge=0, le=60)] = 30.0


class DecideRequest(Request, frozen=True, kw_only=True):
    """`command.decide`, for a command that waits for a word about its lost attempt."""

    id: CommandId
    decision: Literal["fail", "rerun"]


class RetryRequest(Request, frozen=True, kw_only=True):
    """`command.retry`: submit an ended command again, under a new id; `deadletter.retry` likewise.

    The new one is the caller's, and has the body of the old one and a label `retry-of`.
    """

    id: CommandId
    new_id: CommandId | None = None


class CommandList(Request, frozen=True, kw_only=True):
    """`command.list`: open commands first, newest first; then ended ones, last ended first.

    cursor: as the page before gave it; None: from the start. filter: words as `state:failed,lost
    label:deploy=42 program:apt* since:1d !client:cron`, which all must hold.
    """

    group: Name | None = None
    agent: Name | None = None
    state: Label | None = None
    filter: Annotated[str, Meta(max_length=limits.FILTER_LEN)] = ""
    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    cursor: Label | None = None


class CommandPage(msgspec.Struct, frozen=True, kw_only=True):
    """cursor: pass it to get the next page; None: there is no more.

    A page may be short, or empty, and have a cursor: so much of history is searched at a time.
    filter: as it was asked for, and obeyed; masters of 0.1.0 know none, and leave this empty.
    """

    commands: list[CommandRecord]
    cursor: str | None = None
    filter: str = ""


class LogsRequest(Request, frozen=True, kw_only=True):
    """`command.logs`: output from these offsets on. attempt None: the newest.

    wait_s: how long the answer may wait for new bytes while the command runs. times: say as well
    when they were printed.
    """

    id: CommandId
    attempt: AttemptNumber | None = None
    stdout_from: Count = 0
    stderr_from: Count = 0
    wait_s: Annotated[float, Meta(ge=0, le=30)] = 0.0
    max_bytes: Annotated[int, Meta(ge=1, le=192 * 1024)] = 192 * 1024
    times: bool = False


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one stream that will never come: from `start` to before `end`."""

    stream: str
    start: int
    end: int


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """When the bytes of a stream from `offset` on were printed, to a quarter of a second or so."""

    stream: str
    offset: int
    at: str


class LogsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of both streams that follow the offsets asked for.

    They end at `stdout_next` and `stderr_next`. end: the attempt has ended and nothing is left to
    read after these bytes. truncated: the attempt wrote more than its limit, and not all was kept.
    gaps: bytes that were not kept; the bytes of that stream in this answer follow its gap. marks:
    when its bytes were printed, if that was asked for; masters of 0.1.0 never say.
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
