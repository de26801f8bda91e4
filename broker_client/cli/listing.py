"""Lists of commands: as many pages as it takes, as one table."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from broker_client.cli.options import Listing
from broker_client.cli.outcomes import program_code
from broker_client.cli.report import print_list, say, screen_width
from broker_client.cli.session import call
from broker_client.cli.tables import Column, Table, fit, short_time
from schemas.messages.api import CommandList, CommandPage
from schemas.messages.facts import CommandRecord

if TYPE_CHECKING:
    from broker_client.api import MeshClient

# The most that the master gives at once.
PAGE: Final = 500
# Of what runs, a line shows as much as there is room for.
PROGRAM: Final = Column("PROGRAM", least=14, is_cut=True)

Ask = Callable[["MeshClient", CommandList], Awaitable[CommandPage]]


def check_limit(_type: object, value: int) -> None:
    if value < 1:
        raise ValueError("ask for at least 1")


def list_commands(
    shared: Listing, ask: Ask, wanted: CommandList, limit: int, *, nothing: str
) -> None:
    """Print at most `limit` commands, page by page; says on stderr if there are more."""

    async def pages(mesh: "MeshClient") -> tuple[list[CommandRecord], bool]:
        return await read_pages(lambda query: ask(mesh, query), wanted, limit)

    commands, is_more = call(shared, pages)
    print_list(shared, commands, lambda: table_of(commands, time.time()), nothing=nothing)
    if is_more:
        say(f"there may be more than these {limit}: see --limit")


async def read_pages(
    ask: Callable[[CommandList], Awaitable[CommandPage]], wanted: CommandList, limit: int
) -> tuple[list[CommandRecord], bool]:
    """The first `limit` commands, and whether there may be more. A page may be short of its limit.

    A command that ends between two pages moves from the open ones to the ended ones, and may come
    twice: the first of the two is kept.
    """
    found: dict[str, CommandRecord] = {}
    cursor = None
    while len(found) < limit:
        query = msgspec.structs.replace(wanted, limit=min(PAGE, limit - len(found)), cursor=cursor)
        page = await ask(query)
        for record in page.commands:
            found.setdefault(record.id, record)
        cursor = page.cursor
        if cursor is None:
            return [*found.values()], False
    return [*found.values()], True


def agent_of(record: CommandRecord) -> str:
    """Where it ran or runs last, or else whom it is meant for."""
    return record.attempts[-1].agent if record.attempts else record.agent or ""


def exit_of(record: CommandRecord) -> str:
    code = program_code(record)
    return "" if code is None else str(code)


def table_of(commands: Sequence[CommandRecord], now: float) -> Table:
    """Commands as a table for this screen; now: unix time."""
    columns = (
        Column("ID"),
        Column("STATE"),
        Column("EXIT", 2, right=True),
        Column("ON"),
        Column("SUBMITTED", 1),
        PROGRAM,
        Column("REASON", least=10),
    )
    rows = [
        (
            record.id,
            record.state,
            exit_of(record),
            agent_of(record) or f"any of {record.group}",
            short_time(record.submitted_at, now),
            record.program,
            record.reason,
        )
        for record in commands
    ]
    return fit(columns, rows, screen_width())
