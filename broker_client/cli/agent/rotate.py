"""`mesh agent rotate` and `mesh group rotate`: renewal of certificates now, with `--wait`."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from cyclopts import Parameter

from broker_client.cli.agent.targets import Targets, do_to_agents, is_filter
from broker_client.cli.bulk import DryRun, Yes
from broker_client.cli.options import SHARED, Common, Shared, check_seconds
from broker_client.cli.screen.report import print_json, print_lines, print_table, print_usage
from broker_client.cli.screen.tables import Column, utc_time
from broker_client.cli.session import call
from broker_client.cli.spans import to_seconds
from schemas.faults import FAULTS
from schemas.ids import check_name
from schemas.messages.api import AgentRecord, Done, NameQuery, RotateAnswer
from schemas.verbs import AGENT_ROTATE, AGENT_SHOW, GROUP_ROTATE

if TYPE_CHECKING:
    from broker_client.api import MeshClient

WAIT_S: Final = 60.0
_STEP_S: Final = 0.2
_FAILED: Final = "renewal failed"
Wait = Annotated[bool, Parameter(negative="", help="Return once the new certificates are in use.")]
Timeout = Annotated[
    float,
    Parameter(
        help="How long to wait with --wait: 90 (seconds), 5m.",
        converter=to_seconds,
        validator=check_seconds,
    ),
]


class Renewed(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of one agent's renewal. error: empty if the new certificate is in use."""

    agent: str
    serial: str = ""
    not_after: str = ""
    error: str = ""


def agent(
    *agents: Targets,
    wait: Wait = False,
    timeout: Timeout = WAIT_S,
    yes: Yes = False,
    dry_run: DryRun = False,
    shared: Shared = SHARED,
) -> int:
    """Make agents renew their certificates now, without interruption."""
    if len(agents) != 1 or is_filter(agents) or dry_run:
        if wait:
            message = "--wait is for one agent that is named, or for `mesh group rotate`"
            return print_usage(message, "leave it out", shared.output)
        return do_to_agents(shared, "rotate", agents, _order, _told, yes=yes, dry_run=dry_run)
    name = check_name("an agent", agents[0])

    async def order(mesh: "MeshClient") -> Done | list[Renewed]:
        before = await serials(mesh, [name])
        done = await mesh.ask(AGENT_ROTATE, NameQuery(name=name))
        return await wait_renewed(mesh, before, timeout) if wait else done

    answer = call(shared, order)
    if isinstance(answer, list):
        return print_renewed(shared, answer)
    if shared.output == "json":
        print_json(answer)
    else:
        print_lines(shared, [answer.message])
    return 0


async def _order(mesh: "MeshClient", name: str) -> Done:
    return await mesh.ask(AGENT_ROTATE, NameQuery(name=name))


def _told(done: Done) -> str:
    return done.message


def group(
    name: Annotated[str, Parameter(help="Name of the group.")],
    /,
    *,
    wait: Wait = False,
    timeout: Timeout = WAIT_S,
    shared: Shared = SHARED,
) -> int:
    """Make all agents of a group renew their certificates now, without interruption."""
    check_name("a group", name)

    async def order(mesh: "MeshClient") -> RotateAnswer | list[Renewed]:
        members = [agent.agent for agent in await mesh.agents(group=name)]
        before = await serials(mesh, members)
        answer = await mesh.ask(GROUP_ROTATE, NameQuery(name=name))
        if not wait:
            return answer
        ordered = {agent: before[agent] for agent in answer.ordered if agent in before}
        passed = [Renewed(agent=each.agent, error=each.reason) for each in answer.passed]
        return await wait_renewed(mesh, ordered, timeout, passed)

    answer = call(shared, order)
    if isinstance(answer, list):
        return print_renewed(shared, answer)
    if shared.output == "json":
        print_json(answer)
        return 0
    lines = [f"{len(answer.ordered)} agents of group {name} renew their certificates"]
    lines += [f"not {each.agent}: {each.reason}" for each in answer.passed]
    if answer.left_out:
        lines.append(f"and {answer.left_out} more: see mesh agent list --group {name}")
    print_lines(shared, lines)
    return 0


async def serials(mesh: "MeshClient", agents: Sequence[str]) -> dict[str, str]:
    """Return the serial of each agent's present certificate."""
    return {agent: _serial(await _show(mesh, agent)) for agent in agents}


async def wait_renewed(
    mesh: "MeshClient",
    before: Mapping[str, str],
    timeout_s: float,
    told: Sequence[Renewed] = (),
) -> list[Renewed]:
    """Wait until each agent uses another certificate than `before`, has failed, or timed out."""
    ended = list(told)
    waiting = dict(before)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while waiting:
        for agent, serial in sorted(waiting.items()):
            found = _judge(await _show(mesh, agent), serial, is_late=loop.time() >= deadline)
            if found is not None:
                ended.append(found)
                del waiting[agent]
        await asyncio.sleep(_STEP_S if waiting else 0)
    return sorted(ended, key=lambda each: each.agent)


def _judge(record: AgentRecord, before: str, *, is_late: bool) -> Renewed | None:
    certificate = record.certificate
    if certificate is not None and certificate.serial != before:
        return Renewed(
            agent=record.agent, serial=certificate.serial, not_after=certificate.not_after
        )
    failed = [badge for badge in record.badges if badge.startswith(_FAILED)]
    if failed:
        return Renewed(agent=record.agent, error=failed[0])
    return Renewed(agent=record.agent, error="not renewed in time") if is_late else None


def print_renewed(common: Common, renewed: Sequence[Renewed]) -> int:
    """Print a line per agent; returns the exit code of `renewal_failed` after any failure."""
    if common.output == "json":
        print_json([*renewed])
    else:
        columns = (
            Column("AGENT"),
            Column("VALID UNTIL (UTC)"),
            Column("SERIAL", 1),
            Column("ERROR"),
        )
        rows = [
            (
                each.agent,
                utc_time(each.not_after) if each.not_after else "",
                each.serial,
                each.error,
            )
            for each in renewed
        ]
        print_table(common, columns, rows, nothing="no agents")
    has_failed = any(each.error for each in renewed)
    return FAULTS["renewal_failed"].exit_code if has_failed else 0


async def _show(mesh: "MeshClient", agent: str) -> AgentRecord:
    return await mesh.ask_until_answered(AGENT_SHOW, NameQuery(name=agent))


def _serial(record: AgentRecord) -> str:
    return record.certificate.serial if record.certificate is not None else ""
