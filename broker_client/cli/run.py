"""`mesh run`."""

import sys
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from broker_client.cli.attend import attend, leave_now
from broker_client.cli.options import COMMON, Common, check_seconds, pairs
from broker_client.cli.outcomes import (
    ADVICE,
    INTERRUPTED,
    exit_code,
    is_verdict,
)
from broker_client.cli.report import print_json, print_problem, print_usage, record_json, say
from broker_client.cli.screen import Memory, Screen
from broker_client.cli.session import call
from schemas import limits
from schemas.faults import Refused
from schemas.messages.actions import ProcessArgs
from schemas.messages.api import Loss, OnInactive, OnLost
from schemas.messages.facts import DEFAULT_TERMS, CommandRecord

if TYPE_CHECKING:
    from broker_client.api import MeshClient, SubmitFields

# Room for the rest of the request beside what is read from stdin.
STDIN_BYTES: Final = limits.PAYLOAD_BYTES - 32 * 1024


def run(  # noqa: PLR0913  (one option of the command line each)
    *program: Annotated[str, Parameter(allow_leading_hyphen=True, help="Program and arguments.")],
    group: Annotated[str | None, Parameter(help="Run it on one agent of this group.")] = None,
    agent: Annotated[str | None, Parameter(help="Run it on this agent.")] = None,
    id: Annotated[
        str | None, Parameter(help="Id of the command: the same one never runs twice.")
    ] = None,
    timeout: Annotated[
        float | None,
        Parameter(help="Seconds after which the program is ended.", validator=check_seconds),
    ] = None,
    detach: Annotated[
        bool, Parameter(negative="", help="Print the id and do not wait for the end.")
    ] = False,
    env: Annotated[
        list[str] | None, Parameter(negative="", help="NAME=VALUE for the program; repeatable.")
    ] = None,
    cwd: Annotated[str | None, Parameter(help="Directory on the host to run it in.")] = None,
    queue_ttl: Annotated[
        float | None, Parameter(help="Seconds it may wait for an agent.", validator=check_seconds)
    ] = None,
    loss: Annotated[
        Loss | None,
        Parameter(help="While its agent hears no master: end it, hold it for --hold, or go on."),
    ] = None,
    hold: Annotated[
        float | None,
        Parameter(help="Seconds it may go on without a master.", validator=check_seconds),
    ] = None,
    on_lost: Annotated[
        OnLost, Parameter(help="Once it is lost: end, run again (if that is safe), or wait.")
    ] = "error",
    on_inactive: Annotated[
        OnInactive, Parameter(help="While no agent is active: wait for one, or be refused.")
    ] = "queue",
    priority: Annotated[
        int | None, Parameter(help="0 to 4 (2): among what waits, the greater goes first.")
    ] = None,
    tag: Annotated[
        list[str] | None, Parameter(negative="", help="NAME=VALUE its agent must have; repeatable.")
    ] = None,
    label: Annotated[
        list[str] | None, Parameter(negative="", help="NAME=VALUE to keep with it; repeatable.")
    ] = None,
    stdin: Annotated[
        bool, Parameter(negative="", help="Send what is on stdin to the program.")
    ] = False,
    common: Common = COMMON,
) -> int:
    """Run a program on an agent, show its output as it comes, end with its exit code."""
    problem = _problem(program, group, agent) or _loss_problem(loss, hold)
    if problem:
        return print_usage(problem, "see `mesh run --help`", common.output)
    work = ProcessArgs(
        argv=[*program],
        env=pairs("--env", env),
        cwd=cwd,
        stdin=_read_stdin() if stdin else b"",
        timeout_s=timeout,
    )
    fields: SubmitFields = {
        "id": id,
        "group": group,
        "agent": agent,
        "queue_ttl_s": queue_ttl,
        "loss": loss or ("kill" if hold is None else "hold"),
        "hold_s": hold,
        "on_lost": on_lost,
        "with_output": not detach,
        "on_inactive": on_inactive,
        "priority": DEFAULT_TERMS.priority if priority is None else priority,
        "tags": pairs("--tag", tag),
        "labels": pairs("--label", label),
    }

    async def submit_only(mesh: "MeshClient") -> int:
        answer = await mesh.submit(work, **fields)
        if common.output == "json":
            print_json(answer)
        else:
            print(answer.id)
        return 0

    async def follow(mesh: "MeshClient") -> int:
        async with mesh.start(work, **fields) as (answer, waiter):
            memory = Memory() if common.output == "json" else None
            record = await attend(mesh, answer.id, waiter, memory or Screen())
            if record is None:
                return _left(answer.id)
            if memory is not None:
                print_json(record_json(record, memory.output()))
                return exit_code(record)
            return conclude(record, common)

    return call(common, submit_only if detach else follow)


def conclude(record: CommandRecord, common: Common) -> int:
    """Say what the program could not say by itself; returns the exit code."""
    code = exit_code(record)
    if not is_verdict(record):
        return code
    # The state stands at the end, as the code of any fault does.
    message = f"command {record.id}" + (f": {record.reason}" if record.reason else " has ended")
    advice = ADVICE.get(record.state, "see `mesh command show ID`").replace("ID", record.id)
    return print_problem(record.state, message, advice, code, common.output)


def _problem(program: tuple[str, ...], group: str | None, agent: str | None) -> str:
    if (group is None) == (agent is None):
        return "one of --group and --agent is needed"
    return "" if program else "a program is needed, behind --"


def _loss_problem(loss: Loss | None, hold_s: float | None) -> str:
    if loss == "hold" and hold_s is None:
        return "--loss hold needs --hold: for how many seconds may it go on?"
    if loss in ("kill", "continue") and hold_s is not None:
        return f"--hold says nothing with --loss {loss}"
    return ""


def _read_stdin() -> bytes:
    data = sys.stdin.buffer.read(STDIN_BYTES + 1)
    if len(data) > STDIN_BYTES:
        raise Refused("too_large", f"more than {STDIN_BYTES} bytes on stdin")
    return data


def _left(command: str) -> int:
    say(f"left: {command} goes on; see `mesh command show {command}`")
    leave_now(INTERRUPTED)
    return INTERRUPTED
