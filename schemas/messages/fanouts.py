"""Fan-outs: one command for many agents, one child command for each of them.

A child has an id of its own, derived from that of the fan-out, and a label `fanout` that names it.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from schemas import limits
from schemas.messages.api import SubmitRequest
from schemas.messages.fields import CommandId, Count, Duration, Label, Name, Tags, Timestamp
from schemas.spans import DAY_S

LABEL: Final = "fanout"

_Agents = Annotated[list[Name], Meta(max_length=limits.LIST_LEN)]
_AtOnce = Annotated[int, Meta(ge=0, le=limits.LIST_LEN)]
_Sleep = Annotated[float, Meta(ge=0, le=DAY_S)]
_MaxFailures = Annotated[int, Meta(ge=0, le=limits.LIST_LEN)]


class FanoutSubmit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`fanout.submit`: run `command` once on each agent that matches all of the choices.

    At least one of group, agents and tags. command: names no id, group or agent. With a
    `queue_ttl_s`, it waits so long for an agent that is not active; without one, such an agent is
    skipped at its turn. at_once: concurrency limit, in agents; 0: all. max_failures: failures after
    which no further command is started; None: no limit. batch_sleep_s: with `at_once`, seconds for
    which the slot of an ended agent stays empty; the answer repeats it, or is 0 if the master does
    not know this field.
    """

    id: CommandId | None = None
    group: Name | None = None
    agents: _Agents = []
    tags: Tags = {}
    command: SubmitRequest
    at_once: _AtOnce = 0
    max_failures: _MaxFailures | None = None
    batch_sleep_s: _Sleep = 0.0


class FanoutQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`fanout.show`, `wait` (until the fan-out has ended, at most `timeout_s`) and `cancel`.

    cursor: from the previous page of members.
    """

    id: CommandId
    limit: Annotated[int, Meta(ge=1, le=500)] = 500
    cursor: Name | None = None
    timeout_s: Annotated[float, Meta(ge=0, le=60)] = 30.0


class FanoutRetry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`fanout.retry`: the same command, as a new fan-out of the caller.

    failed: on agents without success. silent: on agents that were skipped. Neither: on all agents.
    Agents that have been deleted since are left out.
    """

    id: CommandId
    new_id: CommandId | None = None
    failed: bool = False
    silent: bool = False


class FanoutList(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`fanout.list`: the newest first, without their members."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 50


class FanoutMember(msgspec.Struct, frozen=True, kw_only=True):
    """One agent of a fan-out. state: of its command, or `waiting` for its turn, or `skipped`."""

    agent: str
    command: str
    state: str
    exit_code: int | None = None
    reason: str = ""
    ended_at: str | None = None


class FanoutRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A fan-out as it stands. state: running, succeeded, partial, failed or cancelled.

    counts: number of agents by state. members: a page, by name; cursor: of the next page. program:
    as in the record of a command. retry_of: id of the fan-out that it repeats.
    """

    id: str
    client: str
    state: str
    reason: str
    submitted_at: str
    ended_at: str | None
    agents: int
    counts: dict[str, int]
    at_once: int
    max_failures: int | None
    duplicate: bool = False
    members: list[FanoutMember] = []
    cursor: str | None = None
    program: str = ""
    retry_of: str = ""
    batch_sleep_s: float = 0.0


class FanoutsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    fanouts: list[FanoutRecord]


class FanoutEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Entry of a fan-out in the bucket `mesh_fanouts`, below its id.

    digest: of its body, to detect another body with the same id. agents: names, chosen at
    submission. groups: of these agents. skipped: reason (a short word) by agent. stopped: reason
    for which no further command is started, or empty. form: version of the rule for children's ids.
    """

    id: CommandId
    client: Label
    digest: bytes
    submitted_at: Timestamp
    groups: list[Label]
    agents: list[Label]
    command: SubmitRequest
    at_once: Count = 0
    max_failures: Count | None = None
    skipped: dict[Label, Label] = {}
    stopped: Label = ""
    state: Label = "running"
    form: Count = 0
    ended_at: Timestamp = 0.0
    counts: dict[Label, Count] = {}
    batch_sleep_s: Duration = 0.0
