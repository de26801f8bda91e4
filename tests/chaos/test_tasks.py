"""Tasks that do not want to end, and requests that come too often or in a wrong order."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import psutil
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from schemas import codec, subjects
from schemas.messages.work import Control, Run
from tests.chaos.conftest import MakeWorld
from tests.chaos.test_links import passes
from tests.chaos.verdict import keeps_its_promises
from tests.chaos.world import GROUP, PATIENT, World
from tests.meshes import issuer
from tests.servers import connect_raw

pytestmark = pytest.mark.chaos

END_S = 5.0


async def test_f30_many_processes_of_one_task(world_of: MakeWorld) -> None:
    """The agent beats on time beside them, and all of them end with the task."""
    async with world_of(timers=PATIENT) as world:
        id = await world.submit(world.witness.brood(200, 60))
        await world.wait_started(id)
        async with asyncio.timeout(20):
            while len(world.sight.of(id)) < 200:
                await asyncio.sleep(0.05)
        await world.client.cancel(id)
        assert await world.wait_gone(id, within_s=END_S + world.timers["grace_s"])
        await world.wait_state(id, "cancelled")
        await keeps_its_promises(world, "I3", "I5")


@pytest.mark.first_seed_smokes
@pytest.mark.parametrize("variant", ["stays", "leaves"])
async def test_f31_escaped_children(world_of: MakeWorld, variant: str) -> None:
    """Forked twice, in a session of its own, all files closed: it is the task's all the same."""
    async with world_of() as world:
        id = await world.submit(world.witness.forker(60, stays=variant == "stays"))
        await world.wait_started(id)
        async with asyncio.timeout(5):
            while not any(each.kind == "escaped" for each in world.witness.sightings()):
                await asyncio.sleep(0.02)
        if variant == "stays":
            await passes(0.3)
            await world.client.cancel(id)
            await world.wait_state(id, "cancelled")
        else:
            await world.wait_state(id, "succeeded", "failed")
        assert await world.wait_gone(id, within_s=END_S), f"alive: {world.sight.of(id)}"
        await keeps_its_promises(world, "I3", "I5")


async def test_f32_task_that_ignores_term(world_of: MakeWorld) -> None:
    async with world_of() as world:
        id = await world.submit(world.witness.stubborn(60))
        await world.wait_started(id)
        await world.wait_seen(id)
        await world.wait_state(id, "running")
        loop = asyncio.get_running_loop()
        began = loop.time()
        await world.client.cancel(id)
        assert await world.wait_gone(id, within_s=END_S)
        took_s = loop.time() - began
        assert took_s == pytest.approx(world.timers["grace_s"], abs=0.5)
        await world.wait_state(id, "cancelled")
        assert _zombies(world.agents["a1"].pid) == []
        await keeps_its_promises(world, "I3", "I5")


def _zombies(pid: int) -> list[int]:
    children = psutil.Process(pid).children(recursive=True)
    return [child.pid for child in children if child.status() == psutil.STATUS_ZOMBIE]


@pytest.mark.first_seed_smokes
async def test_f45_every_request_ten_times(world_of: MakeWorld) -> None:
    """At once, after it has ended, and after a new start of the agent."""
    async with world_of(timers=PATIENT) as world, injector(world) as repeat:
        ids = [await world.submit(world.witness.quick()) for _ in range(15)]
        ids.append(await world.submit(world.witness.sleeper(1)))
        for id in ids:
            await world.wait_state(id, "succeeded")
        await repeat.all_again()
        world.kill_agent("a1")
        world.launch_agent("a1")
        await world.agents["a1"].wait_ready()
        await repeat.all_again(to_successor=True)
        late = await world.submit(world.witness.quick())
        await world.wait_state(late, "succeeded")
        assert repeat.sent >= 10 * len(ids)
        await keeps_its_promises(world, "I1", "I2", "I3")


class Repeat:
    """Sends what the master sent, with the rights of a master."""

    def __init__(self, world: World, client: Client) -> None:
        self._world = world
        self._client = client
        self._runs: list[tuple[str, Run]] = []
        self._seen: set[tuple[str, int]] = set()
        self.sent = 0

    async def on_run(self, message: Msg) -> None:
        run = codec.decode(Run, message.data)
        if (run.command, run.attempt) in self._seen:
            return
        self._seen.add((run.command, run.attempt))
        self._runs.append((message.subject, run))
        await self._repeat(message.subject, run)

    async def _repeat(self, subject: str, run: Run) -> None:
        for _ in range(10):
            await self._client.publish(subject, codec.encode(run))
            self.sent += 1
        self._world.history.add("deliver", id=run.command, attempt=run.attempt, times=10)

    async def all_again(self, *, to_successor: bool = False) -> None:
        """to_successor: treat earlier runs as runs of the present agent.

        Requests that the former agent refused are left out: no journal has them.
        """
        ran = {(each.id, each.attempt) for each in self._world.witness.sightings()}
        state = await self._world.mesh._run(
            "broker-agent",
            "status",
            *("--state-dir", str(self._world.mesh.agent_dir("a1")), "--output", "json"),
        )
        for subject, run in self._runs:
            if to_successor and (run.command, run.attempt) not in ran:
                continue
            now = {"incarnation": state.json["incarnation"], "epoch": state.json["epoch"]}
            again = msgspec.structs.replace(run, beat_seq=1, **now) if to_successor else run
            await self._repeat(subject, again)
        await self._client.flush()


@contextlib.asynccontextmanager
async def injector(world: World) -> AsyncIterator[Repeat]:
    client = await master_client(world)
    try:
        repeat = Repeat(world, client)
        await client.subscribe(subjects.down(GROUP, "*", "run"), cb=repeat.on_run)
        await client.flush()
        yield repeat
    finally:
        await client.close()


async def master_client(world: World) -> Client:
    """A stock connection with a master's rights, past all proxies."""
    world.mesh.nats_url = f"tls://127.0.0.1:{world.port}"
    return await connect_raw(issuer(world.mesh).issue("master", "probe"))


async def test_f46_cancel_that_comes_first(world_of: MakeWorld) -> None:
    """A cancel that overtakes its request wins; one that comes close behind it as well."""
    async with world_of(timers=PATIENT) as world:
        client = await master_client(world)
        try:
            id = world.next_id()
            epoch = (await world.client.status()).epoch
            cancel = Control(kind="cancel", epoch=epoch, token="t1", command=id, attempt=1)
            await client.publish(subjects.down(GROUP, "a1", "control"), codec.encode(cancel))
            await client.flush()
        finally:
            await client.close()
        await world.submit(world.witness.quick(), id=id, agent="a1")
        await world.wait_state(id, "rejected", "cancelled")
        assert [each for each in world.witness.sightings() if each.id == id] == []
        for _ in range(20):
            id = await world.submit(world.witness.sleeper(30))
            await passes(world.chance.choice((0.0, 0.0, 0.005, 0.02)))
            await world.client.cancel(id)
        await keeps_its_promises(world, "I1", "I2", "I3")
        finals = await world.client.list()
        assert {record.state for record in finals.commands} <= {"cancelled", "rejected"}


async def test_f46b_cancel_of_what_waits_for_a_silent_agent(world_of: MakeWorld) -> None:
    async with world_of(timers=PATIENT) as world:
        world.cut("a1")
        id = await world.submit(world.witness.quick())
        await world.client.cancel(id)
        await passes(1.5)
        world.heal("a1")
        await world.wait_state(id, "cancelled")
        await keeps_its_promises(world, "I1", "I3", "T2")
