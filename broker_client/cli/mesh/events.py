"""`mesh events`: what happened to agents, groups, commands and certificates, a line each."""

import asyncio
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from broker_client.cli.filters import joined
from broker_client.cli.mesh.audit import Since
from broker_client.cli.options import LISTING, Listing
from broker_client.cli.screen.report import plain, print_lines, print_list
from broker_client.cli.screen.tables import Table, local_time
from broker_client.cli.screen.terminal import shown
from broker_client.cli.session import call
from broker_client.cli.spans import moment_of
from schemas.faults import Refused
from schemas.listed import EVENTS
from schemas.messages.api import EventRecord

if TYPE_CHECKING:
    from broker_client.api import MeshClient

_KIND_CELLS: Final = len("certificate")


def events(
    *filters: Annotated[
        str,
        Parameter(
            help="Only events that all of these hold for: kind:command, what:failed,lost,"
            " group:web, client:ann, web-*; ! before one: not.",
        ),
    ],
    follow: Annotated[
        bool,
        Parameter(
            name=["--follow", "-f"],
            negative="",
            help="Show events as they happen, until Ctrl-C; without --since from now on.",
        ),
    ] = False,
    since: Since = None,
    shared: Listing = LISTING,
) -> None:
    """Show events that the master keeps, the oldest first; gaps have a line of their own."""
    wanted = joined(filters, EVENTS)
    begin = None if since is None else moment_of(since)
    if follow:
        if shared.output not in ("table", "jsonl"):
            raise Refused("field_invalid", "--follow prints lines: use --output table or jsonl")
        call(shared, lambda mesh: _follow(mesh, shared, wanted, begin))
        return
    found = call(shared, lambda mesh: _all(mesh, wanted, begin))
    if shared.output == "table" and found:
        print_lines(shared, [line_of(each) for each in found])
    else:
        nothing = "no events since the master started" if begin is None else "no events since then"
        print_list(shared, EventRecord, found, lambda: Table([], []), nothing=nothing)


async def _all(mesh: "MeshClient", wanted: str, since: float | None) -> Sequence[EventRecord]:
    return [event async for event in mesh.events(wanted, since=since)]


async def _follow(mesh: "MeshClient", shared: Listing, wanted: str, since: float | None) -> None:
    """Print each event when it comes, in a thread: who reads slowly must not stop the heartbeat."""
    async for event in mesh.events(wanted, since=since, follow=True):
        await asyncio.to_thread(_print, shared, event)


def _print(shared: Listing, event: EventRecord) -> None:
    if shared.output == "jsonl":
        print(json.dumps(plain(event)), flush=True)
    else:
        print_lines(shared, [line_of(event)], flush=True)


def line_of(event: EventRecord) -> str:
    """`2026-01-31 12:00:00  agent        web-1  active -> no_response  no beat for 6 s`."""
    words = [
        f"{event.kind:<{_KIND_CELLS}}",
        event.name,
        f"{event.was} -> {event.what}" if event.was else event.what,
        *([f"on {event.agent}"] if event.agent else []),
        *([f"by {event.client}"] if event.client else []),
        *([event.detail] if event.detail else []),
    ]
    return shown("  ".join([local_time(event.at), *words]))
