"""The verbs of the mesh: the requests of clients to the master, in one table.

Derived from it are the broker's permissions of a role, the master's own check of rights, the
audited verbs, service discovery, the types of handlers and answers, and the table of
docs/protocol.md. A verb without a handler, or a handler without a verb, fails the start of a
master.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from types import MappingProxyType
from typing import Final, Generic, Literal, TypeVar

import msgspec

from schemas.messages import api, facts, fanouts, renewal

Request = TypeVar("Request", bound=msgspec.Struct)
Answer = TypeVar("Answer", bound=msgspec.Struct)
Role = Literal["viewer", "operator", "admin"]

# Each role may do what those before it may.
ROLES: Final[tuple[Role, ...]] = ("viewer", "operator", "admin")


@dataclass(frozen=True)
class AnyVerb:
    """A verb of any types. role: the weakest that may call it.

    changes: each call leaves an entry in the audit trail; is_recorded: it leaves none, since
    history has the command.
    """

    noun: str
    verb: str
    request: type[msgspec.Struct]
    answer: type[msgspec.Struct]
    _: KW_ONLY
    role: Role
    changes: bool
    does: str
    is_recorded: bool = False

    @property
    def name(self) -> str:
        return f"{self.noun}.{self.verb}"

    @property
    def is_audited(self) -> bool:
        return self.changes and not self.is_recorded

    def is_for(self, role: str) -> bool:
        return role in ROLES[ROLES.index(self.role) :]


@dataclass(frozen=True)
class Verb(AnyVerb, Generic[Request, Answer]):
    """A verb with the types of its request and its answer, for the type checker."""

    request: type[Request]
    answer: type[Answer]


# A verb is two lines: its request and answer, then its role and its meaning.
# fmt: off
COMMAND_SUBMIT: Final = Verb("command", "submit", api.SubmitRequest, api.SubmitAnswer,
    role="operator", changes=True, is_recorded=True, does="take a command in")
COMMAND_SHOW: Final = Verb("command", "show", api.CommandQuery, facts.CommandRecord,
    role="viewer", changes=False, does="one command as it stands")
COMMAND_LIST: Final = Verb("command", "list", api.CommandList, api.CommandPage,
    role="viewer", changes=False, does="a page of commands")
COMMAND_WAIT: Final = Verb("command", "wait", api.CommandQuery, facts.CommandRecord,
    role="viewer", changes=False, does="its record once it has ended, or after `timeout_s`")
COMMAND_CANCEL: Final = Verb("command", "cancel", api.CommandQuery, facts.CommandRecord,
    role="operator", changes=True, does="cancel the command")
COMMAND_RETRY: Final = Verb("command", "retry", api.RetryRequest, api.SubmitAnswer,
    role="operator", changes=True, does="submit what has ended again, under a new id")
COMMAND_LOGS: Final = Verb("command", "logs", api.LogsRequest, api.LogsAnswer,
    role="viewer", changes=False, does="output from two offsets on")
COMMAND_DECIDE: Final = Verb("command", "decide", api.DecideRequest, facts.CommandRecord,
    role="operator", changes=True, does="decide about a lost attempt")

DEADLETTER_LIST: Final = Verb("deadletter", "list", api.CommandList, api.CommandPage,
    role="viewer", changes=False, does="commands without acknowledgement")
DEADLETTER_SHOW: Final = Verb("deadletter", "show", api.CommandQuery, facts.CommandRecord,
    role="viewer", changes=False, does="one dead letter")
DEADLETTER_RETRY: Final = Verb("deadletter", "retry", api.RetryRequest, api.SubmitAnswer,
    role="operator", changes=True, does="submit a dead letter again")

FANOUT_SUBMIT: Final = Verb("fanout", "submit", fanouts.FanoutSubmit, fanouts.FanoutRecord,
    role="operator", changes=True, does="one command for many agents")
FANOUT_SHOW: Final = Verb("fanout", "show", fanouts.FanoutQuery, fanouts.FanoutRecord,
    role="viewer", changes=False, does="a fan-out as it stands")
FANOUT_LIST: Final = Verb("fanout", "list", fanouts.FanoutList, fanouts.FanoutsAnswer,
    role="viewer", changes=False, does="the newest fan-outs")
FANOUT_WAIT: Final = Verb("fanout", "wait", fanouts.FanoutQuery, fanouts.FanoutRecord,
    role="viewer", changes=False, does="its record once it has ended, or after `timeout_s`")
FANOUT_CANCEL: Final = Verb("fanout", "cancel", fanouts.FanoutQuery, fanouts.FanoutRecord,
    role="operator", changes=True, does="start no more commands, cancel the open ones")
FANOUT_RETRY: Final = Verb("fanout", "retry", fanouts.FanoutRetry, fanouts.FanoutRecord,
    role="operator", changes=True, does="run an ended one again, where it failed or everywhere")

AGENT_CREATE: Final = Verb("agent", "create", api.AgentCreate, api.TokenAnswer,
    role="admin", changes=True, does="enter an agent, get its token")
AGENT_TOKEN: Final = Verb("agent", "token", api.AgentCreate, api.TokenAnswer,
    role="admin", changes=True, does="a new token for an agent")
AGENT_SET: Final = Verb("agent", "set", api.AgentSet, api.AgentRecord,
    role="admin", changes=True, does="change its tags, weight, priority, limit")
AGENT_SHOW: Final = Verb("agent", "show", api.NameQuery, api.AgentRecord,
    role="viewer", changes=False, does="one agent")
AGENT_LIST: Final = Verb("agent", "list", api.AgentList, api.AgentsAnswer,
    role="viewer", changes=False, does="agents by name")
AGENT_PING: Final = Verb("agent", "ping", api.AgentPing, api.PingAnswer,
    role="viewer", changes=False, does="whether it answers, and how fast")
AGENT_ENABLE: Final = Verb("agent", "enable", api.NameQuery, api.Done,
    role="operator", changes=True, does="give it work again")
AGENT_DISABLE: Final = Verb("agent", "disable", api.AgentDisable, api.Done,
    role="operator", changes=True, does="give it nothing new")
AGENT_PAUSE: Final = Verb("agent", "pause", api.AgentPause, api.Done,
    role="operator", changes=True, does="as `agent.disable`, for a time")
AGENT_MOVE: Final = Verb("agent", "move", api.AgentMove, api.Done,
    role="admin", changes=True, does="into another group, once it is empty")
AGENT_FORGET: Final = Verb("agent", "forget", api.AgentForget, api.ForgetAnswer,
    role="admin", changes=True, does="delete those silent for long")
AGENT_ROTATE: Final = Verb("agent", "rotate", api.NameQuery, api.Done,
    role="admin", changes=True, does="make it renew its certificate now")
AGENT_REVOKE: Final = Verb("agent", "revoke", api.NameQuery, api.Done,
    role="admin", changes=True, does="take its credentials away")
AGENT_DELETE: Final = Verb("agent", "delete", api.NameQuery, api.Done,
    role="admin", changes=True, does="revoke it and forget it")

GROUP_CREATE: Final = Verb("group", "create", api.GroupCreate, api.GroupRecord,
    role="admin", changes=True, does="make a group")
GROUP_SET: Final = Verb("group", "set", api.GroupSet, api.GroupRecord,
    role="admin", changes=True, does="change how it shares its work")
GROUP_SHOW: Final = Verb("group", "show", api.NameQuery, api.GroupRecord,
    role="viewer", changes=False, does="one group")
GROUP_LIST: Final = Verb("group", "list", api.GroupList, api.GroupsAnswer,
    role="viewer", changes=False, does="groups by name")
GROUP_ROTATE: Final = Verb("group", "rotate", api.NameQuery, api.RotateAnswer,
    role="admin", changes=True, does="make all of its agents renew their certificates")
GROUP_DELETE: Final = Verb("group", "delete", api.NameQuery, api.Done,
    role="admin", changes=True, does="delete an empty group")

CLIENT_CREATE: Final = Verb("client", "create", api.ClientCreate, api.IdentityAnswer,
    role="admin", changes=True, does="sign keys for a new client")
CLIENT_LIST: Final = Verb("client", "list", api.ClientList, api.ClientsAnswer,
    role="admin", changes=False, does="clients by name")
CLIENT_REVOKE: Final = Verb("client", "revoke", api.NameQuery, api.Done,
    role="admin", changes=True, does="take its credentials away")
CLIENT_RENEW: Final = Verb("client", "renew", renewal.RenewalRequest, api.IdentityAnswer,
    role="viewer", changes=True, does="a new certificate for the caller itself")

AUDIT_LIST: Final = Verb("audit", "list", api.AuditQuery, api.AuditPage,
    role="admin", changes=False, does="the audit trail, the newest first")

EVENTS_LIST: Final = Verb("events", "list", api.EventList, api.EventsAnswer,
    role="viewer", changes=False, does="what happened, and what happens within `wait_s`")

CERTIFICATE_LIST: Final = Verb("certificate", "list", api.CertificateList, api.CertificatesAnswer,
    role="viewer", changes=False, does="certificates, the first to expire first")
CERTIFICATE_TRUST: Final = Verb("certificate", "trust", api.TrustQuery, api.TrustAnswer,
    role="viewer", changes=False, does="trusted authorities, and whether to renew now")

CA_SHOW: Final = Verb("ca", "show", api.NoQuery, api.CaAnswer,
    role="admin", changes=False, does="the authority and the signing keys")
CA_ROTATE: Final = Verb("ca", "rotate", api.CaRotate, api.CaAnswer,
    role="admin", changes=True, does="one step of the rotation of one key")

MESH_STATUS: Final = Verb("mesh", "status", api.NoQuery, api.StatusAnswer,
    role="viewer", changes=False, does="the mesh at a glance")
# fmt: on


def _table(names: Mapping[str, object]) -> dict[str, AnyVerb]:
    """Return the verbs of this module by name, in the order of docs/protocol.md."""
    verbs = [each for each in names.values() if isinstance(each, AnyVerb)]
    table = {each.name: each for each in verbs}
    if len(table) != len(verbs):
        raise ValueError("two verbs have the same noun and verb")
    return table


VERBS: Final[Mapping[str, AnyVerb]] = MappingProxyType(_table(globals()))
