"""`mesh ping`: round trips of agents; each answer is shown as it comes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from broker_client.cli.agent.targets import check_targets, find_agents, near_patterns
from broker_client.cli.filters import unmatched
from broker_client.cli.options import LISTING, Listing, check_seconds
from broker_client.cli.outcomes import PARTIAL
from broker_client.cli.screen.columns import COLUMNS_HELP, Columns, Trait, print_columns, text
from broker_client.cli.screen.report import print_lines, say
from broker_client.cli.screen.tables import Column
from broker_client.cli.session import call
from broker_client.cli.spans import to_seconds
from schemas.faults import Refused
from schemas.listed import AGENTS
from schemas.messages.api import PingAnswer

if TYPE_CHECKING:
    from broker_client.api import MeshClient

WAIT_S: Final = 3.0
_LONGEST_S: Final = 60.0
# Concurrency limit, in agents.
_AT_ONCE: Final = 100
_NAMED: Final = 20


def _check_wait(type_: object, value: float) -> None:
    check_seconds(type_, value)
    if value > _LONGEST_S:
        raise ValueError(f"give at most {_LONGEST_S:.0f} seconds")


_TRAITS: Final[dict[str, Trait[PingAnswer]]] = {
    "agent": text("AGENT", lambda p: p.agent),
    "status": text("STATUS", lambda p: p.status),
    "rtt": Trait(
        Column("RTT", right=True),
        lambda p, _: "" if p.rtt_s is None else f"{1000 * p.rtt_s:.1f} ms",
        lambda p, _: p.rtt_s,
        is_span=True,
    ),
    "reason": text("REASON", lambda p: p.reason, least=16),
}
REPLIES: Final = Columns(_TRAITS, other={"name": "agent"})


def ping(
    *targets: Annotated[
        str,
        Parameter(help="Names of agents, or words of a filter as of `mesh agent list`; none: all."),
    ],
    wait: Annotated[
        float,
        Parameter(
            help="How long to wait for each answer: 5 (seconds), 1m.",
            converter=to_seconds,
            validator=_check_wait,
        ),
    ] = WAIT_S,
    columns: Annotated[str | None, Parameter(help=COLUMNS_HELP, validator=REPLIES.check)] = None,
    shared: Listing = LISTING,
) -> int:
    """Ping agents through their master; the exit code is 5 if any does not answer."""
    check_targets(targets)
    is_live = shared.output == "table" and columns is None

    async def gather(mesh: "MeshClient") -> list[PingAnswer]:
        found: list[PingAnswer] = []
        agents = [each.agent for each in await find_agents(mesh, targets)]
        if targets and not agents:
            near = unmatched(targets, AGENTS) or await near_patterns(mesh, targets)
            raise Refused("agent_unknown", f"no agent passes the filter{near}")
        async for answer in _answers(mesh, agents, wait):
            found.append(answer)
            if is_live:
                print_lines(shared, [_line(answer, max(map(len, agents)))], flush=True)
        return found

    answers = call(shared, gather)
    if not is_live:
        print_columns(
            shared, REPLIES, PingAnswer, answers, names=columns, nothing="no agent is asked"
        )
    if shared.output == "table" and answers:
        for line in told(answers):
            say(line)
    is_whole = all(each.rtt_s is not None for each in answers)
    return 0 if is_whole else PARTIAL


async def _answers(
    mesh: "MeshClient", agents: Sequence[str], wait_s: float
) -> AsyncIterator[PingAnswer]:
    """Yield each answer as it comes, of at most `_AT_ONCE` at a time."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(agent: str) -> PingAnswer:
        async with places:
            return await mesh.ping(agent, timeout_s=wait_s)

    asked = [asyncio.ensure_future(one(agent)) for agent in agents]
    try:
        for coming in asyncio.as_completed(asked):
            yield await coming
    finally:
        for each in asked:
            each.cancel()
        if asked:
            await asyncio.wait(asked)


def _line(answer: PingAnswer, width: int) -> str:
    if answer.rtt_s is None:
        return f"{answer.agent:<{width}}  {answer.status}: {answer.reason}"
    said = "" if answer.status == "active" else f"  {answer.status}"
    return f"{answer.agent:<{width}}  {1000 * answer.rtt_s:.1f} ms{said}"


def told(answers: Sequence[PingAnswer]) -> list[str]:
    """Return `2 of 3 agents answered: min 1.2, avg 1.9, max 2.6 ms`, and the missing agents."""
    times = [1000 * each.rtt_s for each in answers if each.rtt_s is not None]
    numbers = f": min {min(times):.1f}, avg {fmean(times):.1f}, max {max(times):.1f} ms"
    lines = [f"{len(times)} of {len(answers)} agents answered{numbers if times else ''}"]
    missing = sorted(each.agent for each in answers if each.rtt_s is None)
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        lines.append(f"missing: {', '.join(missing[:_NAMED])}{more}")
    return lines
