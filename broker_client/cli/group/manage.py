"""`mesh group …`."""

from typing import TYPE_CHECKING, Annotated, Final, cast, get_args

from cyclopts import Parameter

from broker_client.cli.agent.listing import print_agents
from broker_client.cli.options import LISTING, SHARED, Listing, Shared
from broker_client.cli.screen.columns import (
    COLUMNS_HELP,
    Columns,
    Trait,
    count,
    moment,
    print_columns,
    text,
)
from broker_client.cli.screen.report import print_json, print_lines
from broker_client.cli.screen.size import screen_width
from broker_client.cli.screen.tables import Column, facts, fit, local_and_utc
from broker_client.cli.session import call
from schemas.faults import Refused
from schemas.ids import check_name
from schemas.messages import registry
from schemas.messages.api import GroupCreate, GroupRecord, GroupSet, NameQuery
from schemas.messages.registry import DEFAULT_POLICY, Policy
from schemas.verbs import GROUP_CREATE, GROUP_DELETE, GROUP_SET, GROUP_SHOW

if TYPE_CHECKING:
    from broker_client.api import MeshClient

Name = Annotated[str, Parameter(help="Name of the group.")]


Balance = Annotated[
    str | None,
    Parameter(
        help="Who gets the next command: least_load (what groups do unless told otherwise),"
        " round_robin, priority, weighted, or sticky:LABEL."
    ),
]
Limit = Annotated[
    int | None, Parameter(help="Commands at once in the whole group; 0: no limit of its own.")
]
QueueLimit = Annotated[
    int | None, Parameter(help="Commands that may wait in it; 0: no limit of its own.")
]


def create(
    name: Name,
    /,
    *,
    balance: Balance = None,
    limit: Limit = None,
    queue_limit: QueueLimit = None,
    shared: Shared = SHARED,
) -> None:
    """Create a group."""
    check_name("a group", name)
    given = _change(name, balance, limit, queue_limit)
    policy = Policy(
        balance=given.balance or DEFAULT_POLICY.balance,
        sticky_label=given.sticky_label or "",
        limit=limit or 0,
        queue_limit=queue_limit or 0,
    )
    request = GroupCreate(name=name, policy=policy)
    record = call(shared, lambda mesh: mesh.ask(GROUP_CREATE, request))
    if shared.output == "json":
        print_json(record)
    else:
        print(f"group {record.group} created")


def set_(
    name: Name,
    /,
    *,
    balance: Balance = None,
    limit: Limit = None,
    queue_limit: QueueLimit = None,
    shared: Shared = SHARED,
) -> None:
    """Change how a group shares its work."""
    request = _change(name, balance, limit, queue_limit)
    record = call(shared, lambda mesh: mesh.ask(GROUP_SET, request))
    if shared.output == "json":
        print_json(record)
    else:
        print_lines(shared, [f"group {name}: {_policy(record.policy)}"])


def _change(name: str, balance: str | None, limit: int | None, queue_limit: int | None) -> GroupSet:
    """Return the request of the options; in `sticky:LABEL` the label follows the colon."""
    how, _, label = (balance or "").partition(":")
    if balance is not None and how not in get_args(registry.Balance):
        known = ", ".join(get_args(registry.Balance))
        raise Refused("field_invalid", f"--balance takes one of {known}, not {how[:64]!a}")
    if (how == "sticky") != bool(label):
        raise Refused("field_invalid", "--balance sticky takes a label, sticky:LABEL")
    return GroupSet(
        name=name,
        balance=cast("registry.Balance", how) if balance is not None else None,
        sticky_label=label if balance is not None else None,
        limit=limit,
        queue_limit=queue_limit,
    )


def _policy(policy: Policy) -> str:
    """Return `sticky:customer, at most 50 at once, at most 1000 waiting`."""
    label = f":{policy.sticky_label}" if policy.sticky_label else ""
    limit = f", at most {policy.limit} at once" if policy.limit else ""
    waiting = f", at most {policy.queue_limit} waiting" if policy.queue_limit else ""
    return f"{policy.balance}{label}{limit}{waiting}"


_TRAITS: Final[dict[str, Trait[GroupRecord]]] = {
    "group": text("GROUP", lambda g: g.group),
    "status": text("STATUS", lambda g: g.status),
    "since": moment("SINCE", lambda g: g.since),
    "queued": count("QUEUED", lambda g: g.queued, rank=3),
    "running": count("RUNNING", lambda g: g.running, rank=3),
    "active": Trait(
        Column("ACTIVE", right=True),
        lambda g, _: f"{g.agents.get('active', 0)}/{sum(g.agents.values())}",
        lambda g, _: float(g.agents.get("active", 0)),
    ),
    "agents": count("AGENTS", lambda g: sum(g.agents.values()), rank=4),
    "balance": text("BALANCE", lambda g: _policy(g.policy), rank=5, least=10),
    "next": text("NEXT", lambda g: g.next, rank=5, least=16),
    "reason": text("REASON", lambda g: g.reason, rank=1, least=16),
}
GROUPS: Final = Columns(
    _TRAITS,
    usual=("group", "status", "since", "queued", "running", "active", "reason"),
    other={"name": "group"},
)


def list_(
    *,
    columns: Annotated[str | None, Parameter(help=COLUMNS_HELP, validator=GROUPS.check)] = None,
    shared: Listing = LISTING,
) -> None:
    """List groups with status, reason and counts."""
    groups = call(shared, lambda mesh: mesh.groups())
    nothing = "no group yet: `mesh group create NAME`"
    print_columns(shared, GROUPS, GroupRecord, groups, names=columns, nothing=nothing)


def show(name: Name, /, *, shared: Shared = SHARED) -> None:
    """Show one group and its agents."""

    async def ask(mesh: "MeshClient") -> GroupRecord:
        return await mesh.ask(GROUP_SHOW, NameQuery(name=name))

    if shared.output == "json":
        print_json(call(shared, ask))
        return

    async def both(mesh: "MeshClient") -> None:
        group = await ask(mesh)
        agents = await mesh.agents(group=name)
        print_lines(shared, _described(group))
        if agents:
            print()
            print_agents(shared, agents)
            print()
            _print_spread(shared, group)

    call(shared, both)


def delete(name: Name, /, *, shared: Shared = SHARED) -> None:
    """Delete a group that has no agents and no open commands."""
    done = call(shared, lambda mesh: mesh.ask(GROUP_DELETE, NameQuery(name=name)))
    if shared.output == "json":
        print_json(done)
    else:
        print(f"group {name} deleted")


def _described(group: GroupRecord) -> list[str]:
    return facts(
        [
            ("group", group.group),
            ("status", f"{group.status} since {local_and_utc(group.since)}"),
            ("reason", group.reason),
            ("next", group.next),
            ("badges", ", ".join(group.badges)),
            ("agents", _counted(group)),
            ("queued", str(group.queued)),
            ("running", str(group.running)),
            ("balance", _policy(group.policy)),
        ]
    )


def _print_spread(shared: Shared, group: GroupRecord) -> None:
    """Print each agent's share of the group's commands in the last hour, and the expected one."""
    columns = (
        Column("SHARE OF THE LAST HOUR"),
        Column("EXPECTED", right=True),
        Column("ACTUAL", right=True),
        Column("DIFFERENCE", right=True),
    )
    rows = [
        (
            row.agent,
            f"{row.expected:.0f}",
            str(row.actual),
            f"{(row.actual - row.expected) / row.expected:+.0%}" if row.expected >= 1 else "",
        )
        for row in group.spread
    ]
    if rows:
        print_lines(shared, fit(columns, rows, screen_width()).lines, heading=True)


def _counted(group: GroupRecord) -> str:
    """Return `2 active, 1 no_response`, or `none`."""
    counts = [f"{count} {status}" for status, count in group.agents.items() if count]
    return ", ".join(counts) or "none"
