"""Bulk operations: one action for several named things, or for all matches of a filter."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Generic, TypeVar

import msgspec
from cyclopts import Parameter

from broker_client.cli.options import Shared
from broker_client.cli.screen.report import (
    print_fault,
    print_fitted,
    print_json,
    print_usage,
    say,
)
from broker_client.cli.screen.tables import Table
from broker_client.cli.session import call
from schemas.counting import counted
from schemas.faults import MeshError

if TYPE_CHECKING:
    from broker_client.api import MeshClient

R = TypeVar("R", bound=msgspec.Struct)
T = TypeVar("T", bound=msgspec.Struct)

Yes = Annotated[
    bool, Parameter(negative="", help="Do it to all that the filter finds; without it: say which.")
]
DryRun = Annotated[bool, Parameter(negative="", help="Only say which ones these are.")]
# Concurrency limit, in things.
_AT_ONCE: Final = 16


@dataclass(frozen=True, kw_only=True)
class Deed(Generic[R, T]):
    """A bulk operation. what, noun: as `cancel`, `command`. find: all matches; None: use `names`.

    show: returns the record of a name, and `name_of` the name of a record. one: executes it for a
    name; told: prints its outcome on stdout.
    """

    what: str
    noun: str
    names: Sequence[str]
    find: Callable[["MeshClient"], Awaitable[Sequence[R]]] | None
    show: Callable[["MeshClient", str], Awaitable[R]]
    name_of: Callable[[R], str]
    table: Callable[[Sequence[R]], Table]
    one: Callable[["MeshClient", str], Awaitable[T]]
    told: Callable[[T], None]


def carry_out(shared: Shared, deed: Deed[R, T], *, yes: bool, dry_run: bool) -> int:
    """Execute the deed, or print a dry run; returns the exit code.

    A filter requires --yes. The fault of one thing does not affect the others; the fault of a
    single named thing is raised.
    """
    if deed.find is None and not deed.names:
        see = f"see `mesh {deed.noun} {deed.what} --help`"
        return print_usage(f"no {deed.noun} is named", see, shared.output)
    is_only_said = dry_run or (deed.find is not None and not yes)
    faults: list[MeshError] = []

    async def work(mesh: "MeshClient") -> tuple[Sequence[R], list[T]]:
        found: Sequence[R] = []
        if deed.find is not None:
            found = await deed.find(mesh)
        elif dry_run:
            found = [await deed.show(mesh, each) for each in deed.names]
        chosen = [deed.name_of(each) for each in found] or deed.names
        return found, [] if is_only_said else await _each(mesh, chosen, deed, faults)

    found, done = call(shared, work)
    if is_only_said:
        return _only_said(shared, deed, found, is_dry=dry_run)
    is_one = deed.find is None and len(deed.names) == 1
    if is_one and faults:
        raise faults[0]
    if shared.output == "json":
        print_json(done[0] if is_one else [*done])
    else:
        for result in done:
            deed.told(result)
    for fault in faults:
        print_fault(fault, shared.output)
    if deed.find is not None:
        count = counted(len(done), deed.noun)
        say(f"{deed.what} of {count}: asked" if found else f"{count}: nothing is done")
    return faults[0].kind.exit_code if faults else 0


async def _each(
    mesh: "MeshClient", names: Sequence[str], deed: Deed[R, T], faults: list[MeshError]
) -> list[T]:
    """Return the outcomes in the order of the names; faults are appended to `faults`."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str) -> T | MeshError:
        async with places:
            try:
                return await deed.one(mesh, name)
            except MeshError as error:
                return error

    results = await asyncio.gather(*(one(name) for name in names))
    faults += [each for each in results if isinstance(each, MeshError)]
    return [each for each in results if not isinstance(each, MeshError)]


def _only_said(shared: Shared, deed: Deed[R, T], found: Sequence[R], *, is_dry: bool) -> int:
    """Print the selected things; without --dry-run also the advice to repeat it with --yes."""
    if shared.output == "json":
        print_json([*found])
    elif found:
        print_fitted(shared, deed.table(found))
    count = counted(len(found), deed.noun)
    if is_dry or not found:
        say(f"{count}: nothing is done")
        return 0
    return print_usage(
        f"{deed.what} of {count}: nothing is done yet",
        f"add --yes to {deed.what} them",
        shared.output,
    )
