"""`mesh status`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from broker_client.cli.agent.listing import print_agents
from broker_client.cli.options import SHARED, Shared
from broker_client.cli.screen.report import print_json, print_lines
from broker_client.cli.screen.tables import duration, facts, local_and_utc
from broker_client.cli.session import call
from schemas.messages.api import AgentRecord, StatusAnswer
from schemas.states import AgentStatus

if TYPE_CHECKING:
    from broker_client.api import MeshClient

# Seconds of lag of the history, above which the master will soon refuse work.
LAG_SHOWN_S = 1.0


def status(*, shared: Shared = SHARED) -> None:
    """Show the mesh at a glance, and each agent that is not active, with why and since when."""

    async def ask(mesh: "MeshClient") -> tuple[StatusAnswer, Sequence[AgentRecord]]:
        agents = [] if shared.output == "json" else await mesh.agents()
        return await mesh.status(), agents

    answer, agents = call(shared, ask)
    if shared.output == "json":
        print_json(answer)
        return
    print_lines(shared, _described(answer))
    absent = [agent for agent in agents if agent.status != AgentStatus.ACTIVE]
    if absent:
        print()
        print_agents(shared, absent)


def _described(answer: StatusAnswer) -> list[str]:
    lag = answer.history_lag_s
    return facts(
        [
            ("mesh", answer.mesh),
            ("broker", answer.broker),
            ("master", f"version {answer.version}, epoch {answer.epoch}"),
            ("started", local_and_utc(answer.started_at)),
            ("agents", _counted(answer.agents)),
            ("groups", _counted(answer.groups)),
            ("commands", _counted(answer.commands)),
            ("history", f"{duration(lag)} behind" if lag > LAG_SHOWN_S else ""),
            *(("note", note) for note in answer.notes),
        ]
    )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"
