"""Fields by which lists of agents and commands are filtered, and the values of an agent."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, get_args

from schemas.filters import Field, Language, Value, Word, holds
from schemas.messages.api import AgentRecord
from schemas.messages.api.events import EventKind
from schemas.messages.facts import CommandRecord
from schemas.states import Admin, AgentStatus, GroupStatus, Liveness, State

_NUMBER: Final = Field("number")
_SPAN: Final = Field("span")

AGENTS: Final = Language(
    fields={
        "agent": Field(),
        "group": Field(),
        "status": Field(values=tuple(str(each) for each in AgentStatus)),
        "since": _SPAN,
        "running": _NUMBER,
        "slots": _NUMBER,
        "load": _NUMBER,
        "cert": _SPAN,
        "uptime": _SPAN,
        "silent": _SPAN,
        "version": Field(),
        "host": Field(),
        "ip": Field(),
        "user": Field(),
        "admin": Field(values=tuple(str(each) for each in Admin)),
        "liveness": Field(values=tuple(str(each) for each in Liveness)),
        "tag": Field("pairs"),
        "weight": _NUMBER,
        "priority": _NUMBER,
        "limit": _NUMBER,
        "note": Field(),
        "joined": _SPAN,
        "recent": Field(),
        "addresses": Field(values=("current", "other", "unknown")),
        "reason": Field(),
    },
    other={
        "name": "agent",
        "tags": "tag",
        "expires": "cert",
        "certificate": "cert",
        "address": "ip",
        "badges": "reason",
    },
    bare="agent",
    example="web-* status:no_response expires:<14d tag:site=a !group:db",
)

COMMANDS: Final = Language(
    fields={
        "id": Field(),
        "state": Field(values=tuple(str(each) for each in State)),
        "group": Field(),
        "agent": Field(),
        "client": Field(),
        "action": Field(),
        "connection": Field(),
        "program": Field(),
        "argv": Field(),
        "exit": _NUMBER,
        "attempts": _NUMBER,
        "took": _SPAN,
        "label": Field("pairs"),
        "since": Field("since", of="submitted"),
        "until": Field("until", of="submitted"),
        "ended": Field("since", of="ended"),
    },
    other={"labels": "label", "name": "id", "on": "agent", "by": "client", "submitted": "since"},
    bare="id",
    example="state:failed,lost label:deploy=42 client:ann program:apt* since:1d exit:!=0",
)

# Values of `was` and `what`: see `EventRecord`.
_STATUSES: Final = (*dict.fromkeys(str(each) for each in (*AgentStatus, *GroupStatus)),)
_HAPPENED: Final = (
    *_STATUSES,
    *("submitted", *(str(each) for each in State)),
    *("warning", "issued", "renewed", "refused", "revoked"),
    *("restarted", "overflowed"),
)
EVENTS: Final = Language(
    fields={
        "kind": Field(values=get_args(EventKind)),
        "name": Field(),
        "group": Field(),
        "what": Field(values=_HAPPENED),
        "was": Field(values=_STATUSES),
        "agent": Field(),
        "client": Field(),
        "cause": Field(),
        "detail": Field(),
    },
    other={"id": "name", "state": "what", "status": "what", "reason": "detail"},
    bare="name",
    example="kind:agent,group what:!=active group:web",
)


def agent_value(agent: AgentRecord, field: str, now: float) -> Value | None:  # noqa: PLR0911  (one per kind)
    """Return the value of a field of `AGENTS` at `now`, unix time; None if unknown.

    since, joined and silent are ages, cert is the time left; all in seconds.
    """
    match field:
        case "since":
            return ago_of(agent.since, now)
        case "joined":
            return ago_of(agent.joined, now)
        case "silent":
            return ago_of(agent.last_beat_at, now)
        case "cert":
            end = unix_of(agent.certificate.not_after) if agent.certificate else None
            return None if end is None else end - now
        case "load":
            return agent.running / room_of(agent) if room_of(agent) else None
        case "uptime":
            return agent.details.uptime_s or None
        case "version" | "host" | "ip" | "user":
            text: str = getattr(agent.details, field)
            return text
        case "tag":
            return agent.tags
        case "reason":
            return why(agent)
        case "running" | "slots" | "weight" | "priority" | "limit":
            return float(getattr(agent, field))
        case _:
            plain: str = getattr(agent, field)
            return plain


def room_of(agent: AgentRecord) -> int:
    """Return how many commands it may run at once: its own limit if that is less than its slots."""
    return min(agent.slots, agent.limit) if agent.limit else agent.slots


def passes(words: Sequence[Word], agent: AgentRecord, now: float) -> bool:
    """Whether all words, parsed by `AGENTS`, match `agent` at `now`, unix time."""
    return holds(words, lambda field: agent_value(agent, field, now))


def why(agent: AgentRecord) -> str:
    """Return the reason of the agent's status, and its warnings."""
    return "; ".join(text for text in (agent.reason, *agent.badges) if text)


def last_agent(record: CommandRecord) -> str:
    """Return the agent of its last attempt, or else of its target; empty for a group."""
    return record.attempts[-1].agent if record.attempts else record.agent or ""


def unix_of(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None


def ago_of(text: str | None, now: float) -> float | None:
    at = unix_of(text)
    return None if at is None else now - at


# Label of a retry: the id of the retried command.
RETRY_OF: Final = "retry-of"
