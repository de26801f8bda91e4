"""`group.*`: named sets of agents, how they share work, and how they fare."""

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
    """`group.list`, by name; `cursor` is that of the page before."""

    limit: Annotated[int, Meta(ge=1, le=5000)] = 5000
    cursor: Name | None = None


class GroupSet(Request, frozen=True, kw_only=True):
    """`group.set`: change what is given of a group's policy."""

    name: Name
    balance: Balance | None = None
    sticky_label: Label | None = None
    limit: Count | None = None
    queue_limit: Count | None = None


class SpreadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What one agent got of the group's commands in the last hour, and what the policy expects.

    Counted are those that any member might have got, while it was there to get them.
    """

    agent: str
    expected: float
    actual: int


class GroupRecord(msgspec.Struct, frozen=True, kw_only=True):
    """agents: counts by status. queued, running: its open commands. badges: what is worth a look.

    next: what would change an inactive group. spread: in `group.show` only; spread_left_out: how
    many agents are too many to be in it.
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
    """An agent that an order for its group did not reach, and why."""

    agent: str
    reason: str


class RotateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """ordered: agents that renew their certificates now. passed: the others of the group.

    left_out: how many of both are too many to be named here.
    """

    group: str
    ordered: list[str]
    passed: list[Passed] = []
    left_out: int = 0


class GroupsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """cursor: pass it to get the next page; None: there is no more."""

    groups: list[GroupRecord]
    cursor: str | None = None
