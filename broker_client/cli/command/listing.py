"""Lists of commands: all pages up to a limit, as one table."""

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import msgspec

from broker_client.cli.command.ledger import LEDGER
from broker_client.cli.options import Listing
from broker_client.cli.screen.columns import print_columns
from broker_client.cli.screen.report import say
from broker_client.cli.session import call
from schemas.messages.api import CommandList, CommandPage
from schemas.messages.facts import CommandRecord

if TYPE_CHECKING:
    from broker_client.api import MeshClient

# Greatest page of the master.
PAGE: Final = 500
# Commands that --sort reads at most.
SORTED_MAX: Final = 10_000

Ask = Callable[["MeshClient", CommandList], Awaitable[CommandPage]]


def check_limit(_type: object, value: int) -> None:
    if value < 1:
        raise ValueError("ask for at least 1")


def list_commands(
    shared: Listing,
    ask: Ask,
    wanted: CommandList,
    limit: int,
    *,
    nothing: str,
    sort: str | None = None,
    columns: str | None = None,
) -> None:
    """Print at most `limit` commands; says on stderr if there are more.

    sort: by a column, over all matches up to `SORTED_MAX`.
    """
    most = limit if sort is None else max(limit, SORTED_MAX)

    async def pages(mesh: "MeshClient") -> tuple[list[CommandRecord], bool]:
        return await read_pages(lambda query: ask(mesh, query), wanted, most)

    commands, is_more = call(shared, pages)
    if sort is not None:
        if is_more:
            say(f"sorted are the newest {most} only: there may be more")
        is_more = is_more or len(commands) > limit
        commands = LEDGER.in_order(commands, sort, time.time())[:limit]

    print_columns(shared, LEDGER, CommandRecord, commands, names=columns, nothing=nothing)
    if is_more:
        say_more(limit)


def say_more(limit: int) -> None:
    these = "this one" if limit == 1 else f"these {limit}"
    say(f"there may be more than {these}: see --limit")


async def read_pages(
    ask: Callable[[CommandList], Awaitable[CommandPage]], wanted: CommandList, limit: int
) -> tuple[list[CommandRecord], bool]:
    """Return the first `limit` commands, and whether there may be more. A page may be short.

    A command that ends between two pages moves from the open ones to the ended ones, and may come
    twice: the first record is kept.
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
