"""Beats, echoes and the handshake."""

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
    Text,
    Timestamp,
    Token,
    Urls,
)
from schemas.timers import Timers

PROTOCOL: Final = 1
# A feature of an agent: it learns by `stored` that its output is durable, and needs no answer.
HEARS_STORED: Final = "stored"
# A feature of an agent: it answers what `recall` of a welcome asks.
RECALLS: Final = "recall"
# The attempt and the state of what it was asked for and does not know.
NO_ATTEMPT: Final = 0
UNKNOWN_TO_AGENT: Final = "unknown"


class Beat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Agent to master, each period and at once after a reconnect; dropped while disconnected.

    seq counts from 1 in each incarnation. lease_age_s is how long ago the newest echoed beat was
    sent, so that the master learns when the agent cannot hear it. rtt_s: from the newest echoed
    beat to its echo, 0 if it is not known. goodbye: the process is ending. renewal: why its
    certificate could not be renewed, empty unless that is so. lacks: what there is no room in
    (spool, disk, descriptors, journal, reports), each with a sentence for people; slots are none of
    these. full: no slot is free, or something is lacking; all that 0.1.0 says and reads.
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
    at: Timestamp = 0.0
    renewal: Label = ""
    lacks: Labels = {}


class Echo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Master to agent: the heartbeat back. `seq` is the highest beat seen of that incarnation.

    reconciled is false while the master wants a (new) handshake before it sends work.
    """

    epoch: Count
    incarnation: Token
    seq: Count
    reconciled: bool = True


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an agent says of its host; shown, never trusted for a decision.

    addresses: the digest of those under which it looks for brokers; said with the third step of the
    handshake as well.
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
    """One attempt as the agent's journal has it."""

    command: CommandId
    attempt: AttemptNumber
    state: Label
    pid: Count = 0
    stdout_bytes: Count = 0
    stderr_bytes: Count = 0


class Hello(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The agent's first and third step of the handshake.

    tasks: all that run, then as many of those that ended and are not released as fit; `complete`
    says whether that is all of them. done: the agent has carried out the welcome's decisions, and
    work may flow. Step one is sent again until a welcome comes; every step may be repeated. trust:
    the digest of the authorities that it trusts. features: what it knows to do beyond what every
    agent of this protocol does; unknown ones are ignored. actions: what it can run; an agent that
    says none has those of the first release, `process` and `noop`. To `recall` of the welcome the
    third step answers in `tasks`: with those whose end it knows and reports next, and, as attempt 0
    with the state `unknown`, with those that it never had, or longer ago than it remembers.
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
    """keep: go on. kill: end it. release: forget it, it is stored. report: send how it ended."""

    command: CommandId
    attempt: AttemptNumber
    verdict: Verdict
    stdout_from: Count = 0
    stderr_from: Count = 0


class Welcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The master's step. With `refused` the agent may not take part, and `reason` says why.

    urls: under which brokers are found from now on, the first to be tried first. An agent keeps
    them and says so with the third step; agents of 0.1.0 ignore them, its masters send none.
    recall: commands that were open in the state that this master was restored from, and that the
    hello does not name. They may have ended and been released since: only the agent knows.
    """

    epoch: Count
    incarnation: Token
    timers: Timers = msgspec.field(default_factory=Timers)
    decisions: Annotated[list[TaskDecision], Meta(max_length=limits.HELLO_TASKS)] = []
    refused: str = ""
    reason: Text = ""
    urls: Urls = []
    recall: Annotated[list[CommandId], Meta(max_length=limits.HELLO_TASKS)] = []
