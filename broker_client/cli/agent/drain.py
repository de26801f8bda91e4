"""`mesh agent disable`, `pause` and `move`: draining of agents."""

import asyncio
import re
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import msgspec
from cyclopts import Parameter

from broker_client.cli.agent.targets import Targets, do_to_agents
from broker_client.cli.bulk import DryRun, Yes
from broker_client.cli.options import SHARED, Shared
from broker_client.cli.screen.report import say
from broker_client.cli.screen.tables import in_local_time
from broker_client.cli.spans import check_span, span_s
from schemas.faults import Expired
from schemas.messages.api import AgentDisable, AgentMove, AgentPause, AgentRecord, Done, NameQuery
from schemas.verbs import AGENT_DISABLE, AGENT_MOVE, AGENT_PAUSE, AGENT_SHOW, Verb

if TYPE_CHECKING:
    from broker_client.api import MeshClient

Now = Annotated[
    bool, Parameter(negative="", help="End what runs there instead of letting it finish.")
]
Note = Annotated[str, Parameter(help="Why, for others to read.")]
Wait = Annotated[
    bool, Parameter(negative="", help="Return when nothing runs there any more; say what is left.")
]
Within = Annotated[
    str | None,
    Parameter(help="How long to wait at most: 90 (seconds), 15m, 2h.", validator=check_span),
]
_LOOK_S = 0.5
_LEFT: Final = re.compile(r"\d+ tasks? left")


Stop = TypeVar("Stop", AgentDisable, AgentPause)


def disable(
    *agents: Targets,
    now: Now = False,
    note: Note = "",
    wait: Wait = False,
    within: Within = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    shared: Shared = SHARED,
) -> int:
    """Give agents no new commands; what runs there finishes."""

    async def one(mesh: "MeshClient", name: str) -> Done:
        request = AgentDisable(name=name, now=now, note=note)
        return await _drain(mesh, AGENT_DISABLE, request, wait=wait, within=within)

    return do_to_agents(shared, "disable", agents, one, _told, yes=yes, dry_run=dry_run)


def pause(
    *agents: Targets,
    for_: Annotated[
        str,
        Parameter(
            name="--for",
            help="How long: 90 (seconds), 15m, 2h, 3d; then it is enabled.",
            validator=check_span,
        ),
    ],
    now: Now = False,
    note: Note = "",
    wait: Wait = False,
    within: Within = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    shared: Shared = SHARED,
) -> int:
    """Give agents no new commands for a while; what runs there finishes."""

    async def one(mesh: "MeshClient", name: str) -> Done:
        request = AgentPause(name=name, for_s=span_s(for_), now=now, note=note)
        return await _drain(mesh, AGENT_PAUSE, request, wait=wait, within=within)

    return do_to_agents(shared, "pause", agents, one, _told, yes=yes, dry_run=dry_run)


def move(
    *agents: Targets,
    group: Annotated[str, Parameter(help="The group they are to belong to.")],
    wait: Annotated[bool, Parameter(negative="", help="Return when it works there.")] = False,
    within: Within = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    shared: Shared = SHARED,
) -> int:
    """Move agents to another group, with identity and history, once they are empty."""
    limit_s = None if within is None else span_s(within)

    async def one(mesh: "MeshClient", name: str) -> Done:
        done = await mesh.ask(AGENT_MOVE, AgentMove(name=name, group=group))
        if wait or limit_s is not None:
            await _wait_there(mesh, name, group, limit_s)
            return msgspec.structs.replace(done, message=f"agent {name} works in group {group}")
        return done

    return do_to_agents(shared, "move", agents, one, _told, yes=yes, dry_run=dry_run)


def _told(done: Done) -> str:
    return in_local_time(done.message)


async def _wait_there(mesh: "MeshClient", name: str, group: str, limit_s: float | None) -> None:
    """Wait until it works there; raises Expired (`wait_timeout`) with its state after `limit_s`."""
    record = await _shown(mesh, name)
    try:
        async with asyncio.timeout(limit_s):
            while (record.group, record.status) != (group, "active"):
                await asyncio.sleep(_LOOK_S)
                record = await _shown(mesh, name)
    except TimeoutError as error:
        said = f"agent {name} has not moved yet: {record.reason}"
        raise Expired("wait_timeout", said) from error


async def _shown(mesh: "MeshClient", name: str) -> AgentRecord:
    return await mesh.ask_until_answered(AGENT_SHOW, NameQuery(name=name))


async def _drain(
    mesh: "MeshClient", verb: Verb[Stop, Done], request: Stop, *, wait: bool, within: str | None
) -> Done:
    limit_s = None if within is None else span_s(within)
    done = await mesh.ask(verb, request)
    if wait or limit_s is not None:
        await _wait_empty(mesh, request.name, limit_s)
        return msgspec.structs.replace(done, message=_LEFT.sub("0 tasks left", done.message))
    return done


async def _wait_empty(mesh: "MeshClient", name: str, limit_s: float | None) -> None:
    """Wait until no task is left; raises Expired (`wait_timeout`) after `limit_s`."""
    left = (await _shown(mesh, name)).tasks_left
    _say_left(name, left)
    try:
        async with asyncio.timeout(limit_s):
            while left:
                await asyncio.sleep(_LOOK_S)
                before, left = left, (await _shown(mesh, name)).tasks_left
                if left != before:
                    _say_left(name, left)
    except TimeoutError as error:
        raise Expired("wait_timeout", f"agent {name} is not empty yet: {left} left") from error


def _say_left(name: str, left: int) -> None:
    say(f"{name}: {left} task{'' if left == 1 else 's'} left")
