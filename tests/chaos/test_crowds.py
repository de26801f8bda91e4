"""Hundreds at once, and those who speak nonsense."""

import asyncio
import contextlib
import random
from typing import Final

import pytest
from msgspec import Struct
from nats.aio.client import Client
from nats.errors import Error

from schemas import subjects
from schemas.messages.api import AgentCreate, SubmitRequest, TokenAnswer
from schemas.messages.liveness import Beat, Hello
from schemas.messages.work import Report, RunReply
from tests.chaos.conftest import MakeWorld
from tests.chaos.light import LightAgent
from tests.chaos.test_links import passes, working
from tests.chaos.verdict import keeps_its_promises
from tests.chaos.world import GROUP, PATIENT
from tests.integration.test_link_messages import POISON_HEADERS
from tests.meshes import issuer
from tests.servers import TestCredentials, connect_raw
from tests.unit.schemas.hostile import CORPUS

pytestmark = pytest.mark.chaos

CROWD: Final = 200
ALL_BACK_S: Final = 30.0
# Hundreds of agents in one process of a small machine: beats are as rare as in large meshes.
CROWDED: Final = {
    **PATIENT,
    "beat_s": 2.0,
    "suspect_s": 4.0,
    "ack_s": 1.0,
    "resends": 10,
    "lost_s": 18.0,
    "adopt_s": 18.0,
}


@pytest.mark.serial
async def test_f55_crowd_comes_back_at_once(world_of: MakeWorld) -> None:
    async with world_of(timers=CROWDED) as world, contextlib.AsyncExitStack() as stack:
        names = [f"light-{number}" for number in range(CROWD)]
        for name in names:
            request = AgentCreate(name=name, group=GROUP)
            await world.client.ask("agent", "create", request, TokenAnswer)
        world.mesh.nats_url = f"tls://127.0.0.1:{world.port}"
        credentials = issuer(world.mesh)
        world.names += tuple(names)
        for name in names:
            issued = credentials.issue("agent", name, group=GROUP)
            light = LightAgent(GROUP, world.witness, issued, CROWDED["beat_s"])
            await stack.enter_async_context(light)
        await world.wait_status(*names, within_s=ALL_BACK_S)
        world.kill_broker()
        await passes(1)
        await world.start_broker()
        await world.wait_reconnected(*world.names, within_s=ALL_BACK_S)
        for _ in range(100):
            await world.submit(world.witness.quick())
        lost = [e for e in world.seen_statuses() if str(e["reason"]).startswith("lost")]
        assert lost == []
        await keeps_its_promises(world, "I1", "I2", "I9")


async def test_f58_nonsense_among_normal_load(world_of: MakeWorld) -> None:
    """An agent's own credentials, in bad hands, while the broker is killed as well."""
    async with world_of(timers=PATIENT) as world:
        await working(world, runs_s=8)
        world.mesh.nats_url = f"tls://127.0.0.1:{world.port}"
        # Known to the broker as a2, which never started.
        credentials = issuer(world.mesh).issue("agent", "a2", group=GROUP)
        async with world.under_load(30):
            await _speak_nonsense(credentials, world.chance)
            world.kill_broker()
            await passes(1)
            await world.start_broker()
            await _speak_nonsense(credentials, world.chance)
        await keeps_its_promises(world, "I1", "I2", "I3", "I6", "I9", "I10")


async def _speak_nonsense(credentials: TestCredentials, chance: random.Random) -> None:
    """Until it has all been said, or the broker has had enough of it."""
    client = await connect_raw(credentials)
    with contextlib.suppress(Error, OSError):
        await _say_all(client, chance)
    await client.close()


async def _say_all(client: Client, chance: random.Random) -> None:
    kinds: dict[str, type[Struct]] = {
        "beat": Beat,
        "hello": Hello,
        "report": Report,
        "reply.t": RunReply,
    }
    names = chance.sample(sorted(CORPUS), 24)
    for kind, message in kinds.items():
        subject = subjects.up(GROUP, "a2", kind)
        for name in names:
            for payload in list(CORPUS[name](message))[:8]:
                if len(payload) < 300_000:
                    await _say(client, subject, payload)
        for headers in POISON_HEADERS.values():
            await _say(client, subject, b"x", headers)
        await client.flush(20)
    for subject in ("mesh.v1.up.web.a1.beat", "mesh.v1.down.web.a1.run", "mesh.v1.api.admin.x.y"):
        for payload in list(CORPUS["wrong types in each field"](SubmitRequest))[:8]:
            await _say(client, subject, payload)
    await client.flush(20)


async def _say(client: Client, subject: str, payload: bytes, headers: bytes = b"") -> None:
    name = subject.encode()
    if headers:
        total = len(headers) + len(payload)
        head = b"HPUB %b %d %d\r\n" % (name, len(headers), total)
    else:
        head = b"PUB %b %d\r\n" % (name, len(payload))
    await client._send_command(head + headers + payload + b"\r\n")
    if client.pending_data_size > 500_000:
        await client._flush_pending()
        await asyncio.sleep(0)
