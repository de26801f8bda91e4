"""`mesh command cancel` and `retry`: of one, of several, and of all that a filter finds."""

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import msgspec
from cyclopts import Parameter

from broker_client.cli.command.listing import table_of
from broker_client.cli.filters import joined
from broker_client.cli.options import SHARED, Shared
from broker_client.cli.screen.report import (
    print_fault,
    print_fitted,
    print_json,
    print_lines,
    print_submitted,
    print_usage,
    say,
)
from broker_client.cli.session import call
from schemas.counting import counted
from schemas.faults import MeshError
from schemas.ids import check_command_id
from schemas.listed import COMMANDS
from schemas.messages.api import SubmitAnswer
from schemas.messages.facts import CommandRecord
from schemas.states import TERMINAL, State

if TYPE_CHECKING:
    from broker_client.api import MeshClient

T = TypeVar("T", bound=msgspec.Struct)

# So many at a time; whoever has more says it again.
MOST: Final = 1000
_OPEN: Final = ",".join(sorted(set(State) - TERMINAL))
_ENDED: Final = ",".join(sorted(TERMINAL))
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+")

Targets = Annotated[
    str, Parameter(help="Ids of commands, or words of a filter as of `mesh command list`.")
]
Yes = Annotated[
    bool, Parameter(negative="", help="Do it to all that the filter finds; without it: say which.")
]
DryRun = Annotated[bool, Parameter(negative="", help="Only say which commands these are.")]


def is_filter(words: Sequence[str]) -> bool:
    """Whether `words` are a filter; names and ids have none of its signs."""
    return any(_PLAIN.fullmatch(word) is None for word in words)


def cancel(
    *targets: Targets, yes: Yes = False, dry_run: DryRun = False, shared: Shared = SHARED
) -> int:
    """Ask for the end of commands; `mesh command wait` tells when it has come."""

    async def one(mesh: "MeshClient", id: str) -> CommandRecord:
        return await mesh.cancel(id)

    def told(record: CommandRecord) -> None:
        print_lines(shared, [f"command {record.id} is {record.state}"])

    return _do(shared, "cancel", targets, _OPEN, one, told, yes=yes, dry_run=dry_run)


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

    def told(answer: SubmitAnswer) -> None:
        print_submitted(answer.id, answer, "table")
        if answer.duplicate:
            say(f"{answer.id} was submitted before and is {answer.state}")

    return _do(shared, "retry", targets, _ENDED, one, told, yes=yes, dry_run=dry_run)


def _do(
    shared: Shared,
    what: str,
    targets: Sequence[str],
    states: str,
    one: Callable[["MeshClient", str], Awaitable[T]],
    told: Callable[[T], None],
    *,
    yes: bool,
    dry_run: bool,
) -> int:
    if not targets:
        see = f"see `mesh command {what} --help`"
        return print_usage("no command is named", see, shared.output)
    is_found = is_filter(targets)
    wanted = joined([*targets, f"state:{states}"], COMMANDS) if is_found else ""
    ids = [] if is_found else [check_command_id(each) for each in dict.fromkeys(targets)]
    is_only_said = dry_run or (is_found and not yes)
    faults: list[MeshError] = []

    async def work(mesh: "MeshClient") -> tuple[list[CommandRecord], list[T]]:
        found: list[CommandRecord] = []
        if is_found:
            found = [*await mesh.find(wanted, limit=MOST)]
        elif dry_run:
            found = [await mesh.show(each) for each in ids]
        chosen = [record.id for record in found] or ids
        done = [] if is_only_said else await _each(mesh, chosen, one, faults)
        return found, done

    found, done = call(shared, work)
    if is_only_said:
        return _only_said(shared, what, found, is_dry=dry_run)
    if len(ids) == 1 and faults:
        raise faults[0]
    _say_done(shared, done, told, is_one=len(ids) == 1)
    for fault in faults:
        print_fault(fault, shared.output)
    if is_found:
        say(f"{what} of {counted(len(done), 'command')}: asked")
    return faults[0].kind.exit_code if faults else 0


def _say_done(
    shared: Shared, done: Sequence[T], told: Callable[[T], None], *, is_one: bool
) -> None:
    if shared.output == "json":
        print_json(done[0] if is_one else [*done])
        return
    for each in done:
        told(each)


async def _each(
    mesh: "MeshClient",
    ids: Sequence[str],
    one: Callable[["MeshClient", str], Awaitable[T]],
    faults: list[MeshError],
) -> list[T]:
    """One after the other: a fault of one, which is kept, is none of the others'."""
    done = []
    for each in ids:
        try:
            done.append(await one(mesh, each))
        except MeshError as error:
            faults.append(error)
    return done


def _only_said(shared: Shared, what: str, found: list[CommandRecord], *, is_dry: bool) -> int:
    """Which ones it would be; without --dry-run it is a question that --yes answers."""
    if shared.output == "json":
        print_json(found)
    elif found:
        print_fitted(shared, table_of(found, time.time()))
    count = counted(len(found), "command")
    if is_dry or not found:
        say(f"{count}: nothing is done")
        return 0
    return print_usage(
        f"{what} of {count}: nothing is done yet", f"add --yes to {what} them", shared.output
    )
