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
    """`fanout.submit`: run `command` once on each agent that all of the choices hold for.

    At least one of group, agents and tags. command: names no id, group or agent itself; with a
    `queue_ttl_s` of its own, agents that are not active are waited for so long, otherwise they are
    skipped when their turn comes. at_once: agents that work on it at the same time; 0: all.
    max_failures: once more have failed, no further agent is asked; None: no limit. batch_sleep_s:
    with `at_once`, the place of an agent that has ended stays empty for so long; the record that
    answers has it as well, and masters that know none leave it at 0.
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
    """`fanout.show`, `wait` (until it has ended, at most `timeout_s`) and `cancel`.

    cursor: as the page of members before gave it.
    """

    id: CommandId
    limit: Annotated[int, Meta(ge=1, le=500)] = 500
    cursor: Name | None = None
    timeout_s: Annotated[float, Meta(ge=0, le=60)] = 30.0


class FanoutRetry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`fanout.retry`: the same command, as a new fan-out of the caller.

    failed: on those agents on which it did not succeed. silent: on those that were not asked.
    Neither: on all of them. Agents that have been deleted since are left out.
    """

    id: CommandId
    new_id: CommandId | None = None
    failed: bool = False
    silent: bool = False


class FanoutList(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`fanout.list`: the newest first, without their members."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 50


class FanoutMember(msgspec.Struct, frozen=True, kw_only=True):
    """One agent of a fan-out. state: that of its command, `waiting` for its turn, or `skipped`."""

    agent: str
    command: str
    state: str
    exit_code: int | None = None
    reason: str = ""
    ended_at: str | None = None


class FanoutRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A fan-out as it stands. state: running, succeeded, partial, failed or cancelled.

    counts: agents by state, all of them. members: a page, by name; cursor: gives the next one.
    program: what each of them runs, as in the record of a command. retry_of: the one it repeats.
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
    """What the bucket `mesh_fanouts` holds of one, below its id.

    digest: tells one body from another under the same id. agents: chosen when it was submitted, by
    name. groups: theirs. skipped: who was not asked, and why (a short word). stopped: why nobody
    else is asked any more. form: how the ids of its children are made.
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
