"""`mesh group …`."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from broker_client.cli.agent import agent_rows, print_agents
from broker_client.cli.options import SHARED, Shared
from broker_client.cli.report import print_json, print_lines, print_table
from broker_client.cli.session import call
from broker_client.cli.tables import Column, facts, local_and_utc, local_time
from schemas.ids import check_name
from schemas.messages.api import Done, GroupCreate, GroupRecord, NameQuery

if TYPE_CHECKING:
    from broker_client.api import MeshClient

Name = Annotated[str, Parameter(help="Name of the group.")]


def create(name: Name, /, *, shared: Shared = SHARED) -> None:
    """Create a group."""
    check_name("a group", name)
    record = call(
        shared, lambda mesh: mesh.ask("group", "create", GroupCreate(name=name), GroupRecord)
    )
    if shared.output == "json":
        print_json(record)
    else:
        print(f"group {record.group} created")


def list_(*, shared: Shared = SHARED) -> None:
    """List groups with status, reason and counts."""
    groups = call(shared, lambda mesh: mesh.groups())
    if shared.output == "json":
        print_json([*groups])
        return
    columns = (
        Column("GROUP"),
        Column("STATUS"),
        Column("AGENTS"),
        Column("QUEUED", 3, right=True),
        Column("RUNNING", 3, right=True),
        Column("SINCE", 2),
        Column("REASON", 1, least=20),
    )
    rows = [
        (
            group.group,
            group.status,
            _counted(group),
            str(group.queued),
            str(group.running),
            local_time(group.since),
            group.reason,
        )
        for group in groups
    ]
    print_table(shared, columns, rows, nothing="no group yet: `mesh group create NAME`")


def show(name: Name, /, *, shared: Shared = SHARED) -> None:
    """Show one group and its agents."""

    async def ask(mesh: "MeshClient") -> GroupRecord:
        return await mesh.ask("group", "show", NameQuery(name=name), GroupRecord)

    if shared.output == "json":
        print_json(call(shared, ask))
        return

    async def both(mesh: "MeshClient") -> None:
        group = await ask(mesh)
        agents = await mesh.agents(group=name)
        print_lines(shared, _described(group))
        if agents:
            print()
            print_agents(shared, agent_rows(agents))

    call(shared, both)


def delete(name: Name, /, *, shared: Shared = SHARED) -> None:
    """Delete a group that has no agents and no open commands."""
    done = call(shared, lambda mesh: mesh.ask("group", "delete", NameQuery(name=name), Done))
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
            ("agents", _counted(group)),
            ("queued", str(group.queued)),
            ("running", str(group.running)),
        ]
    )


def _counted(group: GroupRecord) -> str:
    """`2 active, 1 no_response`, or `none`."""
    counts = [f"{count} {status}" for status, count in group.agents.items() if count]
    return ", ".join(counts) or "none"
