"""`mesh agent disable` and `pause`: nothing new for an agent, and what it still runs."""

import asyncio
import re
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import msgspec
from cyclopts import Parameter

from broker_client.cli.options import SHARED, Shared
from broker_client.cli.screen.report import print_json, print_lines, say
from broker_client.cli.screen.tables import in_local_time
from broker_client.cli.session import call
from broker_client.cli.spans import check_span, span_s
from schemas.faults import Expired
from schemas.messages.api import AgentDisable, AgentMove, AgentPause, AgentRecord, Done, NameQuery
from schemas.verbs import AGENT_DISABLE, AGENT_MOVE, AGENT_PAUSE, AGENT_SHOW, Verb

if TYPE_CHECKING:
    from broker_client.api import MeshClient

Name = Annotated[str, Parameter(help="Name of the agent.")]
Now = Annotated[
    bool, Parameter(negative="", help="End what runs there instead of letting it finish.")
]
Note = Annotated[str, Parameter(help="Why, for others to read.")]
Wait = Annotated[
    bool, Parameter(negative="", help="Return when nothing runs there any more; say what is left.")
]
Within = Annotated[
    str | None,
    Parameter(help="How long to wait at most: 90s, 15m, 2h.", validator=check_span),
]
_LOOK_S = 0.5
_LEFT: Final = re.compile(r"\d+ tasks? left")


Stop = TypeVar("Stop", AgentDisable, AgentPause)


def disable(
    name: Name,
    /,
    *,
    now: Now = False,
    note: Note = "",
    wait: Wait = False,
    within: Within = None,
    shared: Shared = SHARED,
) -> None:
    """Give an agent no new commands; what runs there finishes."""
    request = AgentDisable(name=name, now=now, note=note)
    _drain(shared, AGENT_DISABLE, request, wait=wait, within=within)


def pause(
    name: Name,
    /,
    *,
    for_: Annotated[
        str,
        Parameter(
            name="--for",
            help="How long: 90s, 15m, 2h, 3d; then it is enabled.",
            validator=check_span,
        ),
    ],
    now: Now = False,
    note: Note = "",
    wait: Wait = False,
    within: Within = None,
    shared: Shared = SHARED,
) -> None:
    """Give an agent no new commands for a while; what runs there finishes."""
    request = AgentPause(name=name, for_s=span_s(for_), now=now, note=note)
    _drain(shared, AGENT_PAUSE, request, wait=wait, within=within)


def move(
    name: Name,
    /,
    *,
    group: Annotated[str, Parameter(help="The group it is to belong to.")],
    wait: Annotated[bool, Parameter(negative="", help="Return when it works there.")] = False,
    within: Within = None,
    shared: Shared = SHARED,
) -> None:
    """Move an agent to another group, with its identity and history, once it is empty."""
    request = AgentMove(name=name, group=group)
    limit_s = None if within is None else span_s(within)

    async def relocate(mesh: "MeshClient") -> Done:
        done = await mesh.ask(AGENT_MOVE, request)
        if wait or limit_s is not None:
            await _wait_there(mesh, name, group, limit_s)
            return msgspec.structs.replace(done, message=f"agent {name} works in group {group}")
        return done

    done = call(shared, relocate)
    if shared.output == "json":
        print_json(done)
    else:
        print_lines(shared, [done.message])


async def _wait_there(mesh: "MeshClient", name: str, group: str, limit_s: float | None) -> None:
    """Until it works there; Expired (`wait_timeout`) after `limit_s`, with how it stands."""
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
    return await mesh.ask(AGENT_SHOW, NameQuery(name=name))


def _drain(
    shared: Shared,
    verb: Verb[Stop, Done],
    request: Stop,
    *,
    wait: bool,
    within: str | None,
) -> None:
    limit_s = None if within is None else span_s(within)

    async def drain(mesh: "MeshClient") -> Done:
        done = await mesh.ask(verb, request)
        if wait or limit_s is not None:
            await _wait_empty(mesh, request.name, limit_s)
            return msgspec.structs.replace(done, message=_LEFT.sub("0 tasks left", done.message))
        return done

    done = call(shared, drain)
    if shared.output == "json":
        print_json(done)
    else:
        print_lines(shared, [in_local_time(done.message)])


async def _wait_empty(mesh: "MeshClient", name: str, limit_s: float | None) -> None:
    """Until no task is left; Expired (`wait_timeout`) after `limit_s`, with what is left."""
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
