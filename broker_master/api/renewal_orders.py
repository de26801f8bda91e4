"""`agent.rotate` and `group.rotate`: make agents renew their certificates now."""

import asyncio
from typing import Final

import structlog

from broker_master.api.operations import Operations
from broker_master.core.rights import check_group
from broker_master.plane import Plane
from broker_master.services.orders import Orders
from schemas.faults import MeshError
from schemas.messages.api import Done, NameQuery, Passed, RotateAnswer
from schemas.messages.registry import ClientEntry
from schemas.texts import cut_text
from schemas.verbs import AGENT_ROTATE, GROUP_ROTATE

log = structlog.get_logger()

# Deadline of agents' answers, before clients stop waiting for that of the master (10 s).
ORDER_S: Final = 7.0
# Limits of an answer: named members, and characters of a refusal.
_NAMED: Final = 2000
_PASSED_NAMED: Final = 200
_REASON_SHOWN: Final = 160


class RenewalOrderOperations:
    def __init__(self, plane: Plane, orders: Orders) -> None:
        self._plane = plane
        self._orders = orders

    def register(self, operations: Operations) -> None:
        operations.add(AGENT_ROTATE, self.rotate)
        operations.add(GROUP_ROTATE, self.rotate_group)

    async def rotate(self, caller: ClientEntry, query: NameQuery) -> Done:
        """Order a renewal; the agent has agreed when this returns, and begins at once."""
        agent = self._plane.registry.agent(query.name)
        check_group(caller, agent.group)
        await self._orders.give(agent.name, "rotate", within_s=ORDER_S)
        log.info("rotation_ordered", agent=agent.name, by=caller.name)
        return Done(message=f"agent {agent.name} renews its certificate")

    async def rotate_group(self, caller: ClientEntry, query: NameQuery) -> RotateAnswer:
        """Order a renewal from all connected members; the answer names the others."""
        check_group(caller, query.name)
        group = self._plane.registry.group(query.name).name
        members = sorted(
            agent.name for agent in self._plane.registry.agents.values() if agent.group == group
        )
        faults = await asyncio.gather(*(self._try(name) for name in members))
        log.info("rotation_ordered", group=group, by=caller.name)
        ordered = [name for name, fault in zip(members, faults, strict=True) if fault is None]
        passed = [
            Passed(agent=name, reason=cut_text(fault.message, _REASON_SHOWN))
            for name, fault in zip(members, faults, strict=True)
            if fault is not None
        ]
        left_out = max(0, len(ordered) - _NAMED) + max(0, len(passed) - _PASSED_NAMED)
        return RotateAnswer(
            group=group,
            ordered=ordered[:_NAMED],
            passed=passed[:_PASSED_NAMED],
            left_out=left_out,
        )

    async def _try(self, name: str) -> MeshError | None:
        try:
            await self._orders.give(name, "rotate", within_s=ORDER_S)
        except MeshError as error:
            return error
        return None
