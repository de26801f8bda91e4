"""`connection.*`: ways through groups to databases, files, HTTP services and scripts."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from schemas import limits
from schemas.messages.api.base import Request
from schemas.messages.fields import ActionName, Label, Name

AtOnce = Annotated[int, Meta(ge=0, le=limits.AT_ONCE_MAX)]
TimeoutS = Annotated[float, Meta(gt=0, le=limits.TIMEOUT_MAX_S)]
HASH_LEN: Final = 64
OutputBytes = Annotated[int, Meta(ge=1, le=2**53)]
Actions = Annotated[list[ActionName], Meta(max_length=limits.ACTIONS)]


class ConnectionCreate(Request, frozen=True, kw_only=True):
    """`connection.create`. The hosts of the group have a profile of the same name and kind.

    at_once: commands through it at a time, 0 for no limit. timeout_s, output_bytes: limits of a
    command. actions: the allowed ones; empty: all of its kind.
    """

    name: Name
    kind: Name
    group: Name
    at_once: AtOnce = 0
    timeout_s: TimeoutS | None = None
    output_bytes: OutputBytes | None = None
    actions: Actions = []
    note: Label = ""


class ConnectionSet(Request, frozen=True, kw_only=True):
    """`connection.set`: change limits, actions or note; absent fields stay."""

    name: Name
    at_once: AtOnce | None = None
    timeout_s: TimeoutS | None = None
    output_bytes: OutputBytes | None = None
    actions: Actions | None = None
    note: Label | None = None


class ConnectionPin(Request, frozen=True, kw_only=True):
    """`connection.pin`: use only hosts whose profile has this hash; empty: any of its kind."""

    name: Name
    hash: Annotated[str, Meta(max_length=HASH_LEN)] = ""


class ConnectionList(Request, frozen=True, kw_only=True):
    """`connection.list`, by name. cursor: from the previous page."""

    group: Name | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 500
    cursor: Name | None = None


class ConnectionTest(Request, frozen=True, kw_only=True):
    """`connection.test`: try the way to the system from each active host, or from one agent's.

    timeout_s: of each try.
    """

    name: Name
    agent: Name | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 10.0


class ConnectionMember(msgspec.Struct, frozen=True, kw_only=True):
    """An agent of a connection's group, and the profile of its host.

    state: `ok`, `problem`, `missing`, `other_kind` or `not_pinned`. hash: of the profile. problem:
    of a profile that cannot be used. shape: settings without secrets, in `connection.show` only.
    """

    agent: str
    status: str
    state: str
    hash: str = ""
    problem: str = ""
    shape: str = ""


class ConnectionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A connection. status: `active`, `inactive` or `disabled`; reason, since and next explain it.

    agents: number of agents of its group, usable: of active ones with a usable profile. running,
    queued: open commands through it. badges: warnings, such as unequal profiles. members: in
    `connection.show` only; members_left_out: number of those that did not fit.
    """

    connection: str
    kind: str
    group: str
    status: str
    reason: str
    since: str
    next: str = ""
    enabled: bool = True
    agents: int = 0
    usable: int = 0
    running: int = 0
    queued: int = 0
    at_once: int = 0
    timeout_s: float = 0.0
    output_bytes: int = 0
    actions: list[str] = []
    pin: str = ""
    note: str = ""
    badges: list[str] = []
    created_at: str = ""
    created_by: str = ""
    members: list[ConnectionMember] = []
    members_left_out: int = 0


class ConnectionsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """cursor: of the next page; None: this is the last one."""

    connections: list[ConnectionRecord]
    cursor: str | None = None


class ConnectionTested(msgspec.Struct, frozen=True, kw_only=True):
    """One try of the way to the system. result: `ok` or `failed`; code, reason: of a failure.

    steps: milliseconds by `resolve`, `connect`, `tls`, `login` and `query`, as far as it came.
    server: name and version of the system. profile: hash of the profile. command: its id.
    """

    agent: str
    result: str
    steps: dict[str, float] = {}
    server: str = ""
    profile: str = ""
    code: str = ""
    reason: str = ""
    command: str = ""


class ConnectionTestAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """left_out: number of active agents that were not asked, as there are too many."""

    connection: str
    members: list[ConnectionTested]
    left_out: int = 0
