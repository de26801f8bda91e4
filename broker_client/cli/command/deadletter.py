"""`mesh deadletter …`."""

from typing import Annotated

from cyclopts import Parameter

from broker_client.cli.command.ledger import LEDGER
from broker_client.cli.command.listing import check_limit, list_commands
from broker_client.cli.command.story import print_command
from broker_client.cli.options import LISTING, SHARED, Listing, Shared
from broker_client.cli.screen.columns import COLUMNS_HELP
from broker_client.cli.screen.report import print_retried
from broker_client.cli.session import call
from schemas.ids import check_command_id
from schemas.messages.api import CommandList, CommandQuery
from schemas.verbs import DEADLETTER_SHOW

Id = Annotated[str, Parameter(help="Id of the dead letter.")]


def list_(
    *,
    group: Annotated[str | None, Parameter(help="Only those of this group.")] = None,
    agent: Annotated[str | None, Parameter(help="Only those of this agent.")] = None,
    limit: Annotated[int, Parameter(help="At most this many.", validator=check_limit)] = 50,
    columns: Annotated[str | None, Parameter(help=COLUMNS_HELP, validator=LEDGER.check)] = None,
    shared: Listing = LISTING,
) -> None:
    """List commands that no agent has acknowledged, the last one first. They never ran."""
    list_commands(
        shared,
        lambda mesh, query: mesh.dead_letters(query),
        CommandList(group=group, agent=agent),
        limit,
        nothing="no dead letters",
        columns=columns,
    )


def show(id: Id, /, *, shared: Shared = SHARED) -> None:
    """Show a dead letter and its timeline."""
    query = CommandQuery(id=check_command_id(id))
    print_command(shared, call(shared, lambda mesh: mesh.ask(DEADLETTER_SHOW, query)))


def retry(
    id: Id,
    /,
    *,
    new: Annotated[
        str | None,
        Parameter(name="--id", help="Id of the new command: the same one never runs twice."),
    ] = None,
    shared: Shared = SHARED,
) -> None:
    """Submit a dead letter again as a new command, and print its id."""
    answer = call(shared, lambda mesh: mesh.retry_dead_letter(id, new_id=new))
    # Only the id goes to stdout, as with `mesh run --detach`.
    print_retried(answer, shared.output)
