"""Live views until Ctrl-C: in place on a terminal, else one frame below the other."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

from cyclopts import Parameter

from broker_client.cli.options import Common, check_seconds
from broker_client.cli.screen.keys import q_leaves
from broker_client.cli.screen.report import (
    colour,
    has_colours,
    print_lines,
    styled,
)
from broker_client.cli.screen.size import screen_height, screen_width
from broker_client.cli.screen.tables import Table, hung, in_local_time
from broker_client.cli.screen.terminal import shown
from broker_client.cli.session import call
from broker_client.cli.spans import to_seconds
from schemas.faults import MeshError

if TYPE_CHECKING:
    from rich.live import Live

    from broker_client.api import MeshClient

EVERY_S: Final = 2.0
Every = Annotated[
    float,
    Parameter(
        help="Time between two looks: 2 (seconds), 1m.",
        converter=to_seconds,
        validator=check_seconds,
    ),
]


class Frame(NamedTuple):
    """Lines, then tables, separated by blank lines."""

    head: list[str]
    table: Table
    more: tuple[Table, ...] = ()


Ask = Callable[["MeshClient"], Awaitable[Frame]]


def lines_of(frame: Frame, *, coloured: bool) -> list[str]:
    """Return a frame as lines, headings in colour if possible, hidden columns named."""
    lines = [colour(line) if coloured else line for line in frame.head]
    for table in (frame.table, *frame.more):
        if not table.lines:
            continue
        heading, *rows = table.lines
        if lines:
            lines.append("")
        lines.append(styled(heading) if coloured else heading)
        lines += [colour(line) if coloured else line for line in rows]
        if table.hidden:
            lines.append(f"hidden for lack of width: {', '.join(table.hidden)}")
    return lines


def print_frame(common: Common, frame: Frame) -> None:
    print_lines(common, lines_of(frame, coloured=False))


def keep_showing(common: Common, ask: Ask, every_s: float) -> None:
    """Show frames of `ask` until Ctrl-C, or q on a terminal.

    Without an answer the last frame stays, with the fault.
    """

    async def until_left(mesh: "MeshClient") -> None:
        with q_leaves() as pressed:
            showing = asyncio.ensure_future(_show(common, mesh, ask, every_s))
            leaving = asyncio.ensure_future(pressed.wait())
            try:
                await asyncio.wait({showing, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if showing.done():
                    showing.result()
            finally:
                showing.cancel()
                leaving.cancel()
                await asyncio.wait({showing, leaving})

    call(common, until_left)


async def _show(common: Common, mesh: "MeshClient", ask: Ask, every_s: float) -> None:
    if not sys.stdout.isatty():
        while True:
            print_frame(common, await ask(mesh))
            print(flush=True)
            await asyncio.sleep(every_s)
    # Imported here: the import takes as long as an answer.
    from rich.live import Live

    with Live(screen=True, auto_refresh=False, vertical_overflow="ellipsis") as live:
        picture = _Picture(live)
        before, mesh.notices.say = mesh.notices.say, picture.note
        try:
            while True:
                try:
                    picture.show(lines_of(await ask(mesh), coloured=has_colours(common)))
                except MeshError as error:
                    picture.fail(str(error))
                await asyncio.sleep(every_s)
        finally:
            mesh.notices.say = before


class _Picture:
    """The last frame, with a notice below it until the next frame."""

    def __init__(self, live: "Live") -> None:
        self._live = live
        self._lines: list[str] = []
        self._is_noted = False

    def show(self, lines: list[str]) -> None:
        self._lines, self._is_noted = lines, False
        self._draw([])

    def fail(self, text: str) -> None:
        """Show a fault of the next frame, unless a notice has told its cause."""
        if not self._is_noted:
            self._say(text)

    def note(self, text: str) -> None:
        self._is_noted = True
        self._say(in_local_time(text, time.time()))

    def _say(self, text: str) -> None:
        said = f"{time.strftime('%H:%M:%S')}  {shown(text)}"
        self._draw(["", *hung(said, screen_width())])

    def _draw(self, below: list[str]) -> None:
        from rich.text import Text

        # A notice has its place also where the frame fills the screen.
        room = screen_height() - len(below) if below else len(self._lines)
        lines = "\n".join([*self._lines[: max(0, room)], *below])
        self._live.update(Text.from_ansi(lines, no_wrap=True), refresh=True)
