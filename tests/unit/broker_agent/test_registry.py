"""Registry of executors by action."""

import asyncio
import time

import pytest

from broker_agent.executors import registry
from broker_agent.executors.base import Executor, Instant
from broker_agent.executors.conditions import own_conditions
from broker_agent.executors.registry import ExecutorPorts, Executors
from broker_agent.services.carrier import CarrierPost
from broker_agent.warden.table import WardenTable
from schemas.faults import Refused
from schemas.messages.actions import ACTIONS, NoopArgs
from schemas.states import State


@pytest.fixture
async def executors() -> Executors:
    others: set[int] = set()
    ports = ExecutorPorts(
        loop=asyncio.get_running_loop(),
        grace_s=lambda: 1.0,
        elapsed=time.monotonic,
        marks={},
        carrier=CarrierPost(others),
        table=WardenTable(1),
        others=others,
        conditions=own_conditions(),
    )
    return registry.build(ports)


async def test_each_action_has_its_executor(executors: Executors) -> None:
    assert executors.actions == sorted(ACTIONS)
    for action in ACTIONS.values():
        executor = executors.find(action.name)
        assert isinstance(executor, Executor if action.takes_slot else Instant)
        if isinstance(executor, Instant):
            assert action.effect == "none", "one write for start and end: it may run again"
            assert executor.run(NoopArgs()).state is State.SUCCEEDED


async def test_unknown_action_is_refused_by_name(executors: Executors) -> None:
    with pytest.raises(Refused, match="no action 'of-tomorrow'") as refusal:
        executors.find("of-tomorrow")
    assert refusal.value.code == "action_unknown"
