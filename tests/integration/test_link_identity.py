"""A link whose identity the broker refuses at once, or later."""

import asyncio
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker_client.runtime.link import Link, LinkIdentity, Trial
from broker_client.runtime.link.guard import GuardedClient
from broker_client.runtime.link.transport import WideTransport
from schemas.faults import Refused, Unreachable
from tests.servers import TestCredentials, mesh_broker, plain_server
from tests.waiting import eventually

pytestmark = pytest.mark.integration


def identity_of(credentials: TestCredentials) -> LinkIdentity:
    return LinkIdentity(tls=credentials.context, jwt=credentials.jwt, seed=credentials.seed)


async def link_of(credentials: TestCredentials, wait_s: float = 5) -> Link:
    return await Link.connect(
        [credentials.url],
        lambda: identity_of(credentials),
        credentials.name,
        credentials.inbox,
        wait_s=wait_s,
    )


async def test_expired_credentials_are_replaced_by_renewed_ones_at_once(tmp_path: Path) -> None:
    """The stock client closes permanently at that error line, whatever its options."""
    async with mesh_broker(tmp_path) as broker:
        current = broker.issue("agent", "web-1", "web", lifetime_s=3)
        link = await Link.connect(
            [broker.url], lambda: identity_of(current), "web-1", current.inbox
        )
        current = broker.issue("agent", "web-1", "web")
        await eventually(lambda: link.reconnects == 1)
        await eventually(lambda: link.is_connected)
        await link.flush()
        await link.close(1)


async def test_expired_credentials_are_retried_until_their_renewal(
    tmp_path: Path,
) -> None:
    async with mesh_broker(tmp_path) as broker:
        current = broker.issue("agent", "web-1", "web", lifetime_s=3)
        reads = 0

        def read() -> LinkIdentity:
            nonlocal reads
            reads += 1
            return identity_of(current)

        link = await Link.connect([broker.url], read, "web-1", current.inbox)
        await eventually(lambda: reads >= 4)
        assert not link.is_connected
        assert isinstance(link.last_error, Refused), link.last_error
        assert link.last_error.code == "credentials_rejected"
        current = broker.issue("agent", "web-1", "web")
        await eventually(lambda: link.is_connected)
        await link.close(1)


async def test_subscriptions_survive_the_change_of_credentials(tmp_path: Path) -> None:
    got: list[bytes] = []
    async with mesh_broker(tmp_path) as broker:
        current = broker.issue("agent", "web-1", "web", lifetime_s=3)
        master = await link_of(broker.issue("master", "master-1"))
        agent = await Link.connect(
            [broker.url], lambda: identity_of(current), "web-1", current.inbox
        )
        agent.subscribe("mesh.v1.down.web.web-1.>", lambda m: got.append(m.data))
        current = broker.issue("agent", "web-1", "web")
        await eventually(lambda: agent.reconnects == 1)
        await eventually(lambda: agent.is_connected)
        master.publish_nowait("mesh.v1.down.web.web-1.echo", b"hello")
        await eventually(lambda: got == [b"hello"])
        await agent.close(1)
        await master.close(1)


async def test_rejected_credentials_are_raised_at_once_and_not_after_the_wait(
    tmp_path: Path,
) -> None:
    async with mesh_broker(tmp_path / "a") as ours, mesh_broker(tmp_path / "b") as theirs:
        mine = ours.issue("agent", "web-1", "web")
        foreign = theirs.issue("agent", "web-1", "web")
        asked = 0
        mixed = LinkIdentity(tls=mine.context, jwt=foreign.jwt, seed=foreign.seed)

        def identity() -> LinkIdentity:
            nonlocal asked
            asked += 1
            return mixed

        with pytest.raises(Refused) as caught:
            await Link.connect([ours.url], identity, "web-1", "_INBOX_web-1", wait_s=30)
        assert caught.value.code == "credentials_rejected"
        assert asked == 1, "there is no second try"


async def test_broker_with_a_foreign_certificate_is_not_spoken_to(tmp_path: Path) -> None:
    async with mesh_broker(tmp_path / "a") as ours, mesh_broker(tmp_path / "b") as theirs:
        mine = ours.issue("agent", "web-1", "web")
        asked = 0

        def identity() -> LinkIdentity:
            nonlocal asked
            asked += 1
            return identity_of(mine)

        with pytest.raises(Unreachable, match="not trusted"):
            await Link.connect([theirs.url], identity, "web-1", mine.inbox, wait_s=30)
        assert asked == 1, "there is no second try"
        # One of several brokers may be somebody else's.
        both = [theirs.url, ours.url]
        link = await Link.connect(both, lambda: identity_of(mine), "web-1", mine.inbox, wait_s=30)
        assert link.connected_url == ours.url
        await link.close()


async def test_certificate_that_the_broker_does_not_know_is_a_clear_refusal(
    tmp_path: Path,
) -> None:
    async with mesh_broker(tmp_path / "a") as ours, mesh_broker(tmp_path / "b") as theirs:
        mine = ours.issue("agent", "web-1", "web")
        foreign = theirs.issue("agent", "web-1", "web")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(ours.mesh.directory.parent.joinpath(mine.folder, "ca.pem"))
        context.load_cert_chain(foreign.folder / "cert.pem", foreign.folder / "key.pem")
        stranger = LinkIdentity(tls=context, jwt=mine.jwt, seed=mine.seed)
        with pytest.raises(Refused) as caught:
            await Link.connect([ours.url], lambda: stranger, "web-1", mine.inbox, wait_s=5)
        assert caught.value.code == "credentials_rejected"


async def test_sec_s26_secrets_are_never_sent_to_a_broker_without_tls(tmp_path: Path) -> None:
    """A plain listener at a `tls://` address: the stock client would go on in clear text."""
    seen = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = b'INFO {"server_id":"x","version":"2.15.1","auth_required":true,"nonce":"abc"}\r\n'
        writer.write(info)
        while data := await reader.read(4096):
            seen.extend(data)
        writer.close()

    async with mesh_broker(tmp_path) as broker, plain_server(tmp_path / "plain") as plain:
        mine = broker.issue("agent", "web-1", "web")
        server = await asyncio.start_server(listen, "127.0.0.1", 0)
        fake_port = server.sockets[0].getsockname()[1]
        for port in (fake_port, plain.port):
            with pytest.raises(Unreachable, match="no TLS"):
                await Link.connect(
                    [f"tls://127.0.0.1:{port}"],
                    lambda: identity_of(mine),
                    "web-1",
                    mine.inbox,
                    wait_s=0.5,
                )
        server.close()
    assert bytes(seen) == b""


async def test_identity_that_cannot_be_read_counts_as_a_failed_attempt(tmp_path: Path) -> None:
    """Files may be gone or half there while they are exchanged; the next attempt reads again."""
    faults: list[Exception] = [
        Refused("state_unreadable", "no such file"),
        OSError("a bug: not translated"),
    ]

    def read() -> LinkIdentity:
        if faults:
            raise faults.pop()
        return LinkIdentity()

    async with plain_server(tmp_path) as server:
        link = await Link.connect([server.url], read, "a", "_INBOX_a", wait_s=None)
        assert faults == []
        await link.close(1)


async def test_agent_gets_the_name_of_a_forbidden_subject(tmp_path: Path) -> None:
    async with mesh_broker(tmp_path) as broker:
        link = await link_of(broker.issue("agent", "web-1", "web"))
        link.publish_nowait("mesh.v1.up.web.web-2.beat", b"x")
        await eventually(lambda: link.last_permission_error)
        assert "mesh.v1.up.web.web-2.beat" in str(link.last_permission_error)
        link.subscribe("mesh.v1.down.web.web-2.>", lambda _: None)
        await eventually(lambda: link.permission_errors == 2)
        assert "mesh.v1.down.web.web-2.>" in str(link.last_permission_error)
        await link.flush()
        assert link.reconnects == 0
        await link.close(1)


async def test_renewed_link_delivers_each_message_once_and_loses_none(tmp_path: Path) -> None:
    """Both connections are subscribed for a moment, while messages flow both ways."""
    got: list[int] = []
    heard: list[int] = []
    async with mesh_broker(tmp_path) as broker:
        master = await link_of(broker.issue("master", "master-1"))
        agent = await link_of(broker.issue("agent", "web-1", "web"))
        agent.subscribe("mesh.v1.down.web.web-1.>", lambda m: got.append(int(m.data)))
        master.subscribe("mesh.v1.up.web.web-1.report", lambda m: heard.append(int(m.data)))
        await agent.flush()
        await master.flush()
        sent = 0

        async def talk(until: asyncio.Event) -> None:
            nonlocal sent
            while not until.is_set():
                master.publish_nowait("mesh.v1.down.web.web-1.echo", b"%d" % sent)
                agent.publish_nowait("mesh.v1.up.web.web-1.report", b"%d" % sent)
                sent += 1
                await asyncio.sleep(0.001)

        ended = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(talk(ended))
            for _ in range(5):
                fresh = broker.issue("agent", "web-1", "web")
                await agent.renew(identity_of(fresh))
            ended.set()
        await agent.flush()
        await eventually(lambda: len(heard) == sent and len(got) == sent)
        assert got == list(range(sent))
        assert sorted(heard) == list(range(sent))
        assert agent.reconnects == 0
        await agent.close(1)
        await master.close(1)


async def test_connection_that_fails_its_test_is_given_up_and_the_old_one_stays(
    tmp_path: Path,
) -> None:
    async with mesh_broker(tmp_path) as broker:
        agent = await link_of(broker.issue("agent", "web-1", "web"))
        fresh = identity_of(broker.issue("agent", "web-1", "web"))

        async def test(trial: Trial) -> None:
            trial.publish_nowait("mesh.v1.up.web.web-2.beat", b"")
            await trial.flush(5)

        with pytest.raises(Refused) as caught:
            await agent.renew(fresh, test)
        assert caught.value.code == "renewal_refused"
        assert "web-2" in caught.value.message
        await agent.flush()
        assert (agent.is_connected, agent.reconnects) == (True, 0)
        await agent.close(1)


async def test_nats_py_calls_each_function_that_is_overridden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it no longer called one, its own code would run in that place."""
    overridden: dict[type[Any], tuple[str, ...]] = {
        GuardedClient: (
            "_flusher",
            "_ping_interval",
            "_process_info",
            "_read_loop",
            "_select_next_server",
        ),
        WideTransport: ("connect_tls", "drain", "write"),
    }
    called: set[str] = set()

    def recorded(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **named: object) -> object:
            if sys._getframe(1).f_globals["__name__"].startswith("nats."):
                called.add(name)
            return function(*args, **named)

        return call

    for kind, names in overridden.items():
        for name in names:
            monkeypatch.setattr(kind, name, recorded(name, getattr(kind, name)))
    async with mesh_broker(tmp_path) as broker:
        link = await link_of(broker.issue("master", "master-1"))
        await link.close(1)
    assert called == {name for names in overridden.values() for name in names}
