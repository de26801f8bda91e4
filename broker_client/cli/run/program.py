"""`mesh run`."""

import contextlib
import os
import re
import secrets
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter
from msgspec import structs

from broker_client.cli.fanout.manage import FanoutOptions, run_on_many
from broker_client.cli.fanout.options import MANY, Many, batch_of
from broker_client.cli.fanout.watch import Shown
from broker_client.cli.options import (
    COMMON,
    Common,
    check_seconds,
    environment,
    pairs,
)
from broker_client.cli.outcomes import (
    ADVICE,
    exit_code,
    is_verdict,
    program_code,
)
from broker_client.cli.run.attend import (
    attend,
    interrupts,
    leave_now,
    signals_leave,
    told_if_left,
    until_submitted,
)
from broker_client.cli.run.detached import SHOW, say_why_it_waits, submit_only
from broker_client.cli.run.stdin import read_first, whole_stdin
from broker_client.cli.screen.report import (
    print_json,
    print_problem,
    print_usage,
    record_json,
    say,
    told_if_unwritable,
)
from broker_client.cli.screen.sinks import Memory, Screen
from broker_client.cli.session import call
from broker_client.cli.spans import span_s, to_seconds
from broker_client.cli.words import BEHIND, INTERRUPTED
from schemas import limits
from schemas.argv import quoted_word
from schemas.faults import Refused
from schemas.messages.actions import ProcessArgs
from schemas.messages.api import Loss, OnInactive, OnLost
from schemas.messages.facts import DEFAULT_TERMS, CommandRecord
from schemas.states import State
from schemas.texts import ON_STDERR

if TYPE_CHECKING:
    from broker_client.api import MeshClient, Stdin, SubmitFields
    from broker_client.fanouts import FanoutFields

_OF_A_SHELL: Final = re.compile(r"[\s|&;<>$*`]")
# Bytes of stdin, which leave room for the rest of the request.
STDIN_BYTES: Final = limits.PAYLOAD_BYTES - 32 * 1024


def run(  # noqa: PLR0913  (one option of the command line each)
    *program: Annotated[str, Parameter(allow_leading_hyphen=True, help="Program and arguments.")],
    group: Annotated[str | None, Parameter(help="Run it on one agent of this group.")] = None,
    agent: Annotated[
        list[str] | None,
        Parameter(negative="", help="Run it on this agent; on each of them if repeated."),
    ] = None,
    all: Annotated[
        bool,
        Parameter(
            negative="",
            help="Run it on every agent of --group, with every --tag, and of the names or words of"
            " a filter that stand before --: `--all 'web-*' tag:site=a -- uname`.",
        ),
    ] = False,
    id: Annotated[
        str | None, Parameter(help="Id of the command: the same one never runs twice.")
    ] = None,
    timeout: Annotated[
        float | None,
        Parameter(
            help="Time after which the program is ended: 90 (seconds), 5m, 1h30m.",
            converter=to_seconds,
            validator=check_seconds,
        ),
    ] = None,
    detach: Annotated[
        bool, Parameter(negative="", help="Print the id and do not wait for the end.")
    ] = False,
    env: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            help="NAME=VALUE for the program, or NAME for the value it has here; repeatable.",
        ),
    ] = None,
    cwd: Annotated[str | None, Parameter(help="Directory on the host to run it in.")] = None,
    queue_ttl: Annotated[
        float | None,
        Parameter(
            help="How long it may wait for an agent: 90 (seconds), 5m, 1h30m.",
            converter=to_seconds,
            validator=check_seconds,
        ),
    ] = None,
    loss: Annotated[
        Loss | None,
        Parameter(help="While its agent hears no master: end it, hold it for --hold, or go on."),
    ] = None,
    hold: Annotated[
        float | None,
        Parameter(
            help="How long it may go on without a master: 90 (seconds), 5m, 1h30m.",
            converter=to_seconds,
            validator=check_seconds,
        ),
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
    raw: Annotated[
        bool, Parameter(negative="", help="Let output steer this terminal: trusted programs only.")
    ] = False,
    many: Many = MANY,
    common: Common = COMMON,
) -> int:
    """Run a program on an agent, show its output as it comes, end with its exit code."""
    agents, is_many = agent or [], all or len(agent or []) > 1
    is_choice = many.dry_run and not (group or tag)
    words, program = divided(program, is_all=all, is_choice=is_choice)
    chosen = words if is_choice else ()
    problem = (
        _problem(
            program or chosen,
            group,
            agents,
            [*(tag or ()), *words],
            is_all=all,
        )
        or _loss_problem(loss, hold)
        or many.problem(is_many=is_many)
        or ("--on-inactive refuse is for one agent" if is_many and on_inactive == "refuse" else "")
    )
    if problem:
        return print_usage(problem, "see `mesh run --help`", common.output)
    first = read_first(STDIN_BYTES + 1) if stdin else None
    work = ProcessArgs(
        argv=[*program],
        env=environment(env, os.environ),
        cwd=cwd,
        stdin=b"" if first is None else first,
        timeout_s=timeout,
    )
    source = _large(first, is_many=is_many)
    work = work if source is None else structs.replace(work, stdin=b"")
    command = id or secrets.token_hex(8)
    fields: SubmitFields = {
        "id": command,
        "group": group,
        "agent": agents[0] if agents else None,
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

    if is_many:
        wanted = FanoutOptions(
            id=id,
            group=group,
            agents=agents,
            tags=pairs("--tag", tag),
            words=words,
            batch=batch_of(many.batch),
            max_failures=many.max_failures,
            batch_sleep_s=span_s(many.batch_sleep) if many.batch_sleep else 0.0,
        )
        shown = Shown(is_live=many.live, display=many.display, out=many.out, is_raw=raw)
        each: FanoutFields = {
            "queue_ttl_s": queue_ttl,
            "loss": fields["loss"],
            "hold_s": hold,
            "on_lost": on_lost,
            "with_output": not detach,
            "priority": fields["priority"],
            "labels": fields["labels"],
        }
        return run_on_many(
            common, work, wanted, each, detach=detach, shown=shown, dry_run=many.dry_run
        )

    async def submit(mesh: "MeshClient") -> int:
        submitting = mesh.submit(work, stdin=source, **fields)
        return await submit_only(submitting, command, common, is_own_id=bool(id))

    async def follow(mesh: "MeshClient") -> int:
        async with contextlib.AsyncExitStack() as stack:
            interrupted = stack.enter_context(interrupts())
            starting = stack.enter_async_context(mesh.start(work, stdin=source, **fields))
            started = await until_submitted(starting, command, interrupted, see=SHOW)
            if started is None:
                return INTERRUPTED
            answer, waiter = started
            mesh.notices.goes_on = (
                f"{answer.id} goes on on its agent, as --loss {fields['loss']} says"
            )
            memory = Memory() if common.output == "json" else None
            if memory is None:
                say_why_it_waits(answer)
            goes_on = f"see `mesh command show {answer.id}`, which goes on unless it has ended"
            left = told_if_left(mesh.show, answer.id, "mesh command cancel")
            said = answer.state if memory is None and answer.next else ""
            with told_if_unwritable(goes_on):
                async with left:
                    sink = memory or Screen(is_raw=raw)
                    record = await attend(mesh, answer.id, waiter, sink, interrupted, said=said)
            if record is None:
                return _left(answer.id)
            if memory is not None:
                with told_if_unwritable(f"see `mesh command show {answer.id}`"):
                    print_json(record_json(record, memory.output()))
                return exit_code(record)
            return conclude(record, common)

    with signals_leave(command, see=SHOW):
        return call(common, submit if detach else follow)


def divided(
    words: tuple[str, ...], *, is_all: bool, is_choice: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split the words into selected agents, before `--` with --all, and the program behind it.

    is_choice: without `--` they are the agents, of which only --dry-run is asked.
    """
    if BEHIND not in words:
        return (words, ()) if is_all and is_choice else ((), words)
    at = words.index(BEHIND)
    before, program = words[:at], words[at + 1 :]
    return (before, program) if is_all else ((), before + program)


def conclude(record: CommandRecord, common: Common) -> int:
    """Print the reason of an end that the program did not cause; returns the exit code."""
    code = exit_code(record)
    if not is_verdict(record):
        return code
    # The state is at the end, as the code of a fault is.
    message = f"command {record.id}" + (f": {record.reason}" if record.reason else " has ended")
    advice = ADVICE.get(record.state, "see `mesh command show ID`").replace("ID", record.id)
    if record.state == State.CANCELLED and not any(each.started_at for each in record.attempts):
        advice = "it never ran"
    if hint := shell_hint(record):
        advice = hint
    return print_problem(record.state, message, advice, code, common.output)


def shell_hint(record: CommandRecord) -> str:
    """Return a hint if a whole shell line was given as the name of a program."""
    argv = record.arguments.argv if record.arguments else []
    is_own = not record.reason or record.reason.startswith(ON_STDERR)
    could_start = program_code(record) not in (None, 126, 127) or is_own
    if could_start or len(argv) != 1 or not _OF_A_SHELL.search(argv[0]):
        return ""
    return f"it was taken as one program: for a shell, mesh run … -- sh -c {quoted_word(argv[0])}"


def _problem(
    program: tuple[str, ...],
    group: str | None,
    agents: list[str],
    tags: list[str] | None,
    *,
    is_all: bool,
) -> str:
    if is_all and not (group or tags):
        return "--all of which? --group, --tag, or names or a filter before --: 'web-*' -- uname"
    if is_all and agents:
        return "--all chooses the agents: leave --agent out"
    if not is_all and (group is None) == (not agents):
        return "one of --group and --agent is needed; --all runs it on every agent of a group"
    if program and program[0].startswith("-"):
        return f"unknown option: {program[0]}"
    return "" if program else "a program is needed, behind --"


def _loss_problem(loss: Loss | None, hold_s: float | None) -> str:
    if loss == "hold" and hold_s is None:
        return "--loss hold needs --hold: for how many seconds may it go on?"
    if loss in ("kill", "continue") and hold_s is not None:
        return f"--hold says nothing with --loss {loss}"
    return ""


def _large(first: bytes | None, *, is_many: bool) -> "Stdin | None":
    """Return the whole of stdin if it is too large to travel in a command, else None.

    first: what was read of it. Raises Refused (`too_large`) for many agents.
    """
    if first is None or len(first) <= STDIN_BYTES:
        return None
    if is_many:
        raise Refused("too_large", f"more than {STDIN_BYTES} bytes on stdin for many agents")
    return whole_stdin(first)


def _left(command: str) -> int:
    say(f"left: {command} goes on; see `mesh command show {command}`")
    leave_now(INTERRUPTED)
    return INTERRUPTED
