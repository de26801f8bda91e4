"""`mesh events`: what happened to agents, groups, commands and certificates, a line each."""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from broker_client.cli.filters import joined
from broker_client.cli.mesh.audit import Since
from broker_client.cli.options import LISTING, Listing
from broker_client.cli.screen.columns import COLUMNS_HELP, Columns, Trait, print_columns, text
from broker_client.cli.screen.report import plain, print_lines, say
from broker_client.cli.screen.size import screen_width
from broker_client.cli.screen.tables import cut, local_time, short_time
from broker_client.cli.screen.terminal import shown
from broker_client.cli.session import call
from broker_client.cli.spans import moment_of
from schemas.faults import Refused
from schemas.listed import EVENTS
from schemas.messages.api import EventRecord

if TYPE_CHECKING:
    from broker_client.api import MeshClient

_KIND_CELLS: Final = len("certificate")

_TRAITS: Final[dict[str, Trait[EventRecord]]] = {
    "at": text("AT", lambda e: e.at, shown=local_time),
    "kind": text("KIND", lambda e: e.kind),
    "name": text("NAME", lambda e: e.name, least=12),
    "what": text("WHAT", lambda e: e.what),
    "was": text("WAS", lambda e: e.was, rank=3),
    "group": text("GROUP", lambda e: e.group, rank=4),
    "agent": text("AGENT", lambda e: e.agent, rank=4),
    "client": text("CLIENT", lambda e: e.client, rank=5),
    "cause": text("CAUSE", lambda e: e.cause, rank=6),
    "detail": text("DETAIL", lambda e: e.detail, rank=2, least=16),
}
EVENT_LOG: Final = Columns(_TRAITS, other={"id": "name", "reason": "detail", "by": "client"})


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
    columns: Annotated[str | None, Parameter(help=COLUMNS_HELP, validator=EVENT_LOG.check)] = None,
    shared: Listing = LISTING,
) -> None:
    """Show events that the master keeps, the oldest first; gaps have a line of their own."""
    wanted = joined(filters, EVENTS)
    begin = None if since is None else moment_of(since)
    if follow:
        if shared.output not in ("table", "jsonl"):
            raise Refused("field_invalid", "--follow prints lines: use --output table or jsonl")
        if columns is not None:
            raise Refused("field_invalid", "--columns is for lists: use it without --follow")
        for hint in hints(filters):
            say(hint)
        call(shared, lambda mesh: _follow(mesh, shared, wanted, begin))
        return
    found = call(shared, lambda mesh: _all(mesh, wanted, begin))
    if shared.output == "table" and found and columns is None:
        print_lines(shared, [line_of(each, width=_width()) for each in found])
    else:
        nothing = "no events since the master started" if begin is None else "no events since then"
        if wanted and not found:
            nothing = "; ".join([f"{nothing} pass the filter", *hints(filters)])
        print_columns(shared, EVENT_LOG, EventRecord, found, names=columns, nothing=nothing)


def hints(filters: Sequence[str]) -> list[str]:
    """Return a hint for each bare word that is like a kind or a state: it is taken as a name."""
    values = {
        value: name for name in ("kind", "what") for value in EVENTS.fields[name].values[::-1]
    }
    found = []
    for word in (each.removeprefix("!") for each in filters):
        near = get_close_matches(word.lower(), values, n=1, cutoff=0.75) if ":" not in word else []
        found += [
            f"{word[:64]!a} is taken as a name: did you mean {values[value]}:{value}?"
            for value in near
        ]
    return found


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
        print_lines(shared, [line_of(event, width=_width())], flush=True)


def line_of(event: EventRecord, *, width: int = 0) -> str:
    """`2026-01-31 12:00:00  agent        web-1  active -> no_response  no beat for 6 s`.

    width: cells of a screen, on which the line is cut, and times of today have no date; 0: a pipe.
    """
    words = [
        f"{event.kind:<{_KIND_CELLS}}",
        event.name,
        f"{event.was} -> {event.what}" if event.was else event.what,
        *([f"on {event.agent}"] if event.agent else []),
        *([f"by {event.client}"] if event.client else []),
        *([event.detail] if event.detail else []),
    ]
    if not width:
        return shown("  ".join([local_time(event.at), *words]))
    return cut(shown("  ".join([short_time(event.at, time.time()), *words])), width)


def _width() -> int:
    return screen_width() if sys.stdout.isatty() else 0
