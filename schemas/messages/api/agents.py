"""`agent.*`: create, change, show, pause, move and delete agents."""

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
    """`agent.set`: change an agent's traits; absent ones stay.

    tags: to add, or to change. untag: names of tags to remove.
    """

    name: Name
    tags: Tags = {}
    untag: Annotated[list[Label], Meta(max_length=limits.TAGS)] = []
    weight: Weight | None = None
    priority: Priority | None = None
    limit: Count | None = None


class AgentList(Request, frozen=True, kw_only=True):
    """`agent.list`, by name. cursor: from the previous page.

    filter: words such as `web-* status:no_response expires:<14d tag:site=a`; all must match.
    """

    group: Name | None = None
    status: Label | None = None
    filter: Annotated[str, Meta(max_length=limits.FILTER_LEN)] = ""
    limit: Annotated[int, Meta(ge=1, le=200)] = 200
    cursor: Label | None = None


class AgentDisable(Request, frozen=True, kw_only=True):
    """`agent.disable`. now: end its running tasks instead of draining. note: reason, for people."""

    name: Name
    now: bool = False
    note: Label = ""


class AgentPause(Request, frozen=True, kw_only=True):
    """`agent.pause`: as `agent.disable`, with an automatic `enable` after `for_s` seconds."""

    name: Name
    for_s: Annotated[float, Meta(gt=0, le=limits.PAUSE_MAX_S)]
    now: bool = False
    note: Label = ""


class AgentMove(Request, frozen=True, kw_only=True):
    """`agent.move`: to another group, once its tasks have ended; to its own: cancel the move."""

    name: Name
    group: Name


class AgentForget(Request, frozen=True, kw_only=True):
    """`agent.forget`: agents that have been silent for long, by name; `cursor` as in `agent.list`.

    apply: delete them; without it the answer only lists them. silent_for_s: seconds, at least as
    many as until the master gives up the tasks of a silent agent.
    """

    silent_for_s: Annotated[float, Meta(gt=0, le=1e10)]
    group: Name | None = None
    apply: bool = False
    limit: Annotated[int, Meta(ge=1, le=200)] = 200
    cursor: Label | None = None


class AgentPing(Request, frozen=True, kw_only=True):
    """`agent.ping`: round trip from the master to an agent, with a timeout of `timeout_s`."""

    name: Name
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 5.0


class PingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """rtt_s: seconds from the master to the agent and back; None: no answer, see `reason`.

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
    """id: from the registry. ip: address and port, from the broker. The agent reports the rest."""

    id: str
    ip: str = ""
    host: str = ""
    pid: int = 0
    user: str = ""
    uptime_s: float = 0.0
    version: str = ""


class AgentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An agent. reason: of `status`; cause: stable name of the reason; since: when it began.

    next: the next step, and its time. returned: duration of its last silence, and the results of
    its tasks since then. note, by: reason and author of a disable or pause; until: end of a pause.
    tasks_left: attempts on it that have not ended, as the master counts them. actions: names of
    those that it runs. joined: time of its first connection (if that was under 0.1.0: of its
    creation). recent: results of its last 20 commands, a letter each
    (`schemas.states.RESULT_LETTERS`), the newest last. addresses: whether it uses the broker
    addresses of the master: `current`, `other`, or `unknown` if it does not report them.
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
    """An agent that `agent.forget` has deleted, or would delete. connected: at least once."""

    agent: str
    group: str
    status: str
    silent_since: str
    connected: bool


class ForgetAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """applied: the agents are deleted. cursor: of the next page; None: this is the last one."""

    agents: list[SilentRecord]
    applied: bool
    cursor: str | None = None


class AgentsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """cursor: of the next page; None: this is the last one.

    filter: the applied one; empty from masters of 0.1.0, which know no filters.
    """

    agents: list[AgentRecord]
    cursor: str | None = None
    filter: str = ""
