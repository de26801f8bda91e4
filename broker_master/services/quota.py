"""Keeps each agent's output within its quota, so that none displaces another's."""

import asyncio

import structlog

from broker_client.runtime.streams import Streams
from broker_master.core.quota import Place, Purge, Quotas
from broker_master.plane import Plane
from broker_master.services.system import BrokerSystem
from broker_master.services.whereabouts import Whereabouts
from broker_master.store.facts import LOGS
from schemas import subjects
from schemas.faults import MeshError

log = structlog.get_logger()

_SHARE = 10


class OutputQuotas:
    """Purges the oldest output of an agent above its quota, and no other agent's."""

    name = "quotas"

    def __init__(
        self, plane: Plane, streams: Streams, system: BrokerSystem, whereabouts: Whereabouts
    ) -> None:
        self._plane = plane
        self._streams = streams
        self._system = system
        self._whereabouts = whereabouts
        limits = plane.settings.limits
        quota = limits.log_bytes_per_agent or limits.log_bytes // _SHARE
        self._quotas = Quotas(limit=limits.log_bytes, quota=quota)

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        while True:
            await asyncio.sleep(self._plane.settings.limits.log_look_s)
            try:
                await self.look()
            except MeshError as error:
                log.warning("quotas_unknown", code=error.code, error=str(error))

    async def look(self) -> None:
        info = await self._streams.info(LOGS)
        sent = self._of_agents(await self._system.sent_bytes())
        for purge in self._quotas.look(sent, last_seq=info.last_seq, size=info.size_bytes):
            await self._carry_out(purge)

    def _of_agents(self, sent: dict[Place, int]) -> dict[Place, tuple[str, int]]:
        agents = self._plane.registry.agents
        names = ((place, self._whereabouts.name_at(place)) for place in sent)
        return {place: (name, sent[place]) for place, name in names if name in agents}

    async def _carry_out(self, purge: Purge) -> None:
        count = await self._streams.purge_up_to(
            LOGS, purge.up_to, subjects.log("*", purge.agent, "*", "*", "*")
        )
        if not count:
            return  # it has sent much, but no output
        log.warning("output_over_quota", agent=purge.agent, chunks=count)
        self._plane.note(
            "agent.quota",
            purge.agent,
            by=purge.agent,
            actor="agent",
            result="alarm",
            detail=f"prints more than its quota of stored output: its {count} oldest chunks are"
            " dropped; see limits.log_bytes_per_agent",
        )
