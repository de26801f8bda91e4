"""`mesh connection …`."""

from typing import Annotated, Final

from cyclopts import Parameter

from broker_client.cli.connection.columns import CONNECTIONS, described, members_table, trials_table
from broker_client.cli.options import LISTING, SHARED, Listing, Shared, check_seconds
from broker_client.cli.screen.columns import COLUMNS_HELP, print_columns
from broker_client.cli.screen.report import print_fitted, print_json, print_lines, print_usage, say
from broker_client.cli.session import call
from broker_client.cli.spans import to_seconds
from schemas.ids import check_name
from schemas.messages.api import (
    ConnectionCreate,
    ConnectionPin,
    ConnectionRecord,
    ConnectionSet,
    ConnectionTest,
    Done,
    NameQuery,
)
from schemas.verbs import (
    CONNECTION_CREATE,
    CONNECTION_DELETE,
    CONNECTION_DISABLE,
    CONNECTION_ENABLE,
    CONNECTION_PIN,
    CONNECTION_SET,
    CONNECTION_SHOW,
)

# Exit code of a test that has failed on some host.
FAILED: Final = 1

Name = Annotated[str, Parameter(help="Name of the connection.")]
AtOnce = Annotated[
    int | None, Parameter(help="Commands through it at a time; 0: no limit of its own.")
]
CallTimeout = Annotated[
    float | None,
    Parameter(
        help="Longest time of a command through it: 90 (seconds), 5m, 1h30m.",
        converter=to_seconds,
        validator=check_seconds,
    ),
]
OutputBytes = Annotated[int | None, Parameter(help="Most bytes of output of a command.")]
Action = Annotated[
    list[str] | None, Parameter(negative="", help="Allow this action; repeatable. None: all.")
]
Note = Annotated[str | None, Parameter(help="A note for people.")]


def create(  # noqa: PLR0913  (one option of the command line each)
    name: Name,
    /,
    *,
    group: Annotated[str, Parameter(help="Group whose hosts have the profile.")],
    kind: Annotated[
        str,
        Parameter(help="postgresql, mysql, sqlite, http, directory, sftp, script, or a plug-in's."),
    ],
    at_once: AtOnce = None,
    call_timeout: CallTimeout = None,
    output_bytes: OutputBytes = None,
    action: Action = None,
    note: Note = None,
    shared: Shared = SHARED,
) -> None:
    """Make a connection through a group."""
    request = ConnectionCreate(
        name=check_name("a connection", name),
        kind=kind,
        group=group,
        at_once=at_once or 0,
        timeout_s=call_timeout,
        output_bytes=output_bytes,
        actions=action or [],
        note=note or "",
    )
    _print(call(shared, lambda mesh: mesh.ask(CONNECTION_CREATE, request)), shared, "created")


def set_(
    name: Name,
    /,
    *,
    at_once: AtOnce = None,
    call_timeout: CallTimeout = None,
    output_bytes: OutputBytes = None,
    action: Action = None,
    all_actions: Annotated[
        bool, Parameter(negative="", help="Allow all actions of its kind again.")
    ] = False,
    note: Note = None,
    shared: Shared = SHARED,
) -> None:
    """Change a connection's limits, actions or note."""
    request = ConnectionSet(
        name=name,
        at_once=at_once,
        timeout_s=call_timeout,
        output_bytes=output_bytes,
        actions=[] if all_actions else action,
        note=note,
    )
    _print(call(shared, lambda mesh: mesh.ask(CONNECTION_SET, request)), shared, "changed")


def list_(
    *,
    group: Annotated[str | None, Parameter(help="Only connections through this group.")] = None,
    columns: Annotated[
        str | None, Parameter(help=COLUMNS_HELP, validator=CONNECTIONS.check)
    ] = None,
    shared: Listing = LISTING,
) -> None:
    """List connections with status and reason."""
    found = call(shared, lambda mesh: mesh.connections(group=group))
    nothing = "no connection yet: `mesh connection create NAME --group G --kind K`"
    print_columns(shared, CONNECTIONS, ConnectionRecord, found, names=columns, nothing=nothing)


def show(name: Name, /, *, shared: Shared = SHARED) -> None:
    """Show one connection, and the profile of each host."""
    query = NameQuery(name=name)
    record = call(shared, lambda mesh: mesh.ask_until_answered(CONNECTION_SHOW, query))
    if shared.output == "json":
        print_json(record)
        return
    print_lines(shared, described(record))
    if record.members:
        print()
        print_fitted(shared, members_table(record))
    if record.members_left_out:
        say(f"{record.members_left_out} more hosts are not shown")


def pin(
    name: Name,
    hash: Annotated[
        str | None, Parameter(help="Hash that a profile must have; see `mesh connection show`.")
    ] = None,
    /,
    *,
    none: Annotated[
        bool, Parameter(negative="", help="Use any profile of its kind again.")
    ] = False,
    shared: Shared = SHARED,
) -> int:
    """Use only hosts whose profile has this hash."""
    if (hash is None) != none:
        return print_usage(
            "one of HASH and --none is needed", f"see `mesh connection show {name}`", shared.output
        )
    request = ConnectionPin(name=name, hash=hash or "")
    record = call(shared, lambda mesh: mesh.ask(CONNECTION_PIN, request))
    _print(record, shared, f"pinned to {record.pin}" if record.pin else "not pinned any more")
    return 0


def enable(name: Name, /, *, shared: Shared = SHARED) -> None:
    """Take commands through a connection again."""
    _print_done(
        call(shared, lambda mesh: mesh.ask(CONNECTION_ENABLE, NameQuery(name=name))), shared
    )


def disable(name: Name, /, *, shared: Shared = SHARED) -> None:
    """Start no more commands through a connection; those that run go on."""
    done = call(shared, lambda mesh: mesh.ask(CONNECTION_DISABLE, NameQuery(name=name)))
    _print_done(done, shared)


def delete(name: Name, /, *, shared: Shared = SHARED) -> None:
    """Delete a connection without open commands."""
    _print_done(
        call(shared, lambda mesh: mesh.ask(CONNECTION_DELETE, NameQuery(name=name))), shared
    )


def try_(
    name: Name,
    /,
    *,
    agent: Annotated[str | None, Parameter(help="Try from the host of this agent alone.")] = None,
    try_for: Annotated[
        float,
        Parameter(
            help="Longest time of each try: 10 (seconds), 1m.",
            converter=to_seconds,
            validator=check_seconds,
        ),
    ] = 10.0,
    shared: Shared = SHARED,
) -> int:
    """Try the way to the system from each active host."""
    request = ConnectionTest(name=name, agent=agent, timeout_s=try_for)
    answer = call(shared, lambda mesh: mesh.test_connection(request))
    if shared.output == "json":
        print_json(answer)
    else:
        print_fitted(shared, trials_table(answer))
        if answer.left_out:
            say(f"{answer.left_out} more hosts were not asked; name one with --agent")
    return FAILED if any(each.result != "ok" for each in answer.members) else 0


def _print(record: ConnectionRecord, shared: Shared, what: str) -> None:
    if shared.output == "json":
        print_json(record)
        return
    print(f"connection {record.connection} {what}")
    if record.status != "active":
        print_lines(shared, [f"{record.status}: {record.reason}", f"next: {record.next}"])


def _print_done(done: Done, shared: Shared) -> None:
    if shared.output == "json":
        print_json(done)
    else:
        print(done.message)
