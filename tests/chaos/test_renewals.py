"""Certificates that are replaced while work goes on."""

import asyncio
import contextlib
from typing import Final

import pytest

from broker_agent.services.enrolment import enrol
from broker_client.runtime.clock import SystemClock
from schemas.messages.actions import NoopArgs
from schemas.messages.api import AgentCreate, AgentRecord, NameQuery, TokenAnswer
from tests.chaos.conftest import MakeWorld
from tests.chaos.test_crowds import CROWDED
from tests.chaos.verdict import keeps_its_promises
from tests.chaos.world import CALM, GROUP, World
from tests.children import Child
from tests.harness import program

pytestmark = pytest.mark.chaos

TURNS: Final = 10
RATE: Final = 200.0
# A certificate of 10 s is renewed after 5: what one of 60 s does, six times as fast.
LIFE_S: Final = 10.0
LIVES: Final = {"MESH_CERTIFICATES__AGENT_DAYS": str(LIFE_S / 86_400)}
PATIENCE_S: Final = 4 * TURNS * LIFE_S
CROWD: Final = 50


async def serial(world: World, agent: str) -> str:
    query = NameQuery(name=agent)
    record = await world.client.ask("agent", "show", query, AgentRecord)
    assert record.certificate is not None
    return record.certificate.serial


async def test_f33_renewed_ten_times_under_load(world_of: MakeWorld) -> None:
    """Nothing fails, nothing is sent twice, nothing runs twice, no byte of output is missing."""
    async with world_of(timers=CALM, master_env=LIVES) as world:
        printing = await world.submit(world.witness.printer(100_000, pause_s=0.05, every=2))
        await world.wait_started(printing)
        ids: list[str] = []
        serials = {await serial(world, "a1")}
        ended = asyncio.Event()

        async def load() -> None:
            loop = asyncio.get_running_loop()
            began = loop.time()
            async with asyncio.TaskGroup() as group:
                number = 0
                while not ended.is_set():
                    number += 1
                    await asyncio.sleep(max(0.0, began + number / RATE - loop.time()))
                    group.create_task(submit(f"noop-{world.seed}-{number}"))

        async def submit(id: str) -> None:
            ids.append((await world.client.submit(NoopArgs(), id=id, agent="a1")).id)

        async with asyncio.TaskGroup() as group:
            group.create_task(load())
            ran = await world.mesh.cli("agent", "rotate", "a1", "--wait")
            assert ran.code == 0, ran.err
            async with asyncio.timeout(PATIENCE_S):
                while len(serials) <= TURNS:
                    serials.add(await serial(world, "a1"))
                    await world.submit(world.witness.quick())
                    await asyncio.sleep(0.2)
            ended.set()
        sent: dict[int, int] = {}
        for id in ids:
            record = await world.client.wait(id, timeout_s=30)
            assert (record.state, len(record.attempts)) == ("succeeded", 1), id
            sent[record.attempts[0].sent] = sent.get(record.attempts[0].sent, 0) + 1
        assert list(sent) == [1], sent
        await world.client.cancel(printing)
        await world.wait_state(printing, "cancelled")
        assert {event["status"] for event in world.seen_statuses()} == {"active"}
        await keeps_its_promises(world, "I1", "I2", "I3", "I4")
        world.history.add("renewed", turns=len(serials) - 1, commands=len(ids))


@pytest.mark.serial
async def test_f33_crowd_renews_at_once(world_of: MakeWorld) -> None:
    """Fifty processes are told to in the same moment: none of them leaves Active."""
    async with world_of(timers=CROWDED) as world, contextlib.AsyncExitStack() as stack:
        names = [f"c{number}" for number in range(CROWD)]
        for name in names:
            child = await _enrolled(world, name)
            stack.callback(child.kill)
            child.launch()
        for name in names:
            await world.mesh.agents[name].wait_ready(within_s=120)
        world.names += tuple(names)
        await world.wait_status(*names, within_s=60)
        before = {name: await serial(world, name) for name in names}
        known = len(world.seen_statuses())
        loop = asyncio.get_running_loop()
        began = loop.time()
        ran = await world.mesh.cli(
            "group", "rotate", GROUP, "--wait", "--timeout", "120", "--output", "json", within_s=150
        )
        spent_s = loop.time() - began
        failed = [each for each in ran.json if each["error"]]
        assert {each["agent"] for each in failed} == {"a2", "a3"}, "which were never started"
        assert all([await serial(world, name) != before[name] for name in names])
        assert {event["status"] for event in world.seen_statuses()[known:]} <= {"active"}
        world.history.add("renewed", agents=CROWD, spent_s=spent_s)


async def _enrolled(world: World, name: str) -> Child:
    request = AgentCreate(name=name, group=GROUP)
    answer = await world.client.ask("agent", "create", request, TokenAnswer)
    folder = world.mesh.agent_dir(name)
    await enrol(folder, answer.token, SystemClock())
    env = {**world.mesh.env, "MESH_SLOTS": "1", "MESH_URLS": f"tls://127.0.0.1:{world.port}"}
    child = Child(
        f"agent-{name}",
        program("broker-agent", "run", "--state-dir", str(folder)),
        world.mesh.logs,
        env=env,
        ready="ready ",
    )
    world.mesh.agents[name] = child
    return child
