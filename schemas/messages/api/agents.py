"""`agent.*`: made, changed, looked at, paused, moved and forgotten."""

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas import limits
from schemas.messages.api.base import Request
from schemas.messages.api.certificates import CertificateRecord
from schemas.messages.fields import Count, Label, Name, Priority, Tags
from schemas.messages.registry import Weight
from schemas.spans import DAY_S


class AgentCreate(Request, frozen=True, kw_only=True):
    """`agent.create` and `agent.token` (a new token for an agent that exists)."""

    name: Name
    group: Name | None = None
    ttl_s: Annotated[float, Meta(ge=1, le=DAY_S)] = 3600.0
    tags: Tags = {}
    weight: Weight = 1
    priority: Priority = 2
    limit: Count = 0


class AgentSet(Request, frozen=True, kw_only=True):
    """`agent.set`: change what is given of an agent's traits.

    tags: to add, or to change. untag: names of tags to take away.
    """

    name: Name
    tags: Tags = {}
    untag: Annotated[list[Label], Meta(max_length=limits.TAGS)] = []
    weight: Weight | None = None
    priority: Priority | None = None
    limit: Count | None = None


class AgentList(Request, frozen=True, kw_only=True):
    """`agent.list`, by name; `cursor` is that of the page before.

    filter: words as `web-* status:no_response expires:<14d tag:site=a`, which all must hold.
    """

    group: Name | None = None
    status: Label | None = None
    filter: Annotated[str, Meta(max_length=limits.FILTER_LEN)] = ""
    limit: Annotated[int, Meta(ge=1, le=200)] = 200
    cursor: Label | None = None


class AgentDisable(Request, frozen=True, kw_only=True):
    """now: end its running tasks instead of letting them finish. note: why, for others to read."""

    name: Name
    now: bool = False
    note: Label = ""


class AgentPause(Request, frozen=True, kw_only=True):
    """`agent.pause`: as `agent.disable`, and enabled again by itself after `for_s` seconds."""

    name: Name
    for_s: Annotated[float, Meta(gt=0, le=limits.PAUSE_MAX_S)]
    now: bool = False
    note: Label = ""


class AgentMove(Request, frozen=True, kw_only=True):
    """`agent.move`: into another group, once what runs there has ended; into its own: stay."""

    name: Name
    group: Name


class AgentForget(Request, frozen=True, kw_only=True):
    """`agent.forget`: agents that have been silent for long, by name; `cursor` as in `agent.list`.

    Without `apply` nothing changes: the answer says who would be deleted. silent_for_s: at least
    as long as it takes until tasks of a silent agent are given up.
    """

    silent_for_s: Annotated[float, Meta(gt=0, le=1e10)]
    group: Name | None = None
    apply: bool = False
    limit: Annotated[int, Meta(ge=1, le=200)] = 200
    cursor: Label | None = None


class AgentPing(Request, frozen=True, kw_only=True):
    """`agent.ping`: how long an agent takes to answer its master, if it does in `timeout_s`."""

    name: Name
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 5.0


class PingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """rtt_s: seconds from the master to the agent and back; None: no answer came, and `reason`.

    status: of the agent, as in its record.
    """

    agent: str
    status: str
    rtt_s: float | None = None
    reason: str = ""


class TokenAnswer(msgspec.Struct, frozen=True, kw_only=True):
    agent: str
    group: str
    token: str
    expires_at: str


class DetailsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """id, and address and port as the broker sees them, are known for sure; the rest it says."""

    id: str
    ip: str = ""
    host: str = ""
    pid: int = 0
    user: str = ""
    uptime_s: float = 0.0
    version: str = ""


class AgentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """status, with why (`reason`; `cause` is its stable name), since when, and what comes next.

    returned: after its last silence, how long that was and what became of its tasks. note, by:
    what was said when it was disabled or paused, and by whom; until: when a pause ends. tasks_left:
    attempts on it that have not ended, as the master counts them. actions: what it can run. joined:
    when it first connected; of one that did so under 0.1.0, when it was created. recent: how its
    last 20 commands ended, a letter each (`schemas.states.RESULT_LETTERS`), the newest last.
    addresses: whether it looks for brokers where the master says they are: `current`, `other`, or
    `unknown` if it does not say.
    """

    agent: str
    group: str
    status: str
    reason: str
    since: str
    next: str
    admin: str
    liveness: str
    certificate: CertificateRecord | None
    details: DetailsRecord
    running: int
    slots: int
    badges: list[str] = []
    last_beat_at: str | None = None
    returned: str = ""
    note: str = ""
    by: str = ""
    until: str | None = None
    tasks_left: int = 0
    tags: dict[str, str] = {}
    weight: int = 1
    priority: int = 2
    limit: int = 0
    actions: list[str] = []
    joined: str | None = None
    recent: str = ""
    cause: str = ""
    addresses: str = ""


class SilentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One that `agent.forget` deletes, or would. connected: it has been, at least once."""

    agent: str
    group: str
    status: str
    silent_since: str
    connected: bool


class ForgetAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """applied: they are deleted. cursor: pass it to get the next page; None: there is no more."""

    agents: list[SilentRecord]
    applied: bool
    cursor: str | None = None


class AgentsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """cursor: pass it to get the next page; None: there is no more.

    filter: as it was asked for, and obeyed; masters of 0.1.0 know none, and leave this empty.
    """

    agents: list[AgentRecord]
    cursor: str | None = None
    filter: str = ""
