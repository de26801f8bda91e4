"""`mesh command …`."""

from typing import TYPE_CHECKING, Annotated, Final, Literal

from cyclopts import Parameter

from broker_client.cli.options import COMMON, SHARED, Common, Shared, check_seconds
from broker_client.cli.outcomes import exit_code, program_code
from broker_client.cli.report import (
    output_json,
    print_json,
    print_lines,
    print_table,
    record_json,
    say,
)
from broker_client.cli.run import conclude
from broker_client.cli.screen import Memory, Screen, Writer
from broker_client.cli.session import call
from broker_client.cli.tables import Column, facts, local_and_utc, local_time
from broker_client.cli.timeline import timeline
from schemas.messages.api import CommandList, CommandPage
from schemas.messages.facts import CommandRecord

if TYPE_CHECKING:
    from broker_client.api import MeshClient

Id = Annotated[str, Parameter(help="Id of the command.")]
State = Literal[
    "queued",
    "sent",
    "accepted",
    "running",
    "unknown",
    "stopping",
    "succeeded",
    "failed",
    "timed_out",
    "cancelled",
    "rejected",
    "expired",
    "undeliverable",
    "killed_fenced",
    "lost",
]
# The most that the master gives at once.
PAGE: Final = 500


def _check_limit(_type: object, value: int) -> None:
    if value < 1:
        raise ValueError("ask for at least 1")


def list_(
    *,
    group: Annotated[str | None, Parameter(help="Only commands of this group.")] = None,
    agent: Annotated[str | None, Parameter(help="Only commands of this agent.")] = None,
    state: Annotated[State | None, Parameter(help="Only commands in this state.")] = None,
    limit: Annotated[int, Parameter(help="At most this many.", validator=_check_limit)] = 50,
    shared: Shared = SHARED,
) -> None:
    """List commands, open ones first, the newest first."""

    async def pages(mesh: "MeshClient") -> tuple[list[CommandRecord], bool]:
        found: list[CommandRecord] = []
        cursor = None
        while len(found) < limit:
            page: CommandPage = await mesh.list(
                CommandList(
                    group=group,
                    agent=agent,
                    state=state,
                    limit=min(PAGE, limit - len(found)),
                    cursor=cursor,
                )
            )
            found += page.commands
            cursor = page.cursor
            if cursor is None:
                return found, False
        return found, True

    commands, is_more = call(shared, pages)
    if shared.output == "json":
        print_json(commands)
    else:
        _print_commands(shared, commands)
    if is_more:
        say(f"there may be more than these {limit}: see --limit")


def show(id: Id, /, *, shared: Shared = SHARED) -> None:
    """Show a command and the timeline of its attempts."""
    record = call(shared, lambda mesh: mesh.show(id))
    if shared.output == "json":
        print_json(record)
    else:
        print_lines(shared, [*_described(record), "", *timeline(record)])


def wait(
    id: Id,
    /,
    *,
    timeout: Annotated[
        float | None,
        Parameter(help="Seconds to wait at most; exit code 4 after them.", validator=check_seconds),
    ] = None,
    common: Common = COMMON,
) -> int:
    """Wait until a command has ended; the exit code is that of `mesh run`."""
    record = call(common, lambda mesh: mesh.wait(id, timeout_s=timeout, with_output=True))
    if common.output == "json":
        print_json(record_json(record))
        return exit_code(record)
    print_lines(common, [record.state])
    return conclude(record, common)


def cancel(id: Id, /, *, shared: Shared = SHARED) -> None:
    """Ask for the end of a command; `mesh command wait` tells when it has come."""
    record = call(shared, lambda mesh: mesh.cancel(id))
    if shared.output == "json":
        print_json(record)
    else:
        print_lines(shared, [f"command {record.id} is {record.state}"])


def logs(
    id: Id,
    /,
    *,
    follow: Annotated[
        bool, Parameter(negative="", help="Go on until the command has ended.")
    ] = False,
    attempt: Annotated[
        int | None, Parameter(help="One attempt by its number; the newest without this.")
    ] = None,
    shared: Shared = SHARED,
) -> None:
    """Write a command's output as it was printed, stdout and stderr apart."""
    memory = Memory() if shared.output == "json" else None
    writer = Writer(memory or Screen())

    async def read(mesh: "MeshClient") -> None:
        output = mesh.logs(id, attempt=attempt, follow=follow)
        try:
            async for part in output:
                await writer.write(part)
        finally:
            await output.aclose()

    call(shared, read)
    if memory is not None:
        print_json(output_json(memory.output()))


def _print_commands(common: Common, commands: list[CommandRecord]) -> None:
    columns = (
        Column("ID"),
        Column("STATE"),
        Column("EXIT", 2, right=True),
        Column("GROUP", 3),
        Column("AGENT"),
        Column("SUBMITTED", 1),
        Column("REASON", 4, least=12),
        Column("CLIENT", 5),
        Column("ACTION", 6),
    )
    rows = [
        (
            record.id,
            record.state,
            _exit(record),
            record.group,
            _agent(record),
            local_time(record.submitted_at),
            record.reason,
            record.client,
            record.action,
        )
        for record in commands
    ]
    print_table(common, columns, rows, nothing="no commands")


def _agent(record: CommandRecord) -> str:
    """Where it ran or runs last, or else whom it is meant for."""
    return record.attempts[-1].agent if record.attempts else record.agent or ""


def _exit(record: CommandRecord) -> str:
    code = program_code(record)
    return "" if code is None else str(code)


def _described(record: CommandRecord) -> list[str]:
    return facts(
        [
            ("id", record.id),
            ("state", _since(record)),
            ("reason", record.reason),
            ("next", record.next),
            ("exit code", _exit(record)),
            ("group", record.group),
            ("agent", _agent(record)),
            ("action", record.action),
            ("client", record.client),
            ("labels", ", ".join(f"{name}={value}" for name, value in record.labels.items())),
            ("output", _sizes(record)),
        ]
    )


def _since(record: CommandRecord) -> str:
    since = record.since or record.ended_at
    return f"{record.state} since {local_and_utc(since)}" if since else record.state


def _sizes(record: CommandRecord) -> str:
    sizes = f"{record.stdout_bytes} bytes of stdout, {record.stderr_bytes} of stderr"
    return f"{sizes}, cut at its limit" if record.truncated else sizes
