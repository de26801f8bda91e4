"""`mesh command …`."""

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from broker_client.cli.command.ledger import LEDGER
from broker_client.cli.command.listing import check_limit, list_commands
from broker_client.cli.command.story import print_command
from broker_client.cli.filters import joined, unmatched
from broker_client.cli.options import (
    COMMON,
    LISTING,
    SHARED,
    Common,
    Listing,
    Shared,
    check_seconds,
)
from broker_client.cli.outcomes import exit_code
from broker_client.cli.run.program import conclude
from broker_client.cli.run.waits import goes_on
from broker_client.cli.screen.columns import COLUMNS_HELP
from broker_client.cli.screen.report import print_json, print_lines, record_json
from broker_client.cli.session import call
from broker_client.cli.spans import to_seconds
from schemas.listed import COMMANDS
from schemas.messages.api import CommandList
from schemas.messages.facts import CommandRecord

if TYPE_CHECKING:
    from broker_client.api import MeshClient

Id = Annotated[str, Parameter(help="Id of the command.")]
State = Literal[
    "queued",
    "sent",
    "accepted",
    "running",
    "unknown",
    "stopping",
    "succeeded",
    "failed",
    "timed_out",
    "cancelled",
    "rejected",
    "expired",
    "undeliverable",
    "killed_fenced",
    "lost",
]


def list_(
    *filters: Annotated[
        str,
        Parameter(
            help="Only commands that all of these hold for: state:failed,lost, label:deploy=42,"
            " client:ann, program:apt*, argv:*--force*, since:1d, exit:!=0, took:>5m; ! before one:"
            " not.",
        ),
    ],
    group: Annotated[str | None, Parameter(help="Only commands of this group.")] = None,
    agent: Annotated[str | None, Parameter(help="Only commands of this agent.")] = None,
    state: Annotated[State | None, Parameter(help="Only commands in this state.")] = None,
    limit: Annotated[int, Parameter(help="At most this many.", validator=check_limit)] = 50,
    sort: Annotated[
        str | None,
        Parameter(
            help="Column to sort by; -COLUMN: the greatest first.",
            allow_leading_hyphen=True,
            validator=LEDGER.check_sort,
        ),
    ] = None,
    columns: Annotated[
        str | None,
        Parameter(help=COLUMNS_HELP, validator=LEDGER.check),
    ] = None,
    shared: Listing = LISTING,
) -> None:
    """List commands, open ones first, the newest first."""
    wanted = joined(filters, COMMANDS)
    list_commands(
        shared,
        lambda mesh, query: mesh.list(query),
        CommandList(group=group, agent=agent, state=state, filter=wanted),
        limit,
        nothing=f"no command passes the filter{unmatched(filters, COMMANDS)}"
        if wanted
        else "no commands",
        sort=sort,
        columns=columns,
    )


def show(id: Id, /, *, shared: Shared = SHARED) -> None:
    """Show a command and the timeline of its attempts."""
    wants_output = shared.output == "table"
    print_command(shared, call(shared, lambda mesh: mesh.show(id, with_output=wants_output)))


def wait(
    id: Id,
    /,
    *,
    timeout: Annotated[
        float | None,
        Parameter(
            help="How long to wait at most: 90 (seconds), 5m, 1h30m; exit code 4 after that.",
            converter=to_seconds,
            validator=check_seconds,
        ),
    ] = None,
    common: Common = COMMON,
) -> int:
    """Wait until a command has ended; the exit code is that of `mesh run`."""

    async def ended(mesh: "MeshClient") -> CommandRecord:
        mesh.notices.goes_on = goes_on(id)
        return await mesh.wait(id, timeout_s=timeout, with_output=True)

    record = call(common, ended)
    if common.output == "json":
        print_json(record_json(record))
        return exit_code(record)
    print_lines(common, [record.state])
    return conclude(record, common)


def decide(
    id: Id,
    decision: Annotated[
        Literal["fail", "rerun"], Parameter(help="End it as lost, or run it once more.")
    ],
    /,
    *,
    shared: Shared = SHARED,
) -> None:
    """Give the word that a command submitted with --on-lost wait waits for."""
    record = call(shared, lambda mesh: mesh.decide(id, decision))
    if shared.output == "json":
        print_json(record)
    else:
        said = "will run again" if decision == "rerun" else "ends as lost"
        print_lines(shared, [f"command {record.id} {said}"])
