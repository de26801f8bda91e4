"""The generated sections of docs/protocol.md: tables that follow from the types and the data."""

import re
from collections.abc import Callable
from typing import Final

from schemas import limits
from schemas.faults import FAULTS, FaultBody
from schemas.messages import (
    api,
    audit,
    enrol,
    facts,
    fanouts,
    liveness,
    registry,
    renewal,
    work,
)
from schemas.messages.actions import ACTIONS, StagedInput
from schemas.messages.facts import FACTS
from schemas.permissions import CLIENT_ROLES, SCOPES
from schemas.states import MOVES, TERMINAL, State
from schemas.timers import Timers
from schemas.verbs import VERBS
from tools.sections import table
from tools.shapes import Kind, default, fields_of, link, words

_WORDS: Final[dict[State, str]] = {
    State.QUEUED: "accepted by the master, no agent yet",
    State.SENT: "on its way to an agent, not acknowledged",
    State.ACCEPTED: "the agent has it in its journal",
    State.RUNNING: "started",
    State.UNKNOWN: "the agent is silent; what was known stays in the attempt's `reason`",
    State.STOPPING: "a cancel, a time limit or a lost lease is ending it",
    State.SUCCEEDED: "ended with exit code 0",
    State.FAILED: "ended with another exit code, or could not be started",
    State.TIMED_OUT: "ended because `timeout_s` had passed",
    State.CANCELLED: "ended because somebody asked for it",
    State.REJECTED: "no agent would take it",
    State.EXPIRED: "waited for an agent longer than `queue_ttl_s`",
    State.UNDELIVERABLE: "sent as often as allowed and never acknowledged",
    State.KILLED_FENCED: "ended by its agent, which had lost its master",
    State.LOST: "the agent was silent too long; may be amended by what it says later",
}


def verbs() -> str:
    return table(
        ["verb", "request", "answer", "what", *CLIENT_ROLES],
        [
            [
                f"`{name}`",
                link(verb.request),
                link(verb.answer),
                verb.does,
                *("yes" if verb.is_for(role) else "" for role in CLIENT_ROLES),
            ]
            for name, verb in VERBS.items()
        ],
    )


def faults() -> str:
    return table(
        ["code", "number", "retry", "exit code of `mesh`", "what to do"],
        [
            [f"`{code}`", str(kind.number), kind.retry, str(kind.exit_code), kind.advice]
            for code, kind in FAULTS.items()
        ],
    )


def states() -> str:
    return table(
        ["state", "end", "means", "may become"],
        [
            [
                f"`{state}`",
                "yes" if state in TERMINAL else "",
                _WORDS[state],
                " ".join(f"`{new}`" for new in State if new in MOVES.get(state, ())),
            ]
            for state in State
        ],
    )


def roles() -> str:
    return table(
        ["role", "may publish to", "may subscribe to", "subscriptions", "bytes per message"],
        [
            [
                role,
                "<br>".join(f"`{one}`" for one in scope.publish),
                "<br>".join(f"`{one}`" for one in scope.subscribe),
                str(scope.subscriptions),
                str(scope.payload_bytes),
            ]
            for role, scope in SCOPES.items()
        ],
    )


def bounds() -> str:
    numbers = {name: value for name, value in vars(limits).items() if name.isupper()}
    return table(
        ["limit", "value"],
        [[f"`{name}`", f"{value:.16g}"] for name, value in numbers.items()],
    )


def fact_kinds() -> str:
    return table(
        ["last token", "message"], [[f"`{name}`", link(kind)] for name, kind in FACTS.items()]
    )


def messages(*kinds: Kind) -> Callable[[], str]:
    return lambda: "\n\n".join(_message(kind) for kind in kinds)


def _message(kind: Kind) -> str:
    rows = [
        [f"`{field.encode_name}`", words(field.type), default(field)] for field in fields_of(kind)
    ]
    parts = [f"#### {kind.__name__}", _docstring(kind)]
    parts.append(table(["field", "type", "default"], rows) if rows else "No fields: an empty map.")
    return "\n\n".join(part for part in parts if part)


def _docstring(kind: Kind) -> str:
    """Return the docstring of a message with the names of the wire."""
    text = re.sub(r"\n[ ]+", "\n", kind.__dict__.get("__doc__") or "")
    return re.sub(r"\bNone\b", "nil", text).strip()


def actions() -> str:
    return table(
        ["`action`", "does", "arguments", "takes a slot", "a lost attempt may have had an effect"],
        [
            [
                f"`{action.name}`",
                action.does,
                link(action.args),
                "yes" if action.takes_slot else "no",
                "no" if action.effect == "none" else "yes",
            ]
            for action in ACTIONS.values()
        ],
    )


def _requests() -> list[Kind]:
    """Return the requests of all verbs, in order; fan-outs and renewals have their own sections."""
    kinds = dict.fromkeys(verb.request for verb in VERBS.values())
    return [kind for kind in kinds if kind.__module__.startswith(api.__name__)]


SECTIONS: Final[dict[str, Callable[[], str]]] = {
    "roles": roles,
    "limits": bounds,
    "verbs": verbs,
    "requests": messages(*_requests(), registry.Policy),
    "fanouts": messages(
        fanouts.FanoutSubmit,
        fanouts.FanoutQuery,
        fanouts.FanoutRetry,
        fanouts.FanoutList,
        fanouts.FanoutRecord,
        fanouts.FanoutMember,
        fanouts.FanoutsAnswer,
        fanouts.FanoutEntry,
    ),
    "answers": messages(
        api.SubmitAnswer,
        api.InputAnswer,
        facts.CommandRecord,
        facts.ArgumentsRecord,
        facts.AttemptRecord,
        work.Output,
        api.CommandPage,
        api.LogsAnswer,
        api.Gap,
        api.Mark,
        api.AgentRecord,
        api.CertificateRecord,
        api.DetailsRecord,
        api.PingAnswer,
        api.AgentsAnswer,
        api.SilentRecord,
        api.ForgetAnswer,
        api.GroupRecord,
        api.SpreadRecord,
        api.GroupsAnswer,
        api.ConnectionRecord,
        api.ConnectionMember,
        api.ConnectionsAnswer,
        api.ConnectionTestAnswer,
        api.ConnectionTested,
        api.RotateAnswer,
        api.Passed,
        api.ClientRecord,
        api.ClientsAnswer,
        api.TokenAnswer,
        api.IdentityAnswer,
        api.StatusAnswer,
        api.AuditPage,
        api.AuditRecord,
        api.EventsAnswer,
        api.EventRecord,
        api.Done,
        api.CertificatesAnswer,
        api.HoldingRecord,
        api.TrustAnswer,
        api.CaAnswer,
        api.RotationRecord,
    ),
    "action-table": actions,
    "actions": messages(*(action.args for action in ACTIONS.values()), StagedInput),
    "states": states,
    "fault-body": messages(FaultBody),
    "faults": faults,
    "enrolment": messages(enrol.EnrolRequest, enrol.EnrolAnswer),
    "renewal": messages(renewal.RenewalRequest, renewal.SelfTest, renewal.Confirmed),
    "liveness": messages(
        liveness.Beat,
        liveness.Echo,
        liveness.Hello,
        liveness.Details,
        liveness.TaskStatus,
        liveness.Welcome,
        liveness.TaskDecision,
        liveness.Profiles,
        liveness.ProfileStatus,
        Timers,
    ),
    "work": messages(
        work.Run,
        work.RunReply,
        work.Control,
        work.ControlReply,
        work.Report,
        work.AttemptReport,
        work.Release,
        work.Released,
        work.InputRequest,
        work.InputReply,
        work.LogChunk,
    ),
    "fact-kinds": fact_kinds,
    "audit": messages(audit.AuditEntry),
    "facts": messages(*dict.fromkeys(FACTS.values()), facts.Terms, facts.HistoryRecord),
    "registry": messages(
        registry.MeshEntry,
        registry.GroupEntry,
        registry.AgentEntry,
        registry.AdminTerm,
        registry.Traits,
        registry.TokenEntry,
        registry.CertificateEntry,
        registry.ClientEntry,
        registry.ConnectionEntry,
        registry.RevocationEntry,
    ),
}
