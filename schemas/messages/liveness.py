"""Heartbeats (beats), their echoes and the handshake."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from schemas import limits
from schemas.messages.fields import (
    ActionName,
    AttemptNumber,
    CommandId,
    Count,
    Duration,
    Label,
    Labels,
    Name,
    Text,
    Timestamp,
    Token,
    Urls,
)
from schemas.timers import Timers

PROTOCOL: Final = 1
# Feature of an agent: it learns by `stored` that its output is durable, and needs no answer.
HEARS_STORED: Final = "stored"
# Feature of an agent: it answers the `recall` of a welcome.
RECALLS: Final = "recall"
# Feature of an agent: it fetches the staged input of a process.
FETCHES_INPUT: Final = "input"
# Attempt and state in its answer for a recalled command that it does not know.
NO_ATTEMPT: Final = 0
UNKNOWN_TO_AGENT: Final = "unknown"


class Beat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Heartbeat of an agent, each period and at once after a reconnect; dropped while disconnected.

    seq: number of the beat, from 1 in each incarnation. lease_age_s: seconds since the newest
    echoed beat was sent; it grows while the agent does not receive the master. rtt_s: seconds from
    the newest echoed beat to its echo, 0 if unknown. goodbye: the process is ending. empty: at a
    goodbye, whether every accepted attempt has ended and is reported, so that an attempt without
    an acknowledgement never runs. renewal: reason for which its certificate could not be renewed,
    or empty. lacks: exhausted resources (spool, disk, descriptors, journal, reports), each with a
    sentence for people; slots are not among them. full: no slot is free, or a resource is
    exhausted; 0.1.0 has this field only.
    profiles: digest of the profiles of its host, or empty for none.
    """

    incarnation: Token
    seq: Count
    epoch: Count = 0
    lease_age_s: Duration = 0.0
    rtt_s: Duration = 0.0
    uptime_s: Duration = 0.0
    running: Count = 0
    slots: Count = 0
    spool_bytes: Count = 0
    draining: bool = False
    full: bool = False
    goodbye: bool = False
    empty: bool = False
    at: Timestamp = 0.0
    renewal: Label = ""
    lacks: Labels = {}
    profiles: Label = ""


class Echo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Echo of a heartbeat, by the master. seq: number of the newest beat seen of `incarnation`.

    reconciled: false while the master needs a (new) handshake before it sends work. profiles: the
    master does not know the profiles of the beat's digest, and asks for them.
    """

    epoch: Count
    incarnation: Token
    seq: Count
    reconciled: bool = True
    profiles: bool = False


class ProfileStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A profile of a host: a way to one system, by the agent's own account.

    hash: of its settings and of its references to secrets, never of their values. shape: settings
    without secrets, for people. actions: those that it allows. problem: why it cannot be used; with
    the state `ok`: why its file as it is now is not in use, but an earlier version.
    """

    name: Name
    kind: Label = ""
    hash: Label = ""
    shape: Annotated[str, Meta(max_length=limits.SHAPE_LEN)] = ""
    actions: Annotated[list[ActionName], Meta(max_length=limits.ACTIONS)] = []
    state: Literal["ok", "problem"] = "ok"
    problem: Text = ""


class Profiles(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All profiles of an agent, whose digest is in its beats. Sending it again is idempotent."""

    incarnation: Token
    digest: Label
    items: Annotated[list[ProfileStatus], Meta(max_length=limits.PROFILES)] = []


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Host and process of an agent, by its own account; shown, never trusted for a decision.

    addresses: digest of the broker addresses that it uses; sent again in the third step of the
    handshake.
    """

    host: Label = ""
    pid: Count = 0
    user: Label = ""
    os: Label = ""
    arch: Label = ""
    python: Label = ""
    version: Label = ""
    addresses: Label = ""


class TaskStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt, as recorded in the agent's journal."""

    command: CommandId
    attempt: AttemptNumber
    state: Label
    pid: Count = 0
    stdout_bytes: Count = 0
    stderr_bytes: Count = 0


class Hello(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The agent's first and third step of the handshake.

    tasks: all running attempts, then as many ended and unreleased ones as fit; complete: none is
    left out. done: the agent has carried out the welcome's decisions, and the master may send work.
    Step one is retried until a welcome comes; every step is idempotent. trust: digest of the
    authorities that it trusts. features: abilities beyond the first release; unknown ones are
    ignored. actions: names of the actions that it runs; without any, the actions of the first
    release, `process` and `noop`. The third step answers the welcome's `recall` in `tasks`:
    commands whose end it knows and reports next, and, as attempt 0 with the state `unknown`,
    commands that are not in its journal (any more).
    """

    incarnation: Token
    protocol: Count = PROTOCOL
    epoch: Count = 0
    lease_age_s: Duration = 0.0
    started_at: Timestamp = 0.0
    uptime_s: Duration = 0.0
    slots: Count = 0
    details: Details = msgspec.field(default_factory=Details)
    certificate_serial: Label = ""
    certificate_not_after: Timestamp = 0.0
    tasks: Annotated[list[TaskStatus], Meta(max_length=limits.HELLO_TASKS)] = []
    complete: bool = True
    done: bool = False
    trust: Label = ""
    features: Annotated[list[Label], Meta(max_length=limits.FEATURES)] = []
    actions: Annotated[list[ActionName], Meta(max_length=limits.ACTIONS)] = []


Verdict = Literal["keep", "kill", "release", "report"]


class TaskDecision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """keep: leave it running. kill: end it. release: delete it, the master has stored its end.

    report: send its end. release is reserved: every agent obeys it, no master sends it so far.
    """

    command: CommandId
    attempt: AttemptNumber
    verdict: Verdict
    stdout_from: Count = 0
    stderr_from: Count = 0


class Welcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The master's step of the handshake. refused: code of a fault: the agent may not take part.

    urls: addresses of the brokers from now on, in the order of attempts to connect. The agent
    stores them and confirms them in the third step; agents of 0.1.0 ignore them, masters of 0.1.0
    send none. recall: commands that were open in the backup from which this master was restored,
    and that the hello does not name: they may have ended and been released after the backup.
    """

    epoch: Count
    incarnation: Token
    timers: Timers = msgspec.field(default_factory=Timers)
    decisions: Annotated[list[TaskDecision], Meta(max_length=limits.HELLO_TASKS)] = []
    refused: str = ""
    reason: Text = ""
    urls: Urls = []
    recall: Annotated[list[CommandId], Meta(max_length=limits.HELLO_TASKS)] = []
