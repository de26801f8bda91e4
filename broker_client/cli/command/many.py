"""`mesh command cancel` and `retry`: of one, of several, and of all matches of a filter."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import msgspec
from cyclopts import Parameter

from broker_client.cli.agent.targets import is_filter
from broker_client.cli.bulk import Deed, DryRun, Yes, carry_out
from broker_client.cli.command.ledger import LEDGER
from broker_client.cli.filters import joined
from broker_client.cli.options import SHARED, Shared
from broker_client.cli.screen.report import print_lines, print_retried, print_usage
from schemas.ids import check_command_id
from schemas.listed import COMMANDS
from schemas.messages.api import SubmitAnswer
from schemas.messages.facts import CommandRecord
from schemas.states import TERMINAL, State

if TYPE_CHECKING:
    from broker_client.api import MeshClient

T = TypeVar("T", bound=msgspec.Struct)

# Greatest number of commands per call.
MOST: Final = 1000
_OPEN: Final = ",".join(sorted(set(State) - TERMINAL))
_ENDED: Final = ",".join(sorted(TERMINAL))

Targets = Annotated[
    str, Parameter(help="Ids of commands, or words of a filter as of `mesh command list`.")
]


def cancel(
    *targets: Targets, yes: Yes = False, dry_run: DryRun = False, shared: Shared = SHARED
) -> int:
    """Ask for the end of commands; `mesh command wait` tells when it has come."""

    async def one(mesh: "MeshClient", id: str) -> CommandRecord:
        return await mesh.cancel(id)

    def told(record: CommandRecord) -> None:
        print_lines(shared, [f"command {record.id} is {record.state}"])

    deed = _deed("cancel", targets, _OPEN, one, told)
    return carry_out(shared, deed, yes=yes, dry_run=dry_run)


def retry(
    *targets: Targets,
    id: Annotated[
        str | None, Parameter(help="Id of the new command: the same one never runs twice.")
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    shared: Shared = SHARED,
) -> int:
    """Submit commands that have ended again, as new commands of yours; prints their ids."""
    if id is not None and (len(targets) > 1 or is_filter(targets)):
        return print_usage("--id is for one command", "leave it out", shared.output)

    async def one(mesh: "MeshClient", old: str) -> SubmitAnswer:
        return await mesh.retry(old, new_id=id)

    deed = _deed("retry", targets, _ENDED, one, lambda answer: print_retried(answer, "table"))
    return carry_out(shared, deed, yes=yes, dry_run=dry_run)


def _deed(
    what: str,
    targets: Sequence[str],
    states: str,
    one: Callable[["MeshClient", str], Awaitable[T]],
    told: Callable[[T], None],
) -> Deed[CommandRecord, T]:
    is_found = is_filter(targets)
    wanted = joined([*targets, f"state:{states}"], COMMANDS) if is_found else ""

    async def find(mesh: "MeshClient") -> Sequence[CommandRecord]:
        return await mesh.find(wanted, limit=MOST)

    return Deed(
        what=what,
        noun="command",
        names=[] if is_found else [check_command_id(each) for each in dict.fromkeys(targets)],
        find=find if is_found else None,
        show=lambda mesh, name: mesh.show(name),
        name_of=lambda record: record.id,
        table=LEDGER.table,
        one=one,
        told=told,
    )
