"""`mesh run --all`, and `mesh fanout …`: one command for many agents."""

import asyncio
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

from cyclopts import Parameter
from msgspec import structs

from broker_client.cli.command.ledger import PROGRAM
from broker_client.cli.command.listing import check_limit
from broker_client.cli.fanout.progress import Progress, print_output
from broker_client.cli.options import (
    COMMON,
    LISTING,
    SHARED,
    Common,
    Listing,
    Shared,
    check_seconds,
)
from broker_client.cli.outcomes import INTERRUPTED, MESH_EXITS, PARTIAL
from broker_client.cli.run.attend import (
    interrupts,
    leave_now,
    signals_leave,
    until_submitted,
)
from broker_client.cli.screen.report import (
    print_fitted,
    print_json,
    print_lines,
    print_list,
    print_submitted,
    say,
    screen_width,
    told_if_unwritable,
)
from broker_client.cli.screen.tables import Column, Table, facts, fit, local_and_utc, short_time
from broker_client.cli.session import call
from broker_client.cli.spans import to_seconds
from schemas.counting import counted
from schemas.faults import MeshError
from schemas.messages.actions import ProcessArgs
from schemas.messages.facts import CommandRecord
from schemas.messages.fanouts import LABEL, FanoutMember, FanoutQuery, FanoutRecord
from schemas.states import State

if TYPE_CHECKING:
    from broker_client.api import MeshClient
    from broker_client.fanouts import FanoutFields
    from broker_client.results import Reader

# Between two looks at how far it is; results come by themselves meanwhile.
_LOOK_S: Final = 1.0
SHOW: Final = "mesh fanout show"
_RUNNING: Final = "running"
_SKIPPED: Final = "skipped"
Id = Annotated[str, Parameter(help="Id of the fan-out.")]


Show = Callable[[str, CommandRecord], None]


class Wanted(NamedTuple):
    """Which agents, and how many of them at a time."""

    id: str | None
    group: str | None
    agents: list[str]
    tags: dict[str, str]
    at_once: int
    max_failures: int | None


def run_on_many(
    common: Common,
    work: ProcessArgs,
    wanted: Wanted,
    fields: "FanoutFields",
    *,
    detach: bool,
    is_raw: bool = False,
) -> int:
    """`mesh run` for many agents; the exit code is 0 only if it succeeded on each."""
    chosen = wanted.id or secrets.token_hex(8)
    asked = {**wanted._asdict(), "id": chosen}

    async def submit(mesh: "MeshClient", interrupted: asyncio.Event) -> FanoutRecord | None:
        submitting = mesh.fanouts.submit("process", work, **asked, **fields)
        record = await until_submitted(submitting, chosen, interrupted, see=SHOW)
        if record is None or wanted.id:
            return record
        return structs.replace(record, duplicate=False)

    async def submit_only(mesh: "MeshClient") -> int:
        with interrupts() as interrupted:
            record = await submit(mesh, interrupted)
        if record is None:
            return INTERRUPTED
        print_submitted(record.id, record, common.output)
        return 0

    async def follow(mesh: "MeshClient") -> int:
        with mesh.results() as results, interrupts() as interrupted:
            record = await submit(mesh, interrupted)
            if record is None:
                return INTERRUPTED
            goes_on = f"see `mesh fanout show {record.id}`, which goes on unless it has ended"
            with told_if_unwritable(goes_on):
                shows = _printer(is_raw=is_raw) if common.output == "table" else None
                ended = await _attend(mesh, record, results, shows, interrupted)
        if ended is None:
            say(f"left: {record.id} goes on; see `mesh fanout show {record.id}`")
            leave_now(INTERRUPTED)
            return INTERRUPTED
        return _conclude(ended, common)

    with signals_leave(chosen, see=SHOW):
        return call(common, submit_only if detach else follow)


async def _attend(
    mesh: "MeshClient",
    record: FanoutRecord,
    results: "Reader",
    shows: Show | None,
    interrupted: asyncio.Event,
) -> FanoutRecord | None:
    """Show output as agents end, until all have; None if the person left before."""
    progress, seen = Progress(sys.stderr), set[str]()
    showing = asyncio.ensure_future(_show(record.id, results, progress, seen, shows))
    leaving = asyncio.ensure_future(_obey(mesh, record.id, interrupted))
    try:
        query = FanoutQuery(id=record.id, timeout_s=_LOOK_S)
        while record.state == _RUNNING:
            looking = asyncio.ensure_future(mesh.fanouts.look(query))
            busy = {looking, leaving, showing}
            await asyncio.wait(busy, return_when=asyncio.FIRST_COMPLETED)
            if showing.done():
                showing.result()  # whoever read the output has gone
            if leaving.done():
                looking.cancel()
                leaving.result()
                return None
            record = looking.result()
            progress.show(record)
    finally:
        showing.cancel()
        leaving.cancel()
        await asyncio.wait({showing, leaving})
        progress.clear()
    record = await mesh.fanouts.show(record.id)
    if shows is not None:
        for member in record.members:
            # What came while nobody listened, or had not come yet.
            if member.command not in seen and member.state != _SKIPPED:
                shows(member.agent, await mesh.show(member.command, with_output=True))
    return record


def _printer(*, is_raw: bool) -> Show:
    return partial(print_output, is_raw=is_raw)


async def _show(
    fanout: str, results: "Reader", progress: Progress, seen: set[str], shows: Show | None
) -> None:
    async for record in results:
        if record.labels.get(LABEL) == fanout and record.id not in seen and shows:
            seen.add(record.id)
            progress.clear()
            shows(record.agent or "", record)


async def _obey(mesh: "MeshClient", fanout: str, interrupted: asyncio.Event) -> None:
    await interrupted.wait()
    interrupted.clear()
    say(f"ending {fanout}; Ctrl-C again to leave it")
    try:
        await mesh.fanouts.cancel(fanout)
    except MeshError as error:
        say(f"cannot end {fanout}: {error}")
    await interrupted.wait()


def _conclude(record: FanoutRecord, common: Common) -> int:
    """Who did not do it, and how many did; returns the exit code."""
    if common.output == "json":
        print_json(record)
        return exit_code(record)
    missing = [member for member in record.members if member.state != State.SUCCEEDED]
    if missing:
        sys.stdout.flush()
        print_lines(common, [""])
        print_fitted(common, table_of(missing))
    say(told(record))
    return exit_code(record)


def exit_code(record: FanoutRecord) -> int:
    """0 if every agent succeeded, 5 if not, 123 if it was cancelled."""
    if record.state == State.SUCCEEDED:
        return 0
    return MESH_EXITS[State.CANCELLED] if record.state == State.CANCELLED else PARTIAL


def told(record: FanoutRecord) -> str:
    """`3 of 4 agents succeeded, 1 skipped (partial)`."""
    others = [
        f"{count} {state}" for state, count in record.counts.items() if state != State.SUCCEEDED
    ]
    done = f"{record.counts.get(State.SUCCEEDED, 0)} of {counted(record.agents, 'agent')} succeeded"
    why = f"; {record.reason}" if record.reason else ""
    return f"{record.id}: {', '.join([done, *others])}{why} ({record.state})"


def list_(
    *,
    limit: Annotated[int, Parameter(help="At most this many.", validator=check_limit)] = 50,
    shared: Listing = LISTING,
) -> None:
    """List fan-outs, newest first."""
    found = call(shared, lambda mesh: mesh.fanouts.list(limit=min(limit, 500)))
    columns = (
        Column("ID"),
        Column("STATE"),
        Column("AGENTS", right=True),
        Column("SUBMITTED", 1),
        PROGRAM,
        Column("COUNTS", least=12),
        Column("REASON", least=10),
    )
    rows = [
        (
            each.id,
            each.state,
            str(each.agents),
            short_time(each.submitted_at, time.time()),
            each.program,
            _counts(each),
            each.reason,
        )
        for each in found
    ]
    nothing = "no fan-outs: `mesh run --all --group GROUP -- PROGRAM`"
    print_list(
        shared, FanoutRecord, found, lambda: fit(columns, rows, screen_width()), nothing=nothing
    )


def show(id: Id, /, *, shared: Shared = SHARED) -> None:
    """Show a fan-out and what became of it on each agent."""
    record = call(shared, lambda mesh: mesh.fanouts.show(id))
    if shared.output == "json":
        print_json(record)
        return
    print_lines(shared, _described(record))
    print()
    print_fitted(shared, table_of(record.members))


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
    """Wait until a fan-out has ended; the exit code is that of `mesh run --all`."""
    record = call(common, lambda mesh: mesh.fanouts.wait(id, timeout_s=timeout))
    if common.output == "table":
        print_lines(common, [record.state])
    return _conclude(record, common)


def cancel(id: Id, /, *, shared: Shared = SHARED) -> None:
    """Ask no more agents, and end what runs; `mesh fanout wait` tells when all has ended."""
    record = call(shared, lambda mesh: mesh.fanouts.cancel(id))
    if shared.output == "json":
        print_json(record)
    else:
        print_lines(shared, [f"fan-out {record.id} is being ended"])


def retry(
    id: Id,
    /,
    *,
    failed: Annotated[
        bool, Parameter(negative="", help="Only on agents on which it did not succeed.")
    ] = False,
    silent: Annotated[
        bool, Parameter(negative="", help="Only on agents that were not asked.")
    ] = False,
    new: Annotated[
        str | None,
        Parameter(name="--id", help="Id of the new fan-out: the same one never runs twice."),
    ] = None,
    shared: Shared = SHARED,
) -> None:
    """Run a fan-out that has ended again, as a new one of yours, and print its id."""
    record = call(
        shared, lambda mesh: mesh.fanouts.retry(id, failed=failed, silent=silent, new_id=new)
    )
    print_submitted(record.id, record, shared.output)
    if shared.output == "json":
        return
    say(f"retry of {id} on {counted(record.agents, 'agent')}: see `mesh fanout wait {record.id}`")


def table_of(members: Sequence[FanoutMember]) -> Table:
    """Members as a table for this screen: those who were not asked first, the good ones last."""
    columns = (
        Column("AGENT"),
        Column("STATE"),
        Column("EXIT", right=True),
        Column("REASON", least=16),
        Column("COMMAND", 1),
    )
    ranks = {_SKIPPED: 0, str(State.SUCCEEDED): 2}
    ordered = sorted(members, key=lambda each: (ranks.get(each.state, 1), each.agent))
    rows = [
        (
            each.agent,
            each.state,
            "" if each.exit_code is None else str(each.exit_code),
            each.reason,
            "" if each.state == _SKIPPED else each.command,
        )
        for each in ordered
    ]
    return fit(columns, rows, screen_width())


def _described(record: FanoutRecord) -> list[str]:
    limit = record.max_failures
    return facts(
        [
            ("id", record.id),
            ("state", record.state),
            ("reason", record.reason),
            ("program", record.program),
            ("retry of", record.retry_of),
            ("agents", f"{record.agents}: {_counts(record)}"),
            ("at once", str(record.at_once) if record.at_once else "all"),
            ("failures", "" if limit is None else f"at most {limit}, then nobody else is asked"),
            ("client", record.client),
            ("submitted", local_and_utc(record.submitted_at)),
            ("ended", local_and_utc(record.ended_at)),
        ]
    )


def _counts(record: FanoutRecord) -> str:
    return ", ".join(f"{count} {state}" for state, count in record.counts.items())
