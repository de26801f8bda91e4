"""`mesh top`: a live view of the mesh."""

import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

from cyclopts import Parameter

from broker_client.cli.agent.listing import table_of as agents_table
from broker_client.cli.agent.roster import ROSTER, in_order
from broker_client.cli.agent.targets import check_named
from broker_client.cli.command.ledger import LEDGER
from broker_client.cli.filters import joined
from broker_client.cli.group.manage import GROUPS
from broker_client.cli.options import SHARED, Shared
from broker_client.cli.screen.live import EVERY_S, Every, Frame, keep_showing, print_frame
from broker_client.cli.screen.report import print_json
from broker_client.cli.screen.size import screen_height
from broker_client.cli.screen.tables import Table, duration
from broker_client.cli.session import call
from schemas.counting import counted
from schemas.listed import AGENTS
from schemas.messages.api import AgentRecord, CommandList, GroupRecord, StatusAnswer
from schemas.messages.facts import CommandRecord
from schemas.states import AgentStatus

if TYPE_CHECKING:
    from broker_client.api import MeshClient

# Lines of a frame in a pipe.
PIPE_LINES: Final = 60
# Lines of the head, and of three tables: a blank line, a heading and the number of hidden rows.
_FRAME_LINES: Final = 13
_LEAST_ROWS: Final = 3
_COMMANDS_ASKED: Final = 50


class MeshView(NamedTuple):
    """Answers of the master at one time."""

    status: StatusAnswer
    groups: Sequence[GroupRecord]
    agents: Sequence[AgentRecord]
    commands: Sequence[CommandRecord]


def top(
    *filters: Annotated[
        str,
        Parameter(
            help="Only agents that all of these hold for, as with `mesh agent list`.",
        ),
    ],
    sort: Annotated[
        str | None,
        Parameter(
            help="Column to sort agents by, -COLUMN: the greatest first; else trouble first.",
            allow_leading_hyphen=True,
            validator=ROSTER.check_sort,
        ),
    ] = None,
    once: Annotated[bool, Parameter(negative="", help="Show it once, and end.")] = False,
    every: Every = EVERY_S,
    shared: Shared = SHARED,
) -> None:
    """Show mesh, groups, agents and open commands, live until q or Ctrl-C."""
    wanted = joined(filters, AGENTS)

    async def look(mesh: "MeshClient") -> MeshView:
        agents = await mesh.agents(filter=wanted)
        if wanted and not agents:
            await check_named(mesh, filters)
        found = in_order(agents, sort or "agent", time.time())
        page = await mesh.list(CommandList(limit=_COMMANDS_ASKED))
        return MeshView(
            status=await mesh.status(),
            groups=await mesh.groups(),
            agents=found if sort else trouble_first(found),
            commands=[each for each in page.commands if not each.ended_at],
        )

    async def show(mesh: "MeshClient") -> Frame:
        return frame(await look(mesh), time.time(), frame_height())

    if shared.output == "json":
        print_json(call(shared, look)._asdict())
    elif once:
        print_frame(shared, call(shared, show))
    else:
        keep_showing(shared, show, every)


def trouble_first(agents: Sequence[AgentRecord]) -> list[AgentRecord]:
    """Sort agents: first those that should be active and are not, then busy ones, then by name."""
    ranks = {AgentStatus.NO_RESPONSE: 0, AgentStatus.ACTIVE: 1, AgentStatus.DISABLED: 2}
    return sorted(
        agents,
        key=lambda each: (ranks.get(AgentStatus(each.status), 3), -each.running, each.agent),
    )


def frame(seen: MeshView, now: float, height: int) -> Frame:
    """Return a frame of `height` lines; each table counts its hidden rows. now: unix time."""
    commands = LEDGER.table(seen.commands, now=now) if seen.commands else Table([], [])
    groups, agents = GROUPS.table(seen.groups, now=now), agents_table(seen.agents)
    room = max(3 * _LEAST_ROWS, height - _FRAME_LINES)
    shown = []
    for left, table in ((3, groups), (2, commands), (1, agents)):
        # The last table, of agents, gets the room that smaller tables leave.
        part = room if left == 1 else max(_LEAST_ROWS, room // (left + 1))
        cut = shortened(table, part)
        room -= max(0, len(cut.lines) - 1)
        shown.append(cut)
    return Frame(_head(seen, now), shown[0], (shown[2], shown[1]))


def shortened(table: Table, rows: int) -> Table:
    """Cut a table to `rows` lines below the heading, with the number of hidden ones."""
    more = len(table.lines) - 1 - rows
    if more <= 0:
        return table
    lines = [*table.lines[: rows + 1], f"… {counted(more, 'more line')}"]
    return Table(lines, table.hidden)


def _head(seen: MeshView, now: float) -> list[str]:
    status = seen.status
    up = duration(max(0.0, now - datetime.fromisoformat(status.started_at).timestamp()))
    at = datetime.fromtimestamp(now).astimezone()
    return [
        f"mesh {status.mesh}  master {status.version} up {up}  {at:%H:%M:%S %z}",
        f"agents    {_tally(status.agents)}",
        f"commands  {_tally(status.commands)}",
        *(f"note      {note}" for note in status.notes),
    ]


def _tally(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"


def frame_height() -> int:
    """Return the lines of the terminal, or `PIPE_LINES` for a pipe."""
    return screen_height() if sys.stdout.isatty() else PIPE_LINES
