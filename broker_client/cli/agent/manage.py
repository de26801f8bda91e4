"""`mesh agent …`."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from cyclopts import Parameter

from broker_client.cli.agent.targets import Targets, do_to_agents
from broker_client.cli.bulk import DryRun, Yes
from broker_client.cli.options import SHARED, Shared, check_seconds, pairs
from broker_client.cli.screen.report import print_json, print_lines, say
from broker_client.cli.screen.tables import (
    duration,
    facts,
    in_local_time,
    left_of,
    local_and_utc,
    local_time,
)
from broker_client.cli.session import call
from broker_client.cli.spans import to_seconds
from schemas.ids import check_name
from schemas.listed import room_of
from schemas.messages.api import (
    AgentCreate,
    AgentRecord,
    AgentSet,
    CertificateRecord,
    Done,
    NameQuery,
    TokenAnswer,
)
from schemas.states import RESULT_LETTERS, Liveness
from schemas.verbs import (
    AGENT_CREATE,
    AGENT_DELETE,
    AGENT_ENABLE,
    AGENT_REVOKE,
    AGENT_SET,
    AGENT_SHOW,
    AGENT_TOKEN,
    Verb,
)

if TYPE_CHECKING:
    from broker_client.api import MeshClient

Name = Annotated[str, Parameter(help="Name of the agent.")]
Ttl = Annotated[
    float,
    Parameter(
        name="--ttl",
        help="How long the token works: 900 (seconds), 15m, 1h30m.",
        converter=to_seconds,
        validator=check_seconds,
    ),
]
Tag = Annotated[
    list[str] | None,
    Parameter(negative="", help="NAME=VALUE that commands can ask for; repeatable."),
]
Weight = Annotated[
    int | None, Parameter(help="1 to 100 (1): its part in a group balanced by weight.")
]
Priority = Annotated[
    int | None, Parameter(help="0 to 4 (2): the greater is used first if balanced by priority.")
]
Limit = Annotated[
    int | None, Parameter(help="Commands at once, if less than its slots; 0: its slots.")
]
TOKEN_TTL_S = 3600.0
_ADDRESSES: Final = {
    "current": "knows where the master says that brokers are",
    "other": "looks for brokers elsewhere than the master says",
    "unknown": "does not say where it looks for brokers (release 0.1.0)",
}


def create(
    name: Name,
    /,
    *,
    group: Annotated[str, Parameter(help="Group the agent belongs to.")],
    ttl: Ttl = TOKEN_TTL_S,
    tag: Tag = None,
    weight: Weight = None,
    priority: Priority = None,
    limit: Limit = None,
    shared: Shared = SHARED,
) -> None:
    """Create an agent and print the token it is set up with, once."""
    check_name("an agent", name)
    given = {"weight": weight, "priority": priority, "limit": limit}
    traits = {key: value for key, value in given.items() if value is not None}
    request = AgentCreate(name=name, group=group, ttl_s=ttl, tags=pairs("--tag", tag), **traits)
    _print_token(call(shared, lambda mesh: mesh.ask(AGENT_CREATE, request)), shared)


def token(name: Name, /, *, ttl: Ttl = TOKEN_TTL_S, shared: Shared = SHARED) -> None:
    """Print a new token for an agent; one that was issued before no longer works."""
    request = AgentCreate(name=name, ttl_s=ttl)
    _print_token(call(shared, lambda mesh: mesh.ask(AGENT_TOKEN, request)), shared)


def set_(
    *agents: Targets,
    tag: Tag = None,
    untag: Annotated[
        list[str] | None, Parameter(negative="", help="Name of a tag to take away; repeatable.")
    ] = None,
    weight: Weight = None,
    priority: Priority = None,
    limit: Limit = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    shared: Shared = SHARED,
) -> int:
    """Change what commands and groups choose agents by."""
    tags = pairs("--tag", tag)

    async def one(mesh: "MeshClient", name: str) -> AgentRecord:
        request = AgentSet(
            name=name,
            tags=tags,
            untag=untag or [],
            weight=weight,
            priority=priority,
            limit=limit,
        )
        return await mesh.ask(AGENT_SET, request)

    def told(record: AgentRecord) -> str:
        return f"agent {record.agent}: {_traits(record)}"

    return do_to_agents(shared, "set", agents, one, told, yes=yes, dry_run=dry_run)


def show(name: Name, /, *, shared: Shared = SHARED) -> None:
    """Show one agent: status and why, certificate, host and process."""
    record = call(shared, lambda mesh: mesh.ask(AGENT_SHOW, NameQuery(name=name)))
    if shared.output == "json":
        print_json(record)
    else:
        print_lines(shared, _described(record))


def enable(
    *agents: Targets, yes: Yes = False, dry_run: DryRun = False, shared: Shared = SHARED
) -> int:
    """Let agents take commands again."""
    return _change(shared, AGENT_ENABLE, agents, yes=yes, dry_run=dry_run)


def revoke(
    *agents: Targets, yes: Yes = False, dry_run: DryRun = False, shared: Shared = SHARED
) -> int:
    """Refuse agents' credentials from now on."""
    return _change(shared, AGENT_REVOKE, agents, yes=yes, dry_run=dry_run)


def delete(
    *agents: Targets, yes: Yes = False, dry_run: DryRun = False, shared: Shared = SHARED
) -> int:
    """Remove agents: their credentials are refused at once.

    What they run is lost to the mesh, and said to be once it cannot run any more: until then they
    are still listed.
    """
    return _change(shared, AGENT_DELETE, agents, yes=yes, dry_run=dry_run)


def _described(agent: AgentRecord) -> list[str]:
    details = agent.details
    certificate = agent.certificate
    return facts(
        [
            ("agent", agent.agent),
            ("group", agent.group),
            ("status", f"{agent.status} since {local_and_utc(agent.since)}"),
            ("reason", agent.reason),
            ("next", in_local_time(agent.next, time.time())),
            ("badges", ", ".join(agent.badges)),
            ("returned", agent.returned.removeprefix("returned ")),
            ("admin", agent.admin),
            ("note", agent.note),
            ("liveness", agent.liveness),
            ("last beat", local_and_utc(agent.last_beat_at)),
            ("running", _running(agent)),
            ("chosen by", _traits(agent)),
            ("actions", ", ".join(agent.actions)),
            ("certificate", _certificate(certificate) if certificate else "none"),
            ("address", details.ip),
            ("host", details.host),
            ("process", f"{details.pid} of user {details.user}" if details.pid else ""),
            ("uptime", duration(details.uptime_s) if details.uptime_s else ""),
            ("joined", local_and_utc(agent.joined)),
            ("last results", _results(agent.recent)),
            ("version", details.version),
            ("addresses", _addresses(agent)),
        ]
    )


def _addresses(agent: AgentRecord) -> str:
    """Where it looks for brokers, which an agent that is not heard has not said."""
    if agent.addresses == "unknown" and agent.liveness != Liveness.LIVE:
        return "not known until it is heard"
    return _ADDRESSES.get(agent.addresses, agent.addresses)


def _results(letters: str) -> str:
    """Return `..F.  newest last: F failed, . succeeded`."""
    if not letters:
        return ""
    names = {letter: state for state, letter in RESULT_LETTERS.items()}
    said = ", ".join(f"{letter} {names.get(letter, 'other')}" for letter in sorted(set(letters)))
    return f"{letters}  newest last: {said}"


def _running(agent: AgentRecord) -> str:
    """Return `3 of 8 slots`, or `3 of 4 by its own limit, 8 slots`."""
    if not agent.slots:
        return f"{agent.running}, slots not known until it is heard"
    if room_of(agent) < agent.slots:
        return f"{agent.running} of {agent.limit} by its own limit, {agent.slots} slots"
    return f"{agent.running} of {agent.slots} slots"


def _traits(agent: AgentRecord) -> str:
    """Return `tags site=berlin gpu=1, weight 1, priority 2, limit 3`."""
    tags = " ".join(f"{name}={value}" for name, value in sorted(agent.tags.items()))
    limit = f", limit {agent.limit}" if agent.limit else ""
    return f"tags {tags or 'none'}, weight {agent.weight}, priority {agent.priority}{limit}"


def _certificate(certificate: CertificateRecord) -> str:
    end = certificate.not_after
    text = f"{left_of(end, time.time())} left, until {local_and_utc(end)}"
    warning = f" ({certificate.warning})" if certificate.warning else ""
    return f"{text}{warning}, serial {certificate.serial}"


def _change(
    shared: Shared,
    verb: Verb[NameQuery, Done],
    agents: Sequence[str],
    *,
    yes: bool,
    dry_run: bool,
) -> int:
    async def one(mesh: "MeshClient", name: str) -> Done:
        done = await mesh.ask(verb, NameQuery(name=name))
        said = done.message or f"agent {name}: {verb.verb} done"
        return msgspec.structs.replace(done, message=said)

    def told(done: Done) -> str:
        return done.message

    return do_to_agents(shared, verb.verb, agents, one, told, yes=yes, dry_run=dry_run)


def _print_token(answer: TokenAnswer, shared: Shared) -> None:
    if shared.output == "json":
        print_json(answer)
    else:
        # Only the token goes to stdout, for a pipe into `broker-agent setup --token -`.
        print(answer.token)
        say(f"token for {answer.agent} in {answer.group}, until {local_time(answer.expires_at)}")
