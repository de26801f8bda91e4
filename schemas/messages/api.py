"""What clients ask of the master, and what it answers.

Records (`AgentRecord`, `GroupRecord`, `facts.CommandRecord`) are the same in answers, in result
messages and in the command line's JSON. Times in records are RFC 3339 in UTC.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas import limits
from schemas.messages.enrol import Pem, Signature
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
    Text,
    Timestamp,
)
from schemas.messages.registry import DEFAULT_POLICY, Balance, Policy, Weight

# What becomes of a command whose attempt is lost: it ends so, is run again, or waits for a word.
OnLost = Literal["error", "rerun", "wait"]
# What an agent does with the task when its master stays silent: end it, let it go on for `hold_s`,
# or let it go on for as long as the mesh allows.
Loss = Literal["kill", "hold", "continue"]


# What becomes of a command while no agent of its target is active: it waits, or is refused.
OnInactive = Literal["queue", "refuse"]


class _Request(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=False
):
    """Unknown fields of a request are ignored, so that newer clients can talk to older masters."""


class SubmitRequest(_Request, frozen=True, kw_only=True):
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


class CommandQuery(_Request, frozen=True, kw_only=True):
    """`command.show`, `command.wait` (until terminal, at most `timeout_s`) and `command.cancel`."""

    id: CommandId
    with_output: bool = False
    timeout_s: Annotated[float, Meta(ge=0, le=60)] = 30.0


class DecideRequest(_Request, frozen=True, kw_only=True):
    """`command.decide`, for a command that waits for a word about its lost attempt."""

    id: CommandId
    decision: Literal["fail", "rerun"]


class RetryRequest(_Request, frozen=True, kw_only=True):
    """`deadletter.retry`: submit an undeliverable command again, under a new id."""

    id: CommandId
    new_id: CommandId | None = None


class CommandList(_Request, frozen=True, kw_only=True):
    """`command.list`: open commands first, newest first; then ended ones, last ended first.

    cursor: as the page before gave it; None: from the start.
    """

    group: Name | None = None
    agent: Name | None = None
    state: Label | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    cursor: Label | None = None


class CommandPage(msgspec.Struct, frozen=True, kw_only=True):
    """cursor: pass it to get the next page; None: there is no more."""

    commands: list[CommandRecord]
    cursor: str | None = None


class LogsRequest(_Request, frozen=True, kw_only=True):
    """`command.logs`: output from these offsets on. attempt None: the newest.

    wait_s: how long the answer may wait for new bytes while the command runs.
    """

    id: CommandId
    attempt: AttemptNumber | None = None
    stdout_from: Count = 0
    stderr_from: Count = 0
    wait_s: Annotated[float, Meta(ge=0, le=30)] = 0.0
    max_bytes: Annotated[int, Meta(ge=1, le=192 * 1024)] = 192 * 1024


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one stream that will never come: from `start` to before `end`."""

    stream: str
    start: int
    end: int


class LogsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of both streams that follow the offsets asked for.

    They end at `stdout_next` and `stderr_next`. end: the attempt has ended and nothing is left to
    read after these bytes. truncated: the attempt wrote more than its limit, and not all was kept.
    gaps: bytes that were not kept; the bytes of that stream in this answer follow its gap.
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


class NameQuery(_Request, frozen=True, kw_only=True):
    """`show`, `enable`, `revoke`, `delete` and the like: one thing by its name."""

    name: Name


class NoQuery(_Request, frozen=True, kw_only=True):
    """A request without parameters."""


class GroupCreate(_Request, frozen=True, kw_only=True):
    name: Name
    policy: Policy = DEFAULT_POLICY


class GroupList(_Request, frozen=True, kw_only=True):
    """`group.list`, by name; `cursor` is that of the page before."""

    limit: Annotated[int, Meta(ge=1, le=5000)] = 5000
    cursor: Name | None = None


class ClientList(_Request, frozen=True, kw_only=True):
    """`client.list`, by name; `cursor` is that of the page before."""

    limit: Annotated[int, Meta(ge=1, le=5000)] = 5000
    cursor: Name | None = None


class GroupSet(_Request, frozen=True, kw_only=True):
    """`group.set`: change what is given of a group's policy."""

    name: Name
    balance: Balance | None = None
    sticky_label: Label | None = None
    limit: Count | None = None
    queue_limit: Count | None = None


class AgentCreate(_Request, frozen=True, kw_only=True):
    """`agent.create` and `agent.token` (a new token for an agent that exists)."""

    name: Name
    group: Name | None = None
    ttl_s: Annotated[float, Meta(ge=1, le=86_400)] = 3600.0
    tags: Tags = {}
    weight: Weight = 1
    priority: Priority = 2
    limit: Count = 0


class AgentSet(_Request, frozen=True, kw_only=True):
    """`agent.set`: change what is given of an agent's traits.

    tags: to add, or to change. untag: names of tags to take away.
    """

    name: Name
    tags: Tags = {}
    untag: Annotated[list[Label], Meta(max_length=limits.TAGS)] = []
    weight: Weight | None = None
    priority: Priority | None = None
    limit: Count | None = None


class AgentList(_Request, frozen=True, kw_only=True):
    """`agent.list`, by name; `cursor` is that of the page before."""

    group: Name | None = None
    status: Label | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 200
    cursor: Label | None = None


class AgentDisable(_Request, frozen=True, kw_only=True):
    """now: end its running tasks instead of letting them finish. note: why, for others to read."""

    name: Name
    now: bool = False
    note: Label = ""


class AgentPause(_Request, frozen=True, kw_only=True):
    """`agent.pause`: as `agent.disable`, and enabled again by itself after `for_s` seconds."""

    name: Name
    for_s: Annotated[float, Meta(gt=0, le=limits.PAUSE_MAX_S)]
    now: bool = False
    note: Label = ""


class AgentMove(_Request, frozen=True, kw_only=True):
    """`agent.move`: into another group, once what runs there has ended; into its own: stay."""

    name: Name
    group: Name


class AgentForget(_Request, frozen=True, kw_only=True):
    """`agent.forget`: agents that have been silent for long, by name; `cursor` as in `agent.list`.

    Without `apply` nothing changes: the answer says who would be deleted. silent_for_s: at least
    as long as it takes until tasks of a silent agent are given up.
    """

    silent_for_s: Annotated[float, Meta(gt=0, le=1e10)]
    group: Name | None = None
    apply: bool = False
    limit: Annotated[int, Meta(ge=1, le=200)] = 200
    cursor: Label | None = None


class ClientCreate(_Request, frozen=True, kw_only=True):
    """`client.create`: the keys are made by whoever asks; only their public halves travel.

    user_signature: of `renewal.key_proof_text` (purpose `client`), by the broker key; command lines
    of 0.1.0 send none.
    """

    name: Name
    role: Label
    groups: Annotated[list[Name], Meta(max_length=limits.MAP_LEN)] = []
    csr_pem: Pem
    user_nkey: Label
    user_signature: Signature = b""


class IdentityAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A client's new identity, to be stored beside the keys that were made for it."""

    mesh: str
    name: str
    role: str
    urls: list[str]
    cert_pem: str
    ca_pem: str
    jwt: str
    serial: str
    not_after: str


class TokenAnswer(msgspec.Struct, frozen=True, kw_only=True):
    agent: str
    group: str
    token: str
    expires_at: str


class CertificateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """warning: empty, how soon it ends, `expired`, or why it could not be renewed."""

    serial: str
    not_after: str
    days_left: float
    warning: str = ""


class CertificateList(_Request, frozen=True, kw_only=True):
    """`certificate.list`, the first to end first. expiring_s: only what ends within that time.

    cursor: as the page before gave it.
    """

    expiring_s: Annotated[float, Meta(gt=0, le=1e10)] | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 200
    cursor: Text | None = None


class HoldingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate and whose it is: an `agent`, a `client`, `broker`, `master` or `authority`.

    authority: the generation that has issued it. warning: empty, how soon it ends, `expired`, or
    why it could not be renewed.
    """

    kind: str
    name: str
    group: str
    serial: str
    not_after: str
    days_left: float
    warning: str
    authority: int


class CertificatesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """cursor: pass it to get the next page; None: there is no more."""

    certificates: list[HoldingRecord]
    cursor: str | None = None


class CaRotate(_Request, frozen=True, kw_only=True):
    """`ca.rotate`: one step. key: `authority`, or the role whose signing key is replaced.

    force: although somebody would be cut off.
    """

    step: Literal["prepare", "activate", "taint", "revoke"]
    key: Label = "authority"
    force: bool = False


class RotationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Where the replacement of one key stands.

    stage: `settled`, `prepared`, `activated` or `tainted`, since when, and the step that is due
    (`next`). active: the generation that signs; other: the one beside it, 0 for none. waiting_for:
    who would be cut off by `next`, as `agent web-1`; waiting: how many those are in all.
    """

    key: str
    stage: str
    since: str | None
    next: str
    active: int
    other: int
    not_after: str | None = None
    waiting_for: list[str] = []
    waiting: int = 0


class CaAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`ca.show`, and what `ca.rotate` has led to. note: what is left to do, if anything."""

    rotations: list[RotationRecord]
    note: str = ""


class TrustQuery(_Request, frozen=True, kw_only=True):
    """`certificate.trust`: what the caller has. known: the digest of the authorities it trusts.

    serial: of the certificate in use; one that was renewed is confirmed by that.
    """

    known: Label = ""
    serial: Label = ""


class TrustAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """ca_pem: the authorities to trust, empty if the caller knows them. renew: do it now."""

    ca_pem: str
    renew: bool = False


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
    """status, with why (`reason`), since when, and what comes next.

    returned: after its last silence, how long that was and what became of its tasks. note, by:
    what was said when it was disabled or paused, and by whom; until: when a pause ends. tasks_left:
    attempts on it that have not ended, as the master counts them.
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


class AgentsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """cursor: pass it to get the next page; None: there is no more."""

    agents: list[AgentRecord]
    cursor: str | None = None


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


class ClientRecord(msgspec.Struct, frozen=True, kw_only=True):
    client: str
    role: str
    groups: list[str]
    certificate: CertificateRecord | None
    created_at: str


class ClientsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """cursor: pass it to get the next page; None: there is no more."""

    clients: list[ClientRecord]
    cursor: str | None = None


class AuditQuery(_Request, frozen=True, kw_only=True):
    """`audit.list`, the newest first. Each filter narrows it down.

    action: `noun.verb`, or a noun for all of its verbs. since, until: unix times. cursor: as the
    page before gave it.
    """

    by: Label | None = None
    action: Label | None = None
    target: Label | None = None
    group: Name | None = None
    result: Label | None = None
    since: Timestamp | None = None
    until: Timestamp | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    cursor: Count | None = None


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One act: when, by whom (`actor` says what that is), from which hosts, and what to what."""

    seq: int
    at: str
    by: str
    actor: str
    address: str
    action: str
    target: str
    group: str
    result: str
    code: str
    detail: str


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """cursor: pass it to get the next page, which may hold more; None: there is no more.

    A page may be short, or empty, and have a cursor: so much of the trail is searched at a time.
    """

    entries: list[AuditRecord]
    cursor: int | None = None


class StatusAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`mesh.status`: the mesh at a glance. at: the master's time of day. notes: what is wrong."""

    mesh: str
    version: str
    epoch: int
    started_at: str
    agents: dict[str, int]
    groups: dict[str, int]
    commands: dict[str, int]
    broker: str
    history_lag_s: float = 0.0
    notes: Annotated[list[Text], Meta(max_length=64)] = []
    at: str = ""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """An operation that changed something, or found it as it was to be (`changed` false)."""

    changed: bool = True
    message: str = ""
