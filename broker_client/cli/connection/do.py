"""`mesh do`: one action through a connection."""

import contextlib
import secrets
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from broker_client.cli.command.story import result_pairs, result_text
from broker_client.cli.connection.arguments import act_of
from broker_client.cli.options import COMMON, Common, check_seconds, pairs
from broker_client.cli.outcomes import ADVICE, exit_code
from broker_client.cli.run.attend import (
    attend,
    interrupts,
    leave_now,
    signals_leave,
    until_submitted,
)
from broker_client.cli.run.detached import SHOW, say_why_it_waits, submit_only
from broker_client.cli.screen.report import (
    print_json,
    print_problem,
    record_json,
    say,
    told_if_unwritable,
)
from broker_client.cli.screen.sinks import Memory, Screen
from broker_client.cli.screen.tables import facts
from broker_client.cli.session import call
from broker_client.cli.spans import to_seconds
from broker_client.cli.words import INTERRUPTED
from schemas.faults import FAULTS
from schemas.messages.api import OnInactive
from schemas.messages.facts import CommandRecord
from schemas.states import State

if TYPE_CHECKING:
    from broker_client.acts import Act
    from broker_client.api import MeshClient, SubmitFields

# Their output is the answer, so the result goes to stderr beside it.
_WITH_BODY: Final = frozenset({"sql.query", "http.request", "file.list", "file.read", "script.run"})


def do(  # noqa: PLR0913  (one option of the command line each)
    connection: Annotated[str, Parameter(help="Name of the connection.")],
    action: Annotated[str, Parameter(help="Action, as `mesh connection show NAME` lists them.")],
    /,
    *,
    arg: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            help="NAME=TEXT, NAME.KEY=TEXT or NAME:=JSON: an argument of the action; repeatable.",
        ),
    ] = None,
    args: Annotated[
        str | None, Parameter(help="File with arguments in JSON or TOML; -: JSON on stdin.")
    ] = None,
    body: Annotated[
        str | None,
        Parameter(help="File to send as the argument body, or a script's stdin; -: stdin."),
    ] = None,
    id: Annotated[
        str | None, Parameter(help="Id of the command: the same one never runs twice.")
    ] = None,
    timeout: Annotated[
        float | None,
        Parameter(
            help="Time after which the call is ended, below the connection's: 90 (seconds), 5m.",
            converter=to_seconds,
            validator=check_seconds,
        ),
    ] = None,
    output_bytes: Annotated[
        int | None, Parameter(help="Bytes of output beyond which the call fails.")
    ] = None,
    detach: Annotated[
        bool, Parameter(negative="", help="Print the id and do not wait for the end.")
    ] = False,
    on_inactive: Annotated[
        OnInactive | None,
        Parameter(help="While no host with the profile is active: be refused, or queue."),
    ] = None,
    queue_ttl: Annotated[
        float | None,
        Parameter(
            help="How long it may wait for a host: 90 (seconds), 5m, 1h30m.",
            converter=to_seconds,
            validator=check_seconds,
        ),
    ] = None,
    label: Annotated[
        list[str] | None, Parameter(negative="", help="NAME=VALUE to keep with it; repeatable.")
    ] = None,
    raw: Annotated[
        bool, Parameter(negative="", help="Let output steer this terminal: trusted systems only.")
    ] = False,
    common: Common = COMMON,
) -> int:
    """Carry out one action through a connection, and show its output and its result."""
    work = act_of(action, arg, args, body)
    command = id or secrets.token_hex(8)
    fields: SubmitFields = {
        "id": command,
        "connection": connection,
        "call_timeout_s": timeout,
        "output_bytes": output_bytes,
        "queue_ttl_s": queue_ttl,
        "on_inactive": on_inactive,
        "with_output": not detach,
        "labels": pairs("--label", label),
    }

    async def submit(mesh: "MeshClient") -> int:
        submitting = mesh.submit(work, **fields)
        return await submit_only(submitting, command, common, is_own_id=bool(id))

    async def follow(mesh: "MeshClient") -> int:
        return await _follow(mesh, work, fields, common, is_raw=raw)

    with signals_leave(command, see=SHOW):
        return call(common, submit if detach else follow)


async def _follow(
    mesh: "MeshClient", work: "Act", fields: "SubmitFields", common: Common, *, is_raw: bool
) -> int:
    async with contextlib.AsyncExitStack() as stack:
        interrupted = stack.enter_context(interrupts())
        starting = stack.enter_async_context(mesh.start(work, **fields))
        started = await until_submitted(starting, fields["id"] or "", interrupted, see=SHOW)
        if started is None:
            return INTERRUPTED
        answer, waiter = started
        memory = Memory() if common.output == "json" else None
        if memory is None:
            say_why_it_waits(answer)
        see = f"see `{SHOW} {answer.id}`"
        with told_if_unwritable(f"{see}, which goes on unless it has ended"):
            record = await attend(
                mesh, answer.id, waiter, memory or Screen(is_raw=is_raw), interrupted
            )
        if record is None:
            say(f"left: {answer.id} goes on; {see}")
            leave_now(INTERRUPTED)
            return INTERRUPTED
        with told_if_unwritable(see):
            if memory is not None:
                print_json(record_json(record, memory.output()))
                return call_code(record)
            return conclude(record, common)


def call_code(record: CommandRecord) -> int:
    """Return 0 for success, the exit code of the fault that ended the call, or the verdict's."""
    code = _fault_of(record)
    if record.state in (State.FAILED, State.REJECTED) and code:
        return FAULTS[code].exit_code
    return exit_code(record)


def conclude(record: CommandRecord, common: Common) -> int:
    """Print the result of a call, or the reason of its failure; returns the exit code."""
    if record.state == State.SUCCEEDED:
        _print_result(record)
        return 0
    code, attempt = _fault_of(record), record.attempts[-1] if record.attempts else None
    effect = f"; effect: {attempt.effect}" if attempt is not None and attempt.effect else ""
    message = f"command {record.id}: {record.reason or record.state}{effect}"
    advice = FAULTS[code].advice if code else ADVICE.get(record.state, f"see `{SHOW} ID`")
    advice = advice.replace("NAME", record.connection or "NAME").replace(" ID`", f" {record.id}`")
    return print_problem(code or record.state, message, advice, call_code(record), common.output)


def _fault_of(record: CommandRecord) -> str:
    """The code of the fault that ended it, of its last attempt or of an agent's refusal."""
    attempt = record.attempts[-1] if record.attempts else None
    found = attempt.code if attempt is not None else ""
    found = found or record.reason.partition(":")[0]
    return found if found in FAULTS else ""


def _print_result(record: CommandRecord) -> None:
    """Print the result: a line for each name, or one line on stderr beside the output."""
    if record.action not in _WITH_BODY:
        for line in facts(result_pairs(record)):
            print(line)
    elif text := result_text(record):
        say(text)
