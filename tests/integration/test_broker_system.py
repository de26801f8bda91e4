"""The master requests the broker's live connections once, and its view equals the broker's."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker_client.runtime.link import Link, LinkIdentity
from broker_master.services import system as module
from broker_master.services.system import BrokerSystem
from tests.servers import MeshBroker, TestCredentials, mesh_broker

pytestmark = pytest.mark.integration


@contextlib.asynccontextmanager
async def linked(credentials: TestCredentials) -> AsyncIterator[Link]:
    identity = LinkIdentity(tls=credentials.context, jwt=credentials.jwt, seed=credentials.seed)
    link = await Link.connect(
        [credentials.url], lambda: identity, credentials.name, credentials.inbox, wait_s=10
    )
    try:
        yield link
    finally:
        await link.close()


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[MeshBroker]:
    async with mesh_broker(tmp_path) as broker:
        yield broker


async def test_each_connection_is_looked_up_once_and_forgotten_with_its_end(
    broker: MeshBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    agents = [broker.issue("agent", f"web-{number}", "web") for number in range(3)]
    async with linked(broker.issue("system", "system-1")) as link, linked(agents[0]):
        request = link.request

        async def counted(subject: str, payload: bytes, timeout_s: float) -> object:
            asked.append(subject)
            return await request(subject, payload, timeout_s)

        monkeypatch.setattr(link, "request", counted)
        system = BrokerSystem(link, account=broker.mesh.accounts.account, request_s=5.0)
        async with linked(agents[1]):
            first = {each.user: each for each in await system.connections()}
            assert set(first) == {agents[0].user, agents[1].user}
            assert first[agents[0].user].token == agents[0].jwt
            assert first[agents[0].user].certificate
            assert len(asked) == 2
        async with linked(agents[2]):
            second = {each.user: each for each in await system.connections()}
            assert set(second) == {agents[0].user, agents[2].user}
            assert second[agents[0].user] == first[agents[0].user]
            assert len(asked) == 3
            assert await system.connections() == list(second.values())
            assert len(asked) == 3


async def test_crowd_that_is_new_is_looked_up_at_once_with_the_same_findings(
    broker: MeshBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        link = await stack.enter_async_context(linked(broker.issue("system", "system-1")))
        for number in range(5):
            agent = broker.issue("agent", f"web-{number}", "web")
            await stack.enter_async_context(linked(agent))

        async def found() -> set[object]:
            system = BrokerSystem(link, account=broker.mesh.accounts.account, request_s=5.0)
            return set(await system.connections())

        one_by_one = await found()
        monkeypatch.setattr(module, "_EACH_MAX", 0)
        assert await found() == one_by_one
        monkeypatch.setattr(module, "_PAGE", 2)
        assert await found() == one_by_one
        assert len(one_by_one) == 5
