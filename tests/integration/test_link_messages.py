"""Messages that pass a link, and messages that must not stop it, against a real server."""

import asyncio
from pathlib import Path

import pytest

from broker_client.runtime.link import Link, LinkIdentity, Msg, NoResponders
from schemas.faults import Misused, Refused, Unreachable
from tests.links import connected
from tests.servers import NatsServer, plain_server
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.integration

POISON_HEADERS = {
    "status is not UTF-8": b"NATS/1.0 \xff\xfe\xfd\r\n\r\n",
    "nothing but the version": b"NATS/1.0",
    "description is not UTF-8": b"NATS/1.0 100 \xff\xff\r\n\r\n",
}


class RawClient:
    """Sends bytes that no client library would."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def send(self, data: bytes) -> None:
        """Send and wait until the broker has processed it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        await reader.readline()
        connect = b'CONNECT {"verbose":false,"headers":true,"lang":"x","version":"0","protocol":1}'
        writer.write(connect + b"\r\n" + data + b"PING\r\n")
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.readline() == b"PONG\r\n"
        writer.close()
        await writer.wait_closed()

    async def publish(self, subject: bytes, payload: bytes, headers: bytes = b"") -> None:
        if headers:
            total = len(headers) + len(payload)
            head = b"HPUB %b %d %d\r\n" % (subject, len(headers), total)
        else:
            head = b"PUB %b %d\r\n" % (subject, len(payload))
        await self.send(head + headers + payload + b"\r\n")


async def test_messages_arrive_in_order_with_subject_reply_and_headers(tmp_path: Path) -> None:
    got: list[Msg] = []
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        link.subscribe("a.*", got.append)
        link.publish_nowait("a.1", b"first")
        link.publish_nowait("a.2", b"second", "back.here")
        link.publish_nowait("a.3", b"", headers={"Colour": "blü", "Empty": ""})
        link.publish_nowait("a.4", bytes(200_000))
        await eventually(lambda: len(got) == 4)
    assert [(m.subject, m.reply, m.data) for m in got[:3]] == [
        ("a.1", "", b"first"),
        ("a.2", "back.here", b"second"),
        ("a.3", "", b""),
    ]
    assert got[2].headers == {"Colour": "blü", "Empty": ""}
    assert (got[0].headers, got[0].status) == ({}, 0)
    assert got[3].data == bytes(200_000)


async def test_request_brings_the_answer_of_its_own_question(tmp_path: Path) -> None:
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        link.subscribe("double", lambda m: link.publish_nowait(m.reply, m.data * 2))
        answers = await asyncio.gather(
            *(link.request("double", b"%d." % number, 5) for number in range(50))
        )
    assert [answer.data for answer in answers] == [b"%d.%d." % (n, n) for n in range(50)]


async def test_request_nobody_listens_to_fails_at_once_and_says_that_nothing_happened(
    tmp_path: Path,
) -> None:
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        with pytest.raises(NoResponders) as caught:
            await link.request("nobody.home", b"x", 5)
    assert (caught.value.code, caught.value.effect) == ("no_answer", "none")


async def test_request_without_an_answer_ends_by_its_deadline_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        link.subscribe("deaf", lambda _: None)
        with pytest.raises(Unreachable) as caught:
            await link.request("deaf", b"x", 0.1)
        assert (caught.value.code, caught.value.effect) == ("no_answer", "unknown")
        assert link._requests.in_flight == 0


async def test_request_in_flight_fails_when_the_connection_is_lost(tmp_path: Path) -> None:
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        heard = asyncio.Event()
        link.subscribe("slow", lambda _: heard.set())
        asking = asyncio.ensure_future(link.request("slow", b"x", 30))
        await heard.wait()
        server.kill()
        with pytest.raises(Unreachable, match="connection was lost"):
            await asking


@pytest.mark.parametrize("kind", POISON_HEADERS)
async def test_sec_s07_poison_header_does_not_stop_what_comes_after_it(
    tmp_path: Path, kind: str
) -> None:
    """Each of these ends the stock client's read loop, while it still says that it is connected."""
    got: list[Msg] = []
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        link.subscribe("up.>", got.append)
        await link.flush()
        raw = RawClient(server.port)
        await raw.publish(b"up.bad", b"hi", POISON_HEADERS[kind])
        await raw.publish(b"up.good", b"ok")
        await eventually(lambda: len(got) == 2)
        assert got[0].data == b"hi"
        assert isinstance(got[0].headers, dict)
        assert isinstance(got[0].status, int)
        assert got[1].data == b"ok"
        assert link.reconnects == 0


async def test_odd_bytes_in_a_subject_reach_no_other_subscription(tmp_path: Path) -> None:
    """A vertical tab ends a field for the stock parser: the sender could choose the receiver."""
    mine: list[Msg] = []
    other: list[Msg] = []
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        link.subscribe("up.>", mine.append)
        victim = link.subscribe("secret", other.append)
        await link.flush()
        raw = RawClient(server.port)
        await raw.publish(b"up.x\x0b" + victim.sid + b"\x0bfake.reply", b"forged")
        await raw.publish(b"up.\xff\xfe", b"not UTF-8")
        await raw.publish(b"up.good", b"ok")
        await eventually(lambda: any(m.data == b"ok" for m in mine))
    assert other == []
    assert [m.data for m in mine] == [b"forged", b"not UTF-8", b"ok"]
    assert all(m.reply == "" for m in mine)


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, RecursionError])
async def test_callback_that_raises_loses_its_own_message_only(
    tmp_path: Path, error: type[BaseException]
) -> None:
    got: list[bytes] = []

    def callback(msg: Msg) -> None:
        if msg.data == b"1":
            raise error("bug in a callback")
        got.append(msg.data)

    async with plain_server(tmp_path) as server, connected(server.url) as link:
        link.subscribe("a", callback)
        for number in range(4):
            link.publish_nowait("a", b"%d" % number)
        await eventually(lambda: len(got) == 3)
        assert got == [b"0", b"2", b"3"]
        assert (link.callback_failures, link.reconnects) == (1, 0)


async def test_publish_during_an_outage_is_refused_and_never_delivered_later(
    tmp_path: Path,
) -> None:
    """The stock client keeps such messages and sends them after the outage: 5 of 5 ran late."""
    got: list[bytes] = []
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        link.subscribe("beat", lambda m: got.append(m.data))
        await link.flush()
        server.kill()
        await eventually(lambda: not link.is_connected)
        for _ in range(5):
            with pytest.raises(Unreachable) as caught:
                link.publish_nowait("beat", b"late")
            assert caught.value.effect == "none"
            with pytest.raises(Unreachable):
                await link.request("beat", b"late", 5)
        await server.start()
        await link.wait_connected(PATIENCE_S)
        link.publish_nowait("beat", b"in time")
        await link.flush()
        await eventually(lambda: b"in time" in got)
    assert got == [b"in time"]


async def test_queued_messages_of_a_broken_link_are_not_sent_later(
    tmp_path: Path,
) -> None:
    got: list[bytes] = []
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        link.subscribe("beat", lambda m: got.append(m.data))
        await link.flush()
        client = link._keeper.client
        assert client is not None
        link.publish_nowait("beat", b"late")  # still in our own buffer
        client.abort("the line breaks now")
        await eventually(lambda: link.reconnects == 1)
        await link.wait_connected(PATIENCE_S)
        link.publish_nowait("beat", b"in time")
        await eventually(lambda: b"in time" in got)
    assert got == [b"in time"]


async def test_publisher_that_never_waits_is_refused_before_memory_runs_out(
    tmp_path: Path,
) -> None:
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        server.freeze()
        refused = None
        for _ in range(2000):
            try:
                link.publish_nowait("a", bytes(100_000))
            except Unreachable as fault:
                refused = fault
                break
        server.thaw()
        assert refused is not None
        assert refused.effect == "none"
        assert link.pending_bytes < 32 * 1024 * 1024


async def test_flush_means_that_the_broker_has_processed_what_was_published(
    tmp_path: Path,
) -> None:
    """The stock client's ping overtakes what waits in its buffer."""
    got: list[bytes] = []
    async with (
        plain_server(tmp_path) as server,
        connected(server.url, name="a") as sender,
        connected(server.url, name="b") as receiver,
    ):
        receiver.subscribe("a", lambda m: got.append(m.data))
        await receiver.flush()
        for _ in range(1000):
            sender.publish_nowait("a", bytes(500))
        await sender.flush()
        await receiver.flush()
        assert len(got) == 1000


async def test_slow_callbacks_lose_nothing_and_cost_no_memory_of_ours(tmp_path: Path) -> None:
    """The stock client drops what its queue cannot hold, 4,900 of 5,000, one error for each.

    Here there is no queue: while a callback is busy, messages wait in the socket, and a sender
    that is too fast for the broker's patience costs the connection, which is seen and counted.
    """
    got = 0
    loop = asyncio.get_running_loop()

    def slow(_: Msg) -> None:
        nonlocal got
        got += 1
        until = loop.time() + 0.0002
        while loop.time() < until:
            pass

    async with (
        plain_server(tmp_path) as server,
        connected(server.url, name="a") as sender,
        connected(server.url, name="b") as receiver,
    ):
        receiver.subscribe("a", slow)
        await receiver.flush()
        for number in range(5000):
            sender.publish_nowait("a", b"x")
            if number % 500 == 0:
                await sender.flush()
        await sender.flush()
        await eventually(lambda: got == 5000)
        assert receiver.callback_failures == 0


async def test_refusals_of_the_broker_are_kept_and_cost_no_connection(tmp_path: Path) -> None:
    config = 'authorization { users: [{user: u, password: p, permissions: {publish: "ok.>"}}] }'
    async with plain_server(tmp_path, config=config) as server:
        url = server.url.replace("://", "://u:p@")
        async with connected(url) as link:
            link.publish_nowait("forbidden.subject", b"x")
            await eventually(lambda: link.last_permission_error)
            assert "forbidden.subject" in str(link.last_permission_error)
            assert link.permission_errors == 1
            link.publish_nowait("ok.subject", b"x")
            await link.flush()
            assert link.reconnects == 0


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB b 0\r\n", "a\tb", "a\x0bb", "\ud800"])
async def test_subject_that_would_be_another_command_is_refused(
    tmp_path: Path, subject: str
) -> None:
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        with pytest.raises(Misused):
            link.publish_nowait(subject, b"x")
        with pytest.raises(Misused):
            link.publish_nowait("fine", b"x", subject or "a b")
        with pytest.raises(Misused):
            link.subscribe(subject, lambda _: None)
        with pytest.raises(Misused):
            link.publish_nowait("fine", b"x", headers={"A": "b\r\nC: d"})
        assert link.is_connected


async def test_payload_above_the_brokers_limit_is_refused_here(tmp_path: Path) -> None:
    """The broker would close the connection over it."""
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        with pytest.raises(Refused) as caught:
            link.publish_nowait("a", bytes(link.max_payload + 1))
        assert caught.value.code == "too_large"
        await link.flush()
        assert link.reconnects == 0


async def test_unsubscribed_callback_is_not_called_any_more(tmp_path: Path) -> None:
    got: list[bytes] = []
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        subscription = link.subscribe("a", lambda m: got.append(m.data))
        link.publish_nowait("a", b"1")
        await link.flush()
        subscription.unsubscribe()
        link.publish_nowait("a", b"2")
        await link.flush()
    assert got == [b"1"]


async def test_queue_group_members_share_the_messages(tmp_path: Path) -> None:
    got: list[str] = []
    async with (
        plain_server(tmp_path) as server,
        connected(server.url, name="a") as one,
        connected(server.url, name="b") as two,
    ):
        one.subscribe("work", lambda _: got.append("one"), "crew")
        two.subscribe("work", lambda _: got.append("two"), "crew")
        await two.flush()
        for _ in range(200):
            one.publish_nowait("work", b"")
        await eventually(lambda: len(got) == 200)
    assert set(got) == {"one", "two"}


async def test_link_to_nobody_fails_in_time_and_says_why(tmp_path: Path) -> None:
    dead = NatsServer(tmp_path / "never-started")
    with pytest.raises(Unreachable) as caught:
        await Link.connect([dead.url], LinkIdentity, "a", "_INBOX_a", wait_s=0.5)
    assert caught.value.code == "broker_unreachable"
    assert str(dead.port) in caught.value.message
