"""`mesh run --all`, and `mesh fanout …`: one command for many agents."""

import asyncio
import secrets
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

from cyclopts import Parameter
from msgspec import structs

from broker_client.cli.agent.listing import table_of as agents_table
from broker_client.cli.agent.targets import check_targets, find_agents, near_patterns
from broker_client.cli.command.ledger import PROGRAM
from broker_client.cli.command.listing import PAGE, say_more
from broker_client.cli.fanout.options import Batch
from broker_client.cli.fanout.watch import SKIPPED, Shown, Watch, folder_for
from broker_client.cli.filters import unmatched
from broker_client.cli.options import (
    COMMON,
    LISTING,
    SHARED,
    Common,
    Listing,
    Shared,
    check_seconds,
)
from broker_client.cli.outcomes import MESH_EXITS, PARTIAL
from broker_client.cli.run.attend import (
    interrupts,
    leave_now,
    signals_leave,
    told_if_left,
    until_submitted,
)
from broker_client.cli.screen.columns import (
    COLUMNS_HELP,
    Columns,
    Trait,
    count,
    moment,
    print_columns,
    text,
)
from broker_client.cli.screen.report import (
    print_fitted,
    print_json,
    print_lines,
    print_submitted,
    say,
    told_if_unwritable,
)
from broker_client.cli.screen.size import screen_width
from broker_client.cli.screen.tables import (
    Column,
    Table,
    duration,
    facts,
    fit,
    local_and_utc,
)
from broker_client.cli.session import call
from broker_client.cli.spans import to_seconds
from broker_client.cli.words import INTERRUPTED
from schemas.counting import counted
from schemas.faults import Refused
from schemas.listed import AGENTS
from schemas.messages.actions import ProcessArgs
from schemas.messages.api import AgentRecord
from schemas.messages.fanouts import FanoutMember, FanoutRecord
from schemas.states import AgentStatus, State

if TYPE_CHECKING:
    from broker_client.api import MeshClient
    from broker_client.fanouts import FanoutFields

SHOW: Final = "mesh fanout show"
Id = Annotated[str, Parameter(help="Id of the fan-out.")]


def _check_limit(_type: object, value: int) -> None:
    if not 1 <= value <= PAGE:
        raise ValueError(f"ask for 1 to {PAGE}")


class FanoutOptions(NamedTuple):
    """Selected agents, and the concurrency limit."""

    id: str | None
    group: str | None
    agents: list[str]
    tags: dict[str, str]
    words: tuple[str, ...]
    batch: Batch
    max_failures: int | None
    batch_sleep_s: float


def run_on_many(
    common: Common,
    work: ProcessArgs,
    wanted: FanoutOptions,
    fields: "FanoutFields",
    *,
    detach: bool,
    shown: Shown,
    dry_run: bool,
) -> int:
    """`mesh run` for many agents; the exit code is 0 only if it succeeded on each."""
    check_targets(wanted.words)
    if dry_run:
        return _only_said(common, wanted)
    chosen = wanted.id or secrets.token_hex(8)
    shown = shown._replace(is_quiet=common.output == "json", out=folder_for(shown.out))

    async def submit(mesh: "MeshClient", interrupted: asyncio.Event) -> FanoutRecord | None:
        agents, at_once = wanted.agents, wanted.batch.most
        if wanted.words or wanted.batch.percent:
            found = [each.agent for each in await _meant(mesh, wanted)]
            at_once = wanted.batch.of(len(found))
            agents = found if wanted.words else agents
        submitting = mesh.fanouts.submit(
            "process",
            work,
            id=chosen,
            group=wanted.group,
            agents=agents,
            tags=wanted.tags,
            at_once=at_once,
            max_failures=wanted.max_failures,
            batch_sleep_s=wanted.batch_sleep_s,
            **fields,
        )
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
            left = told_if_left(mesh.fanouts.show, record.id, "mesh fanout cancel")
            with told_if_unwritable(goes_on):
                async with left:
                    watch = Watch(mesh, record.id, shown)
                    ended = await watch.attend(record, results, interrupted)
        if ended is None:
            say(f"left: {record.id} goes on; see `mesh fanout show {record.id}`")
            leave_now(INTERRUPTED)
            return INTERRUPTED
        return _conclude(ended, common)

    with signals_leave(chosen, see=SHOW):
        return call(common, submit_only if detach else follow)


async def _meant_instead(mesh: "MeshClient", words: Sequence[str]) -> str:
    return unmatched(words, AGENTS) or await near_patterns(mesh, words)


async def _meant(mesh: "MeshClient", wanted: FanoutOptions) -> list[AgentRecord]:
    """Return the agents that match all of the choices, as the master will choose them.

    Raises Refused (`tags_unmatched`) if there are none.
    """
    found = [
        each
        for each in await find_agents(mesh, wanted.words, group=wanted.group)
        if wanted.group in (None, each.group)
        and (not wanted.agents or each.agent in wanted.agents)
        and wanted.tags.items() <= each.tags.items()
    ]
    if not found:
        near = await _meant_instead(mesh, wanted.words) if wanted.words else ""
        raise Refused("tags_unmatched", f"{_choice(wanted)}{near}")
    return found


def _choice(wanted: FanoutOptions) -> str:
    """Return `no agent passes 'wib-*', is in group web, and has tag site=a`."""
    parts = [
        f"passes {' '.join(wanted.words)!a}" if wanted.words else "",
        f"is in group {wanted.group}" if wanted.group else "",
        f"has tag {' '.join(f'{k}={v}' for k, v in wanted.tags.items())}" if wanted.tags else "",
    ]
    return f"no agent {' and '.join(part for part in parts if part)}"


def _only_said(common: Common, wanted: FanoutOptions) -> int:
    """Print the agents on which it would run; nothing is submitted."""
    found = call(common, lambda mesh: _meant(mesh, wanted))
    if common.output == "json":
        print_json(found)
    else:
        print_fitted(common, agents_table(found))
    idle = sum(each.status != AgentStatus.ACTIVE for each in found)
    said = f", {counted(idle, 'agent')} of them not active" if idle else ""
    batch = wanted.batch.of(len(found))
    at_once = f", {batch} at the same time" if batch else ""
    say(f"{counted(len(found), 'agent')}{said}{at_once}: nothing is done")
    return 0


def _conclude(record: FanoutRecord, common: Common) -> int:
    """Print the agents without success and the counts; returns the exit code."""
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
    """Return 0 if every agent succeeded, 5 if not, 123 if it was cancelled."""
    if record.state == State.SUCCEEDED:
        return 0
    return MESH_EXITS[State.CANCELLED] if record.state == State.CANCELLED else PARTIAL


def told(record: FanoutRecord) -> str:
    """Return `3 of 4 agents succeeded, 1 skipped (partial)`."""
    others = [
        f"{count} {state}" for state, count in record.counts.items() if state != State.SUCCEEDED
    ]
    done = f"{record.counts.get(State.SUCCEEDED, 0)} of {counted(record.agents, 'agent')} succeeded"
    why = f"; {record.reason}" if record.reason else ""
    return f"{record.id}: {', '.join([done, *others])}{why} ({record.state})"


def _counts(record: FanoutRecord) -> str:
    return ", ".join(f"{count} {state}" for state, count in record.counts.items())


_TRAITS: Final[dict[str, Trait[FanoutRecord]]] = {
    "id": text("ID", lambda f: f.id),
    "state": text("STATE", lambda f: f.state),
    "agents": count("AGENTS", lambda f: f.agents),
    "submitted": moment("SUBMITTED", lambda f: f.submitted_at, rank=1),
    "ended": moment("ENDED", lambda f: f.ended_at, rank=5),
    "client": text("CLIENT", lambda f: f.client, rank=5),
    "retry-of": text("RETRY OF", lambda f: f.retry_of, rank=7),
    "program": Trait(PROGRAM, lambda f, _: f.program, lambda f, _: f.program),
    "counts": text("COUNTS", _counts, least=12),
    "reason": text("REASON", lambda f: f.reason, least=10),
}
FANOUTS: Final = Columns(
    _TRAITS,
    usual=("id", "state", "agents", "submitted", "program", "counts", "reason"),
    other={"by": "client", "argv": "program"},
)


def list_(
    *,
    limit: Annotated[int, Parameter(help="At most this many.", validator=_check_limit)] = 50,
    columns: Annotated[str | None, Parameter(help=COLUMNS_HELP, validator=FANOUTS.check)] = None,
    shared: Listing = LISTING,
) -> None:
    """List fan-outs, newest first."""
    found = call(shared, lambda mesh: mesh.fanouts.list(limit=limit))
    nothing = "no fan-outs: `mesh run --all --group GROUP -- PROGRAM`"
    print_columns(shared, FANOUTS, FanoutRecord, found, names=columns, nothing=nothing)
    if len(found) == limit:
        say_more(limit)


def show(id: Id, /, *, shared: Shared = SHARED) -> None:
    """Show a fan-out and its result on each agent."""
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

    async def ended(mesh: "MeshClient") -> FanoutRecord:
        mesh.notices.goes_on = f"{id} goes on"
        return await mesh.fanouts.wait(id, timeout_s=timeout)

    record = call(common, ended)
    if common.output == "table":
        print_lines(common, [record.state])
    return _conclude(record, common)


def cancel(id: Id, /, *, shared: Shared = SHARED) -> None:
    """Start no more commands, and cancel the running ones; `mesh fanout wait` waits for the end."""
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
    """Return members as a table for this screen: skipped ones first, successful ones last."""
    columns = (
        Column("AGENT"),
        Column("STATE"),
        Column("EXIT", right=True),
        Column("REASON", least=16),
        Column("COMMAND", 1),
    )
    ranks = {SKIPPED: 0, str(State.SUCCEEDED): 2}
    ordered = sorted(members, key=lambda each: (ranks.get(each.state, 1), each.agent))
    rows = [
        (
            each.agent,
            each.state,
            "" if each.exit_code is None else str(each.exit_code),
            each.reason,
            "" if each.state == SKIPPED else each.command,
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
            ("batch sleep", duration(record.batch_sleep_s) if record.batch_sleep_s else ""),
            ("failures", "" if limit is None else f"at most {limit}, then nobody else is asked"),
            ("client", record.client),
            ("submitted", local_and_utc(record.submitted_at)),
            ("ended", local_and_utc(record.ended_at)),
        ]
    )
