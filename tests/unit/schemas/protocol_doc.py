"""The generated sections of docs/protocol.md: tables that follow from the types and the data.

    python -m tests.unit.schemas.protocol_doc --write

rewrites what stands between the markers and leaves the prose alone.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import inspect

from schemas import limits
from schemas.faults import FAULTS, FaultBody
from schemas.messages import (
    api,
    audit,
    enrol,
    facts,
    fanouts,
    fields,
    liveness,
    registry,
    renewal,
    work,
)
from schemas.messages.actions import ACTIONS
from schemas.messages.facts import FACTS
from schemas.permissions import CLIENT_ROLES, SCOPES
from schemas.states import MOVES, TERMINAL, State
from schemas.timers import Timers
from schemas.verbs import VERBS
from tests.unit.schemas.catalogue import Kind
from tests.unit.schemas.samples import fields as fields_of

PATH: Final = Path(__file__).resolve().parents[3] / "docs" / "protocol.md"


_SHAPES: Final = (
    (inspect.type_info(fields.Name), "name"),
    (inspect.type_info(fields.CommandId), "id"),
)
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


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def verbs() -> str:
    return table(
        ["verb", "request", "answer", "what", *CLIENT_ROLES],
        [
            [
                f"`{name}`",
                _link(verb.request),
                _link(verb.answer),
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
        ["last token", "message"], [[f"`{name}`", _link(kind)] for name, kind in FACTS.items()]
    )


def messages(*kinds: Kind) -> Callable[[], str]:
    return lambda: "\n\n".join(_message(kind) for kind in kinds)


def _message(kind: Kind) -> str:
    rows = [
        [f"`{field.encode_name}`", _type(field.type), _default(field)] for field in fields_of(kind)
    ]
    parts = [f"#### {kind.__name__}", _docstring(kind)]
    parts.append(table(["field", "type", "default"], rows) if rows else "No fields: an empty map.")
    return "\n\n".join(part for part in parts if part)


def _docstring(kind: Kind) -> str:
    """As it is, but in words of the wire."""
    text = re.sub(r"\n[ ]+", "\n", kind.__dict__.get("__doc__") or "")
    return re.sub(r"\bNone\b", "nil", text).strip()


def _link(kind: type[Any]) -> str:
    return f"[{kind.__name__}](#{kind.__name__.lower()})"


def _default(field: inspect.Field) -> str:
    if field.required:
        return "**required**"
    if field.default_factory is not msgspec.NODEFAULT:
        return _literal(field.default_factory())
    return _literal(field.default)


def _literal(value: object) -> str:
    match value:
        case msgspec.Struct() | {}:
            return "`{}`"
        case msgspec.Raw():
            return "`{}`"
        case None | bool():
            return {None: "nil", True: "`true`", False: "`false`"}[value]
        case bytes():
            return f'`b"{value.decode()}"`'
        case str():
            return f'`"{value}"`'
        case float():
            return f"`{value:g}`"
    return f"`{value}`"


def _type(kind: inspect.Type) -> str:  # noqa: C901, PLR0911 - a case per type
    for shape, word in _SHAPES:
        if kind == shape:
            return word
    match kind:
        case inspect.StrType() | inspect.BytesType():
            word = "text" if isinstance(kind, inspect.StrType) else "bytes"
            return word + _length(kind)
        case inspect.IntType() | inspect.FloatType():
            return ("integer" if isinstance(kind, inspect.IntType) else "number") + _range(kind)
        case inspect.BoolType():
            return "boolean"
        case inspect.NoneType():
            return "nil"
        case inspect.RawType():
            return "map, see [actions](#actions)"
        case inspect.LiteralType():
            return " or ".join(f'`"{value}"`' for value in kind.values)
        case inspect.UnionType():
            ordered = sorted(kind.types, key=lambda one: isinstance(one, inspect.NoneType))
            return " or ".join(_type(one) for one in ordered)
        case inspect.StructType():
            return _link(kind.cls)
        case inspect.ListType():
            return f"list of {_type(kind.item_type)}{_count(kind)}"
        case inspect.DictType():
            return f"map of {_type(kind.key_type)} to {_type(kind.value_type)}{_count(kind)}"
    raise TypeError(f"no words for {kind}")


def _length(kind: inspect.StrType | inspect.BytesType) -> str:
    unit = "characters" if isinstance(kind, inspect.StrType) else "bytes"
    if kind.min_length:
        return f", {kind.min_length} to {kind.max_length} {unit}"
    return f", at most {kind.max_length} {unit}" if kind.max_length else ""


def _count(kind: inspect.ListType | inspect.DictType) -> str:
    least = f", at least {kind.min_length}" if kind.min_length else ""
    return least + (f", at most {kind.max_length}" if kind.max_length else "")


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    low = f"≥ {kind.ge:.16g}" if kind.ge is not None else ""
    low = f"> {kind.gt:.16g}" if kind.gt is not None else low
    high = f"≤ {kind.le:.16g}" if kind.le is not None else ""
    bounds_ = [bound for bound in (low, high) if bound]
    return " " + ", ".join(bounds_) if bounds_ else ""


def actions() -> str:
    lines = [
        "| `action` | does | arguments | takes a slot | a lost attempt may have had an effect |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{action.name}` | {action.does} | {_link(action.args)} |"
        f" {'yes' if action.takes_slot else 'no'} |"
        f" {'no' if action.effect == 'none' else 'yes'} |"
        for action in ACTIONS.values()
    ]
    return "\n".join(lines)


def _requests() -> list[Kind]:
    """Of all verbs, in their order; fan-outs and renewals have sections of their own."""
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
        facts.CommandRecord,
        facts.ArgumentsRecord,
        facts.AttemptRecord,
        work.Output,
        api.CommandPage,
        api.LogsAnswer,
        api.Gap,
        api.AgentRecord,
        api.CertificateRecord,
        api.DetailsRecord,
        api.AgentsAnswer,
        api.SilentRecord,
        api.ForgetAnswer,
        api.GroupRecord,
        api.SpreadRecord,
        api.GroupsAnswer,
        api.RotateAnswer,
        api.Passed,
        api.ClientRecord,
        api.ClientsAnswer,
        api.TokenAnswer,
        api.IdentityAnswer,
        api.StatusAnswer,
        api.AuditPage,
        api.AuditRecord,
        api.Done,
        api.CertificatesAnswer,
        api.HoldingRecord,
        api.TrustAnswer,
        api.CaAnswer,
        api.RotationRecord,
    ),
    "action-table": actions,
    "actions": messages(*(action.args for action in ACTIONS.values())),
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
        registry.RevocationEntry,
    ),
}
_SECTION: Final = re.compile(
    r"(?P<begin><!-- generated: (?P<name>[a-z-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)


def generated(document: str) -> str:
    """`document` with each section between markers made anew."""
    return _SECTION.sub(
        lambda match: f"{match['begin']}\n{SECTIONS[match['name']]()}\n\n{match['end']}", document
    )


def section_names(document: str) -> list[str]:
    return [match["name"] for match in _SECTION.finditer(document)]


def main(arguments: list[str]) -> int:
    if arguments != ["--write"]:
        sys.stderr.write("say --write to rewrite the generated sections of docs/protocol.md\n")
        return 2
    PATH.write_text(generated(PATH.read_text()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
