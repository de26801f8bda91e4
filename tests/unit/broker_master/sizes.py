"""The largest message of each type, from the limits of its fields.

A field without a limit in its type has one here, with the reason why it is never longer; without
either the type has no largest message, and whoever asks for it fails.
"""

import re
from collections.abc import Iterator
from itertools import product
from typing import Any, Final, NamedTuple

from msgspec import Raw, inspect

from broker_master.api import groups as group_api
from broker_master.api import renewal_orders as rotation_api
from broker_master.core import recent
from broker_master.core.certificates import KEPT_MAX
from broker_master.services import connection_tests, connection_views, output
from schemas import ids, limits
from schemas.argv import PROGRAM_LEN
from schemas.codec import encode
from schemas.faults import FAULTS
from schemas.messages.api.events import EVENT_DETAIL_LEN
from schemas.states import State
from tests.unit.schemas.catalogue import KINDS, Kind, name_of
from tests.unit.schemas.samples import fields

# Four bytes in UTF-8.
WIDE: Final = "\U0001f512"
_PATTERNS: Final = {
    ids.NAME_PATTERN: "n" * 63,
    ids.ID_PATTERN: "I" * 64,
    ids.TAG_NAME_PATTERN: "t" * 63,
    ids.TAG_VALUE_PATTERN: "v" * 63,
    ids.ACTION_PATTERN: "a" * 32,
}


class Bound(NamedTuple):
    """most: characters, bytes or members. why: what keeps it below that. item: of its members."""

    most: int
    why: str
    item: int = 0
    wide: bool = True


def _plain(most: int, why: str) -> Bound:
    return Bound(most, why, wide=False)


_TIME: Final = _plain(24, "RFC 3339 in UTC")
_NAME: Final = _plain(63, "a checked name")
_ID: Final = _plain(64, "a checked id")
_STATE: Final = _plain(max(map(len, State)), "one of the states")
_WORD: Final = _plain(32, "a word of the master's own, from a closed set")
_LINE: Final = Bound(limits.REASON_LEN, "a sentence of the master's with names and times in it")
_CUT: Final = Bound(limits.REASON_LEN, "cut by whoever takes it in")
_SAID: Final = Bound(limits.LABEL_LEN, "what an agent says of itself, limited in its own message")
_PEM: Final = _plain(16_384, "certificates of the mesh's own making, as in schemas.messages.enrol")
_CODE: Final = _plain(max(map(len, FAULTS)), "a code of the table")

BOUNDS: Final[dict[str, Bound]] = {
    # events
    "api.EventsAnswer.events": Bound(101, "the limit of the request, and a gap"),
    "api.EventsAnswer.cursor": _plain(31, "two numbers of at most 15 digits"),
    "api.EventRecord.at": _TIME,
    "api.EventRecord.kind": _WORD,
    "api.EventRecord.name": _ID,
    "api.EventRecord.group": _NAME,
    "api.EventRecord.what": _WORD,
    "api.EventRecord.was": _STATE,
    "api.EventRecord.agent": _NAME,
    "api.EventRecord.client": _NAME,
    "api.EventRecord.cause": _STATE,
    "api.EventRecord.detail": Bound(EVENT_DETAIL_LEN, "cut by the master"),
    # agents
    "api.AgentRecord.agent": _NAME,
    "api.AgentRecord.group": _NAME,
    "api.AgentRecord.status": _STATE,
    "api.AgentRecord.cause": _STATE,
    "api.AgentRecord.reason": _LINE,
    "api.AgentRecord.since": _TIME,
    "api.AgentRecord.next": _LINE,
    "api.AgentRecord.admin": _STATE,
    "api.AgentRecord.liveness": _STATE,
    "api.AgentRecord.badges": Bound(16, "one of each kind at most", item=256),
    "api.AgentRecord.last_beat_at": _TIME,
    "api.AgentRecord.returned": _LINE,
    "api.AgentRecord.note": Bound(limits.LABEL_LEN, "a Label of the request"),
    "api.AgentRecord.by": _NAME,
    "api.AgentRecord.until": _TIME,
    "api.AgentRecord.actions": Bound(limits.ACTIONS, "ActionNames of a hello", item=32, wide=False),
    "api.AgentRecord.joined": _TIME,
    "api.AgentRecord.recent": _plain(recent.LAST, "the letters that are kept"),
    "api.PingAnswer.agent": _NAME,
    "api.PingAnswer.status": _STATE,
    "api.PingAnswer.reason": _LINE,
    "api.AgentRecord.addresses": _STATE,
    "api.AgentRecord.tags": Bound(limits.TAGS, "Tags of the registry", item=63, wide=False),
    "api.DetailsRecord.id": _NAME,
    "api.DetailsRecord.ip": _plain(64, "an address as the broker writes it"),
    "api.DetailsRecord.host": _SAID,
    "api.DetailsRecord.user": _SAID,
    "api.DetailsRecord.version": _SAID,
    "api.CertificateRecord.serial": _plain(64, "hexadecimal, of our own authority"),
    "api.CertificateRecord.not_after": _TIME,
    "api.CertificateRecord.warning": Bound(512, "a sentence, and why a renewal failed (a Label)"),
    "api.HoldingRecord.kind": _WORD,
    "api.HoldingRecord.name": _NAME,
    "api.HoldingRecord.group": _NAME,
    "api.HoldingRecord.serial": _plain(64, "hexadecimal, of our own authority"),
    "api.HoldingRecord.not_after": _TIME,
    "api.HoldingRecord.warning": Bound(512, "a sentence, and why a renewal failed (a Label)"),
    "api.SilentRecord.agent": _NAME,
    "api.SilentRecord.group": _NAME,
    "api.SilentRecord.status": _STATE,
    "api.SilentRecord.silent_since": _TIME,
    "api.ForgetAnswer.agents": Bound(200, "the limit of AgentForget"),
    "api.ForgetAnswer.cursor": _NAME,
    "api.TokenAnswer.agent": _NAME,
    "api.TokenAnswer.group": _NAME,
    "api.TokenAnswer.token": _plain(32_768, "a seed, a certificate and the addresses, in base64"),
    "api.TokenAnswer.expires_at": _TIME,
    # groups and clients
    "api.GroupRecord.group": _NAME,
    "api.GroupRecord.status": _STATE,
    "api.GroupRecord.reason": _LINE,
    "api.GroupRecord.since": _TIME,
    "api.GroupRecord.agents": Bound(8, "one for each status", item=16, wide=False),
    "api.GroupRecord.badges": Bound(16, "one of each kind at most", item=256),
    "api.GroupRecord.next": _LINE,
    "api.GroupRecord.spread": Bound(group_api._SPREAD_MAX, "cut by group.show"),
    "api.SpreadRecord.agent": _NAME,
    "api.RotateAnswer.group": _NAME,
    "api.RotateAnswer.ordered": Bound(
        rotation_api._NAMED, "cut by group.rotate", item=63, wide=False
    ),
    "api.RotateAnswer.passed": Bound(rotation_api._PASSED_NAMED, "cut by group.rotate"),
    "api.Passed.agent": _NAME,
    "api.Passed.reason": Bound(rotation_api._REASON_SHOWN, "cut by group.rotate"),
    # connections
    "api.ConnectionRecord.connection": _NAME,
    "api.ConnectionRecord.kind": _NAME,
    "api.ConnectionRecord.group": _NAME,
    "api.ConnectionRecord.status": _STATE,
    "api.ConnectionRecord.reason": _LINE,
    "api.ConnectionRecord.since": _TIME,
    "api.ConnectionRecord.next": _LINE,
    "api.ConnectionRecord.actions": Bound(limits.ACTIONS, "ActionNames", item=32, wide=False),
    "api.ConnectionRecord.pin": _plain(64, "the limit of ConnectionPin"),
    "api.ConnectionRecord.note": Bound(limits.LABEL_LEN, "a Label of the request"),
    "api.ConnectionRecord.badges": Bound(4, "one of each kind at most", item=64),
    "api.ConnectionRecord.created_at": _TIME,
    "api.ConnectionRecord.created_by": _NAME,
    "api.ConnectionRecord.members": Bound(connection_views.MEMBERS_MAX, "cut by connection.show"),
    "api.ConnectionMember.agent": _NAME,
    "api.ConnectionMember.status": _STATE,
    "api.ConnectionMember.state": _WORD,
    "api.ConnectionMember.hash": _plain(64, "cut when it comes"),
    "api.ConnectionMember.problem": Bound(connection_views.TEXT_SHOWN, "cut by connection.show"),
    "api.ConnectionMember.shape": Bound(connection_views.TEXT_SHOWN, "cut by connection.show"),
    "api.ConnectionTestAnswer.connection": _NAME,
    "api.ConnectionTestAnswer.members": Bound(
        connection_tests.HOSTS_MAX, "as many as one test asks"
    ),
    "api.ConnectionTested.agent": _NAME,
    "api.ConnectionTested.result": _WORD,
    "api.ConnectionTested.steps": Bound(5, "the five names of a step", item=7, wide=False),
    "api.ConnectionTested.server": Bound(connection_tests.SERVER_LEN, "cut by connection.test"),
    "api.ConnectionTested.profile": _plain(64, "cut by connection.test"),
    "api.ConnectionTested.code": _plain(64, "cut by connection.test"),
    "api.ConnectionTested.reason": Bound(connection_tests.REASON_LEN, "cut by connection.test"),
    "api.ConnectionTested.command": _ID,
    "api.ClientRecord.client": _NAME,
    "api.ClientRecord.role": _WORD,
    "api.ClientRecord.groups": Bound(
        limits.MAP_LEN, "the limit of ClientCreate", item=63, wide=False
    ),
    "api.ClientRecord.created_at": _TIME,
    "api.ClientRecord.addresses": _STATE,
    "api.IdentityAnswer.mesh": _NAME,
    "api.IdentityAnswer.name": _NAME,
    "api.IdentityAnswer.role": _WORD,
    "api.IdentityAnswer.urls": Bound(
        32, "addresses of the broker: host names and ports", item=280, wide=False
    ),
    "api.IdentityAnswer.cert_pem": _PEM,
    "api.IdentityAnswer.ca_pem": _PEM,
    "api.IdentityAnswer.jwt": _PEM,
    "api.IdentityAnswer.serial": _plain(64, "hexadecimal, of our own authority"),
    "api.IdentityAnswer.not_after": _TIME,
    "api.TrustAnswer.ca_pem": _PEM,
    "api.CaAnswer.rotations": Bound(16, "one for each key that can be replaced"),
    "api.CaAnswer.note": _LINE,
    "api.RotationRecord.key": _WORD,
    "api.RotationRecord.stage": _WORD,
    "api.RotationRecord.since": _TIME,
    "api.RotationRecord.next": _WORD,
    "api.RotationRecord.not_after": _TIME,
    "api.RotationRecord.waiting_for": Bound(
        50, "cut by ca.show, which counts the rest", item=80, wide=False
    ),
    "api.StatusAnswer.mesh": _NAME,
    "api.StatusAnswer.version": _WORD,
    "api.StatusAnswer.started_at": _TIME,
    "api.StatusAnswer.agents": Bound(8, "one for each status", item=16, wide=False),
    "api.StatusAnswer.groups": Bound(8, "one for each status", item=16, wide=False),
    "api.StatusAnswer.commands": Bound(len(State), "one for each state", item=16, wide=False),
    "api.StatusAnswer.broker": _WORD,
    "api.StatusAnswer.at": _TIME,
    # Narrower than the type: a dozen sentences of the master's own.
    "api.StatusAnswer.notes": Bound(12, "one of each kind at most", item=limits.REASON_LEN),
    "api.Done.message": _LINE,
    "faults.FaultBody.code": _CODE,
    "faults.FaultBody.message": Bound(limits.REASON_LEN, "cut before it is sent"),
    "faults.FaultBody.retry": _WORD,
    "faults.FaultBody.advice": _plain(
        max(len(kind.advice) for kind in FAULTS.values()), "a sentence of the table"
    ),
    # commands
    "api.SubmitAnswer.id": _ID,
    "api.SubmitAnswer.state": _STATE,
    "api.SubmitAnswer.next": _LINE,
    "api.Gap.stream": _WORD,
    "api.LogsAnswer.id": _ID,
    "api.LogsAnswer.state": _STATE,
    "api.LogsAnswer.stdout": Bound(192 * 1024, "max_bytes of LogsRequest, for both together"),
    "api.LogsAnswer.stderr": Bound(1, "what stdout leaves of max_bytes"),
    "api.LogsAnswer.gaps": Bound(2, "one for each stream"),
    "api.LogsAnswer.marks": Bound(2 * output._PAGE_MESSAGES, "one for each chunk of a page"),
    "api.Mark.stream": _plain(6, "stdout or stderr"),
    "api.Mark.at": _TIME,
    "facts.AttemptRecord.agent": _NAME,
    "facts.AttemptRecord.state": _STATE,
    "facts.AttemptRecord.accepted_at": _TIME,
    "facts.AttemptRecord.started_at": _TIME,
    "facts.AttemptRecord.ended_at": _TIME,
    # As 0.1.0 has stored them: a late word beside what was said before.
    "facts.AttemptRecord.reason": Bound(2 * limits.TEXT_LEN + 100, "two Texts and the master's"),
    "facts.AttemptRecord.effect": _WORD,
    "facts.AttemptRecord.code": _plain(limits.LABEL_LEN, "the agent's"),
    "facts.CommandRecord.connection": _NAME,
    "facts.CommandRecord.result": Bound(
        1, "one name as large as all of it", wide=False, item=limits.RESULT_BYTES
    ),
    "facts.AttemptRecord.why": Bound(limits.LABEL_LEN + 100, "the master's, with a label's name"),
    "facts.CommandRecord.id": _ID,
    "facts.CommandRecord.group": _NAME,
    "facts.CommandRecord.agent": _NAME,
    "facts.CommandRecord.action": Bound(limits.LABEL_LEN, "a Label of the request"),
    "facts.CommandRecord.state": _STATE,
    "facts.CommandRecord.attempts": Bound(limits.ATTEMPTS, "ended after so many"),
    "facts.CommandRecord.submitted_at": _TIME,
    "facts.CommandRecord.client": _NAME,
    "facts.CommandRecord.reason": Bound(2 * limits.TEXT_LEN + 100, "two Texts and the master's"),
    "facts.CommandRecord.since": _TIME,
    "facts.CommandRecord.next": _LINE,
    "facts.CommandRecord.ended_at": _TIME,
    "facts.CommandRecord.labels": Bound(
        limits.LABELS + limits.OWN_LABELS, "those of facts.Accepted", item=limits.LABEL_LEN
    ),
    "facts.CommandRecord.last_output_at": _TIME,
    "api.CommandPage.filter": Bound(limits.FILTER_LEN, "as in CommandList"),
    "api.AgentsAnswer.filter": Bound(limits.FILTER_LEN, "as in AgentList"),
    "facts.CommandRecord.program": Bound(PROGRAM_LEN, "cut by schemas.argv"),
    # As in `command.show`: all that a request holds.
    "facts.ArgumentsRecord.argv": Bound(64, "came in one request", item=500),
    "facts.ArgumentsRecord.env": Bound(64, "came in one request", item=300),
    "facts.ArgumentsRecord.cwd": Bound(limits.TEXT_LEN, "a Text of ProcessArgs"),
    "facts.CommandRecord.cut": Bound(0, "none before it is cut"),
    "facts.HistoryRecord.digest": Bound(16, "a digest of that length"),
    "facts.Assigned.why": Bound(limits.LABEL_LEN + 100, "the master's, with a label's name"),
    "facts.Accepted.args": Bound(170 * 1024, "came in one request together with its labels"),
    "facts.Accepted.digest": Bound(16, "a digest of that length"),
    "work.Output.stdout": Bound(128 * 1024, "cut by the master; both are in one message"),
    "work.Output.stderr": Bound(127 * 1024, "cut by the master; both are in one message"),
    "facts.Outcome.output": Bound(limits.INLINE_OUTPUT_BYTES, "cut by fit_outcome"),
    # fan-outs
    "fanouts.FanoutMember.agent": _NAME,
    "fanouts.FanoutMember.command": _ID,
    "fanouts.FanoutMember.state": _STATE,
    "fanouts.FanoutMember.reason": Bound(160, "cut by fanout.show"),
    "fanouts.FanoutMember.ended_at": _TIME,
    "fanouts.FanoutRecord.id": _ID,
    "fanouts.FanoutRecord.client": _NAME,
    "fanouts.FanoutRecord.state": _STATE,
    "fanouts.FanoutRecord.reason": _LINE,
    "fanouts.FanoutRecord.submitted_at": _TIME,
    "fanouts.FanoutRecord.ended_at": _TIME,
    "fanouts.FanoutRecord.counts": Bound(len(State) + 2, "one for each state", item=16, wide=False),
    "fanouts.FanoutRecord.members": Bound(0, "a page of them is judged apart"),
    "fanouts.FanoutRecord.cursor": _NAME,
    "fanouts.FanoutRecord.retry_of": _ID,
    "fanouts.FanoutRecord.program": Bound(PROGRAM_LEN, "cut by schemas.argv"),
    # what is stored of identities
    "registry.AgentEntry.certificates": Bound(KEPT_MAX + 16, "refused beyond that; new tokens"),
    "registry.ClientEntry.certificates": Bound(17, "refused beyond that by client.renew"),
    "registry.ClientEntry.groups": Bound(
        limits.MAP_LEN, "the limit of ClientCreate", item=63, wide=False
    ),
    # Narrower than the types: made by the master itself.
    "registry.ConnectionEntry.actions": Bound(limits.ACTIONS, "the limit of the request"),
    "registry.CertificateEntry.serial": _plain(64, "hexadecimal, of our own authority"),
    "registry.CertificateEntry.fingerprint": _plain(64, "SHA-256 in hexadecimal"),
    "registry.CertificateEntry.user_nkey": _plain(56, "a public key of the broker's kind, checked"),
    "enrol.EnrolAnswer.urls": Bound(
        32, "addresses of the broker: host names and ports", item=280, wide=False
    ),
    "enrol.EnrolAnswer.cert_pem": _PEM,
    "enrol.EnrolAnswer.ca_pem": _PEM,
    "enrol.EnrolAnswer.jwt": _PEM,
    # Narrower than the types: an agent's own states.
    "liveness.TaskStatus.state": _STATE,
    "liveness.Welcome.refused": _CODE,
    "audit.AuditEntry.detail": Bound(limits.TEXT_LEN, "cut by fit_entry"),
    "api.AuditRecord.at": _TIME,
    "api.AuditRecord.actor": _WORD,
    "api.AuditRecord.result": _WORD,
    **{
        f"api.AuditRecord.{field}": Bound(limits.LABEL_LEN, "as in audit.AuditEntry")
        for field in ("by", "address", "action", "target", "group", "code")
    },
    "api.AuditRecord.detail": Bound(limits.TEXT_LEN, "as in audit.AuditEntry"),
}


def largest(kind: Kind, **given: object) -> Any:  # noqa: ANN401  a message of `kind`
    """The message of `kind` that is longest in each of its fields, but for those that are given."""
    made = {
        field.name: given[field.name]
        if field.name in given
        else _largest(field.type, f"{name_of(kind)}.{field.name}")
        for field in fields(kind)
    }
    return kind(**made)


def _largest(kind: inspect.Type, path: str) -> object:  # noqa: C901, PLR0911, PLR0912 - one for each kind of type
    bound = BOUNDS.get(path)
    match kind:
        case inspect.StrType():
            return _text(kind, path, bound)
        case inspect.BytesType():
            return bytes(_most(kind.max_length, path, bound))
        case inspect.BoolType():
            return True
        case inspect.IntType():
            return 2**53 if kind.le is None else kind.le
        case inspect.FloatType():
            return float(1e9 + 0.5 if kind.le is None else kind.le) - 0.25
        case inspect.NoneType():
            return None
        case inspect.LiteralType():
            return max(kind.values, key=lambda value: len(str(value)))
        case inspect.UnionType():
            return max((_largest(each, path) for each in kind.types), key=_size)
        case inspect.StructType():
            return largest(kind.cls)
        case inspect.AnyType():
            return None
        case inspect.RawType():
            return raw_of(_most(None, path, bound))
        case inspect.ListType():
            most = _most(kind.max_length, path, bound)
            return [_item(kind.item_type, path, bound)] * most if most else []
        case inspect.DictType():
            most = _most(kind.max_length, path, bound)
            key = str(_item(kind.key_type, path, bound))
            value = _item(kind.value_type, path, bound)
            return {key[: -len(mark)] + mark: value for mark in _marks(most)}
    raise TypeError(f"no largest value for {path}: {kind}")


def _item(kind: inspect.Type, path: str, bound: Bound | None) -> object:
    """One member: its own limits, or those that its list has here."""
    if isinstance(kind, inspect.StrType) and bound is not None and bound.item:
        return (WIDE if bound.wide else "x") * bound.item
    return _largest(kind, f"{path}[]")


def _text(kind: inspect.StrType, path: str, bound: Bound | None) -> str:
    if bound is not None:
        return (WIDE if bound.wide else "x") * bound.most
    if kind.pattern is not None:
        text = _PATTERNS[kind.pattern]
        assert re.search(kind.pattern, text)
        assert not re.search(kind.pattern, text + text[-1])
        return text
    return WIDE * _most(kind.max_length, path, None)


def _most(max_length: int | None, path: str, bound: Bound | None) -> int:
    most = max_length if bound is None else bound.most
    assert most is not None, f"{path} has no limit, neither in its type nor in BOUNDS"
    return most


def _marks(count: int) -> Iterator[str]:
    """So many different ends of equal length."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    for index, pair in enumerate(product(letters, letters)):
        if index == count:
            return
        yield "".join(pair)


def _size(value: object) -> int:
    return len(encode(value))


def raw_of(size_bytes: int) -> Raw:
    """Arguments of a program that are so many bytes long, to a few."""
    return Raw(encode({"argv": ["x"], "stdin": bytes(max(0, size_bytes - 20))}))


def unused_bounds() -> set[str]:
    """Of types or fields that there are no more."""
    known = {f"{name}.{field.name}" for name, kind in KINDS.items() for field in fields(kind)}
    return set(BOUNDS) - known
