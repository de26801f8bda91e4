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

from schemas.messages import facts, fanouts, renewal
from schemas.messages.api import (
    agents,
    audit,
    base,
    certificates,
    clients,
    commands,
    connections,
    events,
    groups,
    mesh,
)

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
COMMAND_SUBMIT: Final = Verb("command", "submit", commands.SubmitRequest, commands.SubmitAnswer,
    role="operator", changes=True, is_recorded=True, does="take a command in")
COMMAND_INPUT: Final = Verb("command", "input", commands.InputPart, commands.InputAnswer,
    role="operator", changes=True, is_recorded=True,
    does="store a part of the input of a command to come")
COMMAND_SHOW: Final = Verb("command", "show", commands.CommandQuery, facts.CommandRecord,
    role="viewer", changes=False, does="one command as it stands")
COMMAND_LIST: Final = Verb("command", "list", commands.CommandList, commands.CommandPage,
    role="viewer", changes=False, does="a page of commands")
COMMAND_WAIT: Final = Verb("command", "wait", commands.CommandQuery, facts.CommandRecord,
    role="viewer", changes=False, does="its record once it has ended, or after `timeout_s`")
COMMAND_CANCEL: Final = Verb("command", "cancel", commands.CommandQuery, facts.CommandRecord,
    role="operator", changes=True, does="cancel the command")
COMMAND_RETRY: Final = Verb("command", "retry", commands.RetryRequest, commands.SubmitAnswer,
    role="operator", changes=True, does="submit what has ended again, under a new id")
COMMAND_LOGS: Final = Verb("command", "logs", commands.LogsRequest, commands.LogsAnswer,
    role="viewer", changes=False, does="output from two offsets on")
COMMAND_DECIDE: Final = Verb("command", "decide", commands.DecideRequest, facts.CommandRecord,
    role="operator", changes=True, does="decide about a lost attempt")

DEADLETTER_LIST: Final = Verb("deadletter", "list", commands.CommandList, commands.CommandPage,
    role="viewer", changes=False, does="commands without acknowledgement")
DEADLETTER_SHOW: Final = Verb("deadletter", "show", commands.CommandQuery, facts.CommandRecord,
    role="viewer", changes=False, does="one dead letter")
DEADLETTER_RETRY: Final = Verb("deadletter", "retry", commands.RetryRequest, commands.SubmitAnswer,
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

AGENT_CREATE: Final = Verb("agent", "create", agents.AgentCreate, agents.TokenAnswer,
    role="admin", changes=True, does="enter an agent, get its token")
AGENT_TOKEN: Final = Verb("agent", "token", agents.AgentCreate, agents.TokenAnswer,
    role="admin", changes=True, does="a new token for an agent")
AGENT_SET: Final = Verb("agent", "set", agents.AgentSet, agents.AgentRecord,
    role="admin", changes=True, does="change its tags, weight, priority, limit")
AGENT_SHOW: Final = Verb("agent", "show", base.NameQuery, agents.AgentRecord,
    role="viewer", changes=False, does="one agent")
AGENT_LIST: Final = Verb("agent", "list", agents.AgentList, agents.AgentsAnswer,
    role="viewer", changes=False, does="agents by name")
AGENT_PING: Final = Verb("agent", "ping", agents.AgentPing, agents.PingAnswer,
    role="viewer", changes=False, does="whether it answers, and how fast")
AGENT_ENABLE: Final = Verb("agent", "enable", base.NameQuery, base.Done,
    role="operator", changes=True, does="give it work again")
AGENT_DISABLE: Final = Verb("agent", "disable", agents.AgentDisable, base.Done,
    role="operator", changes=True, does="give it nothing new")
AGENT_PAUSE: Final = Verb("agent", "pause", agents.AgentPause, base.Done,
    role="operator", changes=True, does="as `agent.disable`, for a time")
AGENT_MOVE: Final = Verb("agent", "move", agents.AgentMove, base.Done,
    role="admin", changes=True, does="into another group, once it is empty")
AGENT_FORGET: Final = Verb("agent", "forget", agents.AgentForget, agents.ForgetAnswer,
    role="admin", changes=True, does="delete those silent for long")
AGENT_ROTATE: Final = Verb("agent", "rotate", base.NameQuery, base.Done,
    role="admin", changes=True, does="make it renew its certificate now")
AGENT_REVOKE: Final = Verb("agent", "revoke", base.NameQuery, base.Done,
    role="admin", changes=True, does="take its credentials away")
AGENT_DELETE: Final = Verb("agent", "delete", base.NameQuery, base.Done,
    role="admin", changes=True, does="revoke it and forget it")

GROUP_CREATE: Final = Verb("group", "create", groups.GroupCreate, groups.GroupRecord,
    role="admin", changes=True, does="make a group")
GROUP_SET: Final = Verb("group", "set", groups.GroupSet, groups.GroupRecord,
    role="admin", changes=True, does="change how it shares its work")
GROUP_SHOW: Final = Verb("group", "show", base.NameQuery, groups.GroupRecord,
    role="viewer", changes=False, does="one group")
GROUP_LIST: Final = Verb("group", "list", groups.GroupList, groups.GroupsAnswer,
    role="viewer", changes=False, does="groups by name")
GROUP_ROTATE: Final = Verb("group", "rotate", base.NameQuery, groups.RotateAnswer,
    role="admin", changes=True, does="make all of its agents renew their certificates")
GROUP_DELETE: Final = Verb("group", "delete", base.NameQuery, base.Done,
    role="admin", changes=True, does="delete an empty group")

CONNECTION_CREATE: Final = Verb("connection", "create",
    connections.ConnectionCreate, connections.ConnectionRecord,
    role="admin", changes=True, does="make a connection through a group")
CONNECTION_SET: Final = Verb("connection", "set",
    connections.ConnectionSet, connections.ConnectionRecord,
    role="admin", changes=True, does="change its limits, actions or note")
CONNECTION_SHOW: Final = Verb("connection", "show", base.NameQuery, connections.ConnectionRecord,
    role="viewer", changes=False, does="one connection, with the profile of each host")
CONNECTION_LIST: Final = Verb("connection", "list",
    connections.ConnectionList, connections.ConnectionsAnswer,
    role="viewer", changes=False, does="connections by name")
CONNECTION_PIN: Final = Verb("connection", "pin",
    connections.ConnectionPin, connections.ConnectionRecord,
    role="admin", changes=True, does="use only profiles of one hash")
CONNECTION_ENABLE: Final = Verb("connection", "enable", base.NameQuery, base.Done,
    role="operator", changes=True, does="take commands through it again")
CONNECTION_DISABLE: Final = Verb("connection", "disable", base.NameQuery, base.Done,
    role="operator", changes=True, does="start no more commands through it")
CONNECTION_TEST: Final = Verb("connection", "test",
    connections.ConnectionTest, connections.ConnectionTestAnswer,
    role="operator", changes=True, does="try the way to the system from each active host")
CONNECTION_DELETE: Final = Verb("connection", "delete", base.NameQuery, base.Done,
    role="admin", changes=True, does="delete a connection without open commands")

CLIENT_CREATE: Final = Verb("client", "create", clients.ClientCreate, clients.IdentityAnswer,
    role="admin", changes=True, does="sign keys for a new client")
CLIENT_LIST: Final = Verb("client", "list", clients.ClientList, clients.ClientsAnswer,
    role="admin", changes=False, does="clients by name")
CLIENT_REVOKE: Final = Verb("client", "revoke", base.NameQuery, base.Done,
    role="admin", changes=True, does="take its credentials away")
CLIENT_RENEW: Final = Verb("client", "renew", renewal.RenewalRequest, clients.IdentityAnswer,
    role="viewer", changes=True, does="a new certificate for the caller itself")

AUDIT_LIST: Final = Verb("audit", "list", audit.AuditQuery, audit.AuditPage,
    role="admin", changes=False, does="the audit trail, the newest first")

EVENTS_LIST: Final = Verb("events", "list", events.EventList, events.EventsAnswer,
    role="viewer", changes=False, does="what happened, and what happens within `wait_s`")

CERTIFICATE_LIST: Final = Verb("certificate", "list",
    certificates.CertificateList, certificates.CertificatesAnswer,
    role="viewer", changes=False, does="certificates, the first to expire first")
CERTIFICATE_TRUST: Final = Verb("certificate", "trust",
    certificates.TrustQuery, certificates.TrustAnswer,
    role="viewer", changes=False, does="trusted authorities, and whether to renew now")

CA_SHOW: Final = Verb("ca", "show", base.NoQuery, certificates.CaAnswer,
    role="admin", changes=False, does="the authority and the signing keys")
CA_ROTATE: Final = Verb("ca", "rotate", certificates.CaRotate, certificates.CaAnswer,
    role="admin", changes=True, does="one step of the rotation of one key")

MESH_STATUS: Final = Verb("mesh", "status", base.NoQuery, mesh.StatusAnswer,
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
