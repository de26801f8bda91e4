"""A link whose network or broker goes away, and what it does about it."""

import asyncio
import os
import random
from pathlib import Path

import pytest

from broker_client.runtime.link import Link, LinkIdentity, Msg, heartbeat
from schemas.faults import MeshError, Unreachable
from tests.links import connected
from tests.proxy import Proxy
from tests.servers import NatsServer, mesh_broker, plain_server
from tests.waiting import PATIENCE_S, eventually, ticking

pytestmark = pytest.mark.integration


async def test_reconnect_restores_all_subscriptions_and_notifies_listeners(
    tmp_path: Path,
) -> None:
    got: list[bytes] = []
    told: list[str] = []

    def bad_listener() -> None:
        raise ValueError("bug in a listener")

    def bad_farewell(_: MeshError) -> None:
        raise ValueError("bug in a listener")

    async with plain_server(tmp_path) as server, connected(server.url) as link:
        link.on_connected(bad_listener)
        link.on_disconnected(bad_farewell)
        link.on_connected(lambda: told.append("up"))
        link.on_disconnected(lambda fault: told.append(fault.code))
        link.subscribe("a", lambda m: got.append(m.data))
        gone = link.subscribe("b", lambda m: got.append(m.data))
        await link.flush()
        gone.unsubscribe()
        server.kill()
        await eventually(lambda: not link.is_connected)
        link.subscribe("c", lambda m: got.append(m.data))  # while there is no connection
        await server.start()
        await eventually(lambda: link.is_connected)
        for subject in ("a", "b", "c"):
            link.publish_nowait(subject, subject.encode())
        await link.flush()
        assert got == [b"a", b"c"]
        assert told == ["broker_unreachable", "up"]
        assert link.reconnects == 1


async def test_link_retries_for_ever_and_reconnects_within_seconds(tmp_path: Path) -> None:
    """The stock client closes permanently after 60 attempts."""
    attempts = 0

    def identity() -> LinkIdentity:
        nonlocal attempts
        attempts += 1
        return LinkIdentity()

    async with plain_server(tmp_path) as server:
        # Without chance in it, waits would be 0: that many attempts take no time.
        link = await Link.connect([server.url], identity, "a", "_INBOX_a", chance=lambda: 0.01)
        server.kill()
        await eventually(lambda: attempts > 70)
        assert not link.is_connected
        await server.start()
        await eventually(lambda: link.is_connected)
        await link.close(1)


async def test_back_off_of_reconnects_is_bounded_and_has_jitter(tmp_path: Path) -> None:
    """So that hundreds of agents do not come back in one moment, and none stays away for long."""
    dead = NatsServer(tmp_path / "never-started")
    tried: list[list[int]] = []
    links: list[Link] = []
    async with ticking(0.1) as ticks:
        for number in range(20):
            at: list[int] = []
            tried.append(at)

            def identity(at: list[int] = at) -> LinkIdentity:
                at.append(ticks.count)
                return LinkIdentity()

            link = Link([dead.url], identity, "a", "_INBOX_a", chance=random.Random(number).random)
            link.start()
            links.append(link)
        await eventually(lambda: all(len(at) >= 5 for at in tried))
    fourth_waits = [at[4] - at[3] for at in tried]
    for link in links:
        await link.close(0.5)
    assert max(fourth_waits) <= 16 + 3  # 0.2 s doubled three times, and the attempt
    assert max(fourth_waits) - min(fourth_waits) > 5


@pytest.mark.parametrize("unsent", [False, True], ids=["idle", "unsent data"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_half_open_link_is_replaced_within_six_ticks_of_its_guard(
    tmp_path: Path, *, secure: bool, unsent: bool
) -> None:
    """The stock client waits for the dead connection's end: 33 s with TLS, more than 50 s plain."""
    if secure:
        async with mesh_broker(tmp_path) as broker:
            one = broker.issue("master", "master-1")
            port = int(broker.url.rpartition(":")[2])
            identity = LinkIdentity(tls=one.context, jwt=one.jwt, seed=one.seed)
            await leave_black_hole(port, "tls", identity, unsent=unsent)
    else:
        async with plain_server(tmp_path) as server:
            await leave_black_hole(server.port, "nats", LinkIdentity(), unsent=unsent)


async def leave_black_hole(port: int, scheme: str, identity: LinkIdentity, *, unsent: bool) -> None:
    async with Proxy(port) as proxy:
        url = f"{scheme}://127.0.0.1:{proxy.port}"
        link = await Link.connect([url], lambda: identity, "master-1", "_INBOX_master-1")
        try:
            proxy.freeze(present_only=True)
            if unsent:
                with pytest.raises(Unreachable):
                    publish_without_end(link)
            async with ticking(heartbeat.TICK_S) as ticks:
                await eventually(lambda: not link.is_connected)
            assert ticks.count <= heartbeat.SILENT_TICKS + 2
            await eventually(lambda: link.is_connected)
            assert link.pending_bytes == 0
        finally:
            await link.close(1)


def publish_without_end(link: Link) -> None:
    """More than socket buffers hold."""
    for _ in range(200):
        link.publish_nowait("bulk", os.urandom(200_000))


async def test_link_that_can_only_hear_is_left_as_well(tmp_path: Path) -> None:
    """Our pings vanish while messages still come in; the broker notices first, as we are silent."""
    config = 'ping_interval: "1s"\nping_max: 2'
    async with (
        plain_server(tmp_path, config=config) as server,
        Proxy(server.port) as proxy,
        connected(server.url, name="b") as sender,
        connected(f"nats://127.0.0.1:{proxy.port}") as link,
    ):
        link.subscribe("a", lambda _: None)
        await link.flush()
        proxy.freeze("up", present_only=True)

        async def talk() -> None:
            while True:
                sender.publish_nowait("a", b"x")
                await asyncio.sleep(0.05)

        talking = asyncio.ensure_future(talk())
        await eventually(lambda: link.reconnects == 1)
        await eventually(lambda: link.is_connected)
        talking.cancel()


async def test_slow_line_is_not_mistaken_for_a_dead_one(tmp_path: Path) -> None:
    async with plain_server(tmp_path) as server, Proxy(server.port) as proxy:
        proxy.delay_s, proxy.jitter_s, proxy.bytes_per_s = 0.1, 0.4, 8_000
        async with connected(f"nats://127.0.0.1:{proxy.port}") as link:
            got: list[Msg] = []
            link.subscribe("a", got.append)
            for _ in range(20):
                link.publish_nowait("a", bytes(1000))
            await eventually(lambda: len(got) == 20)
            assert link.reconnects == 0


async def test_stopped_process_reads_before_it_judges(tmp_path: Path) -> None:
    """After a pause of this process, what has come meanwhile shows that the broker is alive."""
    import time

    async with plain_server(tmp_path) as server, connected(server.url) as link:
        time.sleep(
            heartbeat.TICK_S * heartbeat.SILENT_TICKS + 1
        )  # the loop stands still, as if stopped
        await link.flush()
        assert link.reconnects == 0


@pytest.mark.parametrize("after_bytes", [1, 20, 200, 400, 460])
async def test_connection_cut_at_any_byte_leads_to_a_reconnect(
    tmp_path: Path, after_bytes: int
) -> None:
    async with plain_server(tmp_path) as server, Proxy(server.port) as proxy:
        link = Link([f"nats://127.0.0.1:{proxy.port}"], LinkIdentity, "a", "_INBOX_a")
        proxy.cut_after["down"] = after_bytes
        link.start()
        await eventually(lambda: proxy.accepted >= 2)
        proxy.cut_after["down"] = None
        proxy.reset()
        await link.wait_connected(PATIENCE_S)
        await link.flush()
        await link.close(1)


async def test_failover_tries_the_next_broker_first(tmp_path: Path) -> None:
    async with (
        plain_server(tmp_path / "1") as one,
        plain_server(tmp_path / "2") as two,
        connected(one.url, two.url) as link,
    ):
        assert link.connected_url == one.url
        one.freeze()
        await eventually(lambda: link.connected_url == two.url)
        await link.flush()


async def test_deaf_link_is_noticed_by_its_own_messages(tmp_path: Path) -> None:
    """Pings would still be answered; only a message shows that messages arrive."""
    async with plain_server(tmp_path) as server, connected(server.url, loopback_s=0.2) as link:
        heard: list[Msg] = []
        link.subscribe(f"{link._requests.inbox}.loop", heard.append)
        await eventually(lambda: len(heard) >= 3)
        assert link.reconnects == 0
        client = link._keeper.client
        assert client is not None
        for sid in link._subscriptions.routes:
            client.out.unsubscribe_nowait(sid)
        await eventually(lambda: link.reconnects == 1)
        await eventually(lambda: link.is_connected)


@pytest.mark.parametrize("state", ["connected", "partitioned", "stopped broker", "no broker"])
async def test_close_is_bounded_whatever_the_network_does(tmp_path: Path, state: str) -> None:
    """The stock client's drain takes up to 30 s, and raises when there is no connection."""
    async with plain_server(tmp_path) as server, Proxy(server.port) as proxy:
        link = await Link.connect([f"nats://127.0.0.1:{proxy.port}"], LinkIdentity, "a", "_INBOX_a")
        link.subscribe("a", lambda _: None)
        if state == "partitioned":
            proxy.freeze()
            link.publish_nowait("a", bytes(1_000_000))
        elif state == "stopped broker":
            server.freeze()
        elif state == "no broker":
            server.kill()
            await eventually(lambda: not link.is_connected)
        async with ticking(0.1) as ticks:
            await link.close(2)
        assert ticks.count <= 20
        assert not link.is_connected
        with pytest.raises(Unreachable):
            link.publish_nowait("a", b"x")
        server.thaw()


async def test_close_sends_what_was_published_before_it(tmp_path: Path) -> None:
    got: list[bytes] = []
    async with plain_server(tmp_path) as server, connected(server.url, name="b") as receiver:
        receiver.subscribe("a", lambda m: got.append(m.data))
        await receiver.flush()
        async with connected(server.url) as link:
            for _ in range(100):
                link.publish_nowait("a", bytes(10_000))
        await eventually(lambda: len(got) == 100)


async def test_two_links_of_one_process_hand_over_without_loss(tmp_path: Path) -> None:
    """Make before break: the new one is subscribed before the old one goes."""
    got: set[int] = set()

    def note(msg: Msg) -> None:
        got.add(int(msg.data))

    async with plain_server(tmp_path) as server, connected(server.url, name="b") as sender:
        old = await Link.connect([server.url], LinkIdentity, "a", "_INBOX_a")
        old.subscribe("a", note)
        await old.flush()
        sent = 0

        async def hand_over() -> Link:
            new = await Link.connect([server.url], LinkIdentity, "a", "_INBOX_a")
            new.subscribe("a", note)
            await new.flush()
            await old.close(1)
            return new

        handing_over = asyncio.ensure_future(hand_over())
        while not handing_over.done():
            sender.publish_nowait("a", b"%d" % sent)
            sent += 1
            await asyncio.sleep(0.0002)
        sender.publish_nowait("a", b"%d" % sent)
        await eventually(lambda: sent in got)
        assert got == set(range(sent + 1))
        await (await handing_over).close(1)


async def test_renewed_link_loses_no_message_and_no_answer(tmp_path: Path) -> None:
    got: list[int] = []
    told: list[str] = []
    loop = asyncio.get_running_loop()
    async with (
        plain_server(tmp_path) as server,
        connected(server.url, name="b") as other,
        connected(server.url) as link,
    ):
        link.on_disconnected(lambda _: told.append("down"))
        link.subscribe("a", lambda m: got.append(int(m.data)))
        other.subscribe(
            "late", lambda m: loop.call_later(0.3, other.publish_nowait, m.reply, b"answer")
        )
        await link.flush()
        await other.flush()
        asking = asyncio.ensure_future(link.request("late", b"", 5))
        await asyncio.sleep(0)
        renewing = asyncio.ensure_future(link.renew())
        sent = 0
        while not renewing.done():
            other.publish_nowait("a", b"%d" % sent)
            sent += 1
            await asyncio.sleep(0.0005)
        await renewing
        other.publish_nowait("a", b"%d" % sent)
        await other.flush()
        await eventually(lambda: sent in got)
        assert set(got) == set(range(sent + 1))
        assert (await asking).data == b"answer"
        assert told == []
        assert link.reconnects == 0
        assert link.is_connected


async def test_failed_renewal_leaves_the_link_as_it_was(tmp_path: Path) -> None:
    def unreadable() -> LinkIdentity:
        raise MeshError("state_unreadable", "no such file")

    async with plain_server(tmp_path) as server, connected(server.url) as link:
        link._dialer.identity = unreadable
        with pytest.raises(MeshError):
            await link.renew()
        await link.flush()
        assert link.reconnects == 0
