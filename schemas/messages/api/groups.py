"""`group.*`: named sets of agents, their policies and their state."""

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.messages.api.base import Request
from schemas.messages.fields import Count, Label, Name
from schemas.messages.registry import DEFAULT_POLICY, Balance, Policy


class GroupCreate(Request, frozen=True, kw_only=True):
    name: Name
    policy: Policy = DEFAULT_POLICY


class GroupList(Request, frozen=True, kw_only=True):
    """`group.list`, by name. cursor: from the previous page."""

    limit: Annotated[int, Meta(ge=1, le=5000)] = 5000
    cursor: Name | None = None


class GroupSet(Request, frozen=True, kw_only=True):
    """`group.set`: change a group's policy; absent fields stay."""

    name: Name
    balance: Balance | None = None
    sticky_label: Label | None = None
    limit: Count | None = None
    queue_limit: Count | None = None


class SpreadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Commands received by one agent in the last hour, beside the number its policy expects.

    Only commands that any member could run count, and only while the agent could run them.
    """

    agent: str
    expected: float
    actual: int


class GroupRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A group. agents: counts by status. queued, running: its open commands. badges: warnings.

    next: the way out, for an inactive group. spread: in `group.show` only; spread_left_out: number
    of agents that did not fit into it.
    """

    group: str
    status: str
    reason: str
    since: str
    agents: dict[str, int]
    queued: int = 0
    running: int = 0
    badges: list[str] = []
    next: str = ""
    policy: Policy = DEFAULT_POLICY
    spread: list[SpreadRecord] = []
    spread_left_out: int = 0


class Passed(msgspec.Struct, frozen=True, kw_only=True):
    """An agent that an order for its group did not reach. reason: why."""

    agent: str
    reason: str


class RotateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """ordered: agents that renew their certificates now. passed: the others of the group.

    left_out: number of agents that did not fit into both lists.
    """

    group: str
    ordered: list[str]
    passed: list[Passed] = []
    left_out: int = 0


class GroupsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """cursor: of the next page; None: this is the last one."""

    groups: list[GroupRecord]
    cursor: str | None = None
