"""Streams and buckets of a real broker, and reading them while it restarts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker_client.runtime.frames import render_hpub
from broker_client.runtime.kv import Bucket, BucketEntry
from broker_client.runtime.link import Link
from broker_client.runtime.stream_answers import SequenceConflict, StreamMissing
from broker_client.runtime.stream_config import StreamConfig
from broker_client.runtime.stream_pages import Stored
from broker_client.runtime.streams import Streams
from schemas.faults import Misused, Refused, Unreachable
from tests.links import connected
from tests.proxy import Proxy
from tests.servers import NatsServer, choose_ports, plain_server
from tests.waiting import eventually

pytestmark = pytest.mark.integration

FACTS = StreamConfig(name="FACTS", subjects=("fact.>",), allow_atomic=True)


@asynccontextmanager
async def facts(
    tmp_path: Path, config: StreamConfig = FACTS
) -> AsyncIterator[tuple[NatsServer, Link, Streams]]:
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        streams = Streams(link, timeout_s=20)
        await streams.ensure_stream(config)
        yield server, link, streams


async def fill(link: Link, streams: Streams, count: int, *, subjects: int = 10) -> None:
    """Store `count` messages quickly: without waiting for each."""
    before = (await streams.info("FACTS")).last_seq
    answers: list[bytes] = []
    inbox, close = link.open_inbox(lambda m: answers.append(m.data))
    for begin in range(0, count, 500):
        for number in range(begin, min(begin + 500, count)):
            subject = f"fact.{number % subjects}.n"
            link.publish_nowait(subject, b"%d" % number, inbox)
        await _until_answered(answers, min(begin + 500, count))
    close()
    assert (await streams.info("FACTS")).last_seq == before + count


async def _until_answered(answers: list[bytes], count: int) -> None:
    await eventually(lambda: len(answers) == count)


async def test_stream_is_made_once_and_a_lost_one_is_not_hidden(tmp_path: Path) -> None:
    async with facts(tmp_path) as (_, _, streams):
        await streams.store("fact.1", b"x")
        again = await streams.ensure_stream(FACTS)
        assert (again.is_new, again.first_seq, again.last_seq) == (False, 1, 1)
        await streams._api("STREAM.DELETE.FACTS")
        made = await streams.ensure_stream(FACTS)
        assert (made.is_new, made.last_seq) == (True, 0)
        assert made.created_at != again.created_at


def pair(directory: Path) -> tuple[NatsServer, NatsServer]:
    """Two servers of one cluster, not started: neither has a leader of JetStream alone."""
    routes = choose_ports(2)
    listed = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
    one, two = (
        NatsServer(
            directory / f"node-{number}",
            config=f'server_name: "node-{number}"\n'
            f'cluster {{ name: "c", listen: "127.0.0.1:{port}", routes: [{listed}] }}',
        )
        for number, port in enumerate(routes)
    )
    return one, two


async def test_stream_is_made_once_the_cluster_has_a_leader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A master that starts together with its cluster must not end because it came first."""
    one, two = pair(tmp_path)
    try:
        await one.start()
        async with connected(one.url) as link:
            streams = Streams(link, timeout_s=0.5)
            lines: list[tuple[str, object]] = []

            class Log:
                def warning(self, event: str, **fields: object) -> None:
                    lines.append((event, fields["stream"]))

            # Capturing what structlog prints fails where an earlier test has used this log.
            monkeypatch.setattr("broker_client.runtime.streams.log", Log())
            making = asyncio.ensure_future(streams.ensure_stream(FACTS))
            await eventually(lambda: lines)
            assert not making.done()
            await two.start()
            made = await making
            assert (made.is_new, made.last_seq) == (True, 0)
            assert lines == [("store_awaited", "FACTS")]
    finally:
        one.kill()
        two.kill()


async def test_stream_of_a_cluster_without_a_leader_is_given_up_with_a_fault(
    tmp_path: Path,
) -> None:
    one, _ = pair(tmp_path)
    try:
        await one.start()
        async with connected(one.url) as link:
            streams = Streams(link, timeout_s=0.2, stall_s=0.5)
            with pytest.raises(Unreachable, match=r"FACTS is not ready after 0.5 s") as caught:
                await streams.ensure_stream(FACTS)
            assert caught.value.code == "store_unavailable"
    finally:
        one.kill()


async def test_stream_that_differs_is_changed_and_keeps_its_messages(tmp_path: Path) -> None:
    async with facts(tmp_path) as (_, _, streams):
        await streams.store("fact.1", b"x")
        wider = StreamConfig(
            name="FACTS", subjects=("fact.>", "more"), allow_atomic=True, max_bytes=1_000_000
        )
        changed = await streams.ensure_stream(wider)
        assert (changed.is_new, changed.messages) == (False, 1)
        assert await streams.store("more", b"y") == 2


async def test_impossible_stream_is_refused_with_the_brokers_reason(tmp_path: Path) -> None:
    async with facts(tmp_path) as (_, _, streams):
        with pytest.raises(Refused, match="overlap") as caught:
            await streams.ensure_stream(StreamConfig(name="OTHER", subjects=("fact.1",)))
        assert caught.value.code == "settings_invalid"
        with pytest.raises(StreamMissing):
            await streams.info("NONE")


async def test_store_honours_the_expected_sequence_of_the_subject(tmp_path: Path) -> None:
    async with facts(tmp_path) as (_, _, streams):
        first = await streams.store("fact.1", b"a", expected=0)
        assert await streams.store("fact.2", b"b", expected=0) == 2
        with pytest.raises(SequenceConflict) as caught:
            await streams.store("fact.1", b"c", expected=0)
        assert caught.value.subject == "fact.1"
        assert caught.value.effect == "none"
        assert await streams.store("fact.1", b"c", expected=first) == 3


async def test_store_says_when_the_stream_is_full_or_missing(tmp_path: Path) -> None:
    small = StreamConfig(name="FACTS", subjects=("fact.>",), max_msgs=2)
    async with facts(tmp_path, small) as (_, _, streams):
        for number in (1, 2):
            await streams.store(f"fact.{number}", b"x")
        with pytest.raises(Refused) as full:
            await streams.store("fact.3", b"x")
        assert full.value.code == "store_full"
        with pytest.raises(Unreachable) as nobody:
            await streams.store("elsewhere", b"x")
        assert (nobody.value.code, nobody.value.effect) == ("store_unavailable", "none")


async def test_last_message_of_a_subject_is_found_both_ways(tmp_path: Path) -> None:
    async with facts(tmp_path) as (_, _, streams):
        for body in (b"a", b"", b"c"):
            seq = await streams.store("fact.1", body, headers={"Colour": "red"})
            direct = await streams.get_last("FACTS", "fact.1")
            agreed = await streams.get_last_agreed("FACTS", "fact.1")
            assert direct is not None
            assert agreed is not None
            assert direct[:3] == agreed[:3] == (seq, "fact.1", body)
            assert b"Colour: red" in agreed.headers
        assert await streams.get_last("FACTS", "fact.2") is None
        assert await streams.get_last_agreed("FACTS", "fact.2") is None


async def test_pages_follow_each_other_without_gap(tmp_path: Path) -> None:
    async with facts(tmp_path) as (_, link, streams):
        await fill(link, streams, 25)
        first = await streams.read_from("FACTS", 1, batch=10)
        assert [m.seq for m in first.messages] == list(range(1, 11))
        assert (first.next_seq, first.is_last) == (11, False)
        last = await streams.read_from("FACTS", 21, batch=10)
        assert ([m.seq for m in last.messages], last.is_last) == ([21, 22, 23, 24, 25], True)
        assert await streams.read_from("FACTS", 26) == ([], 26, True)
        some = await streams.read_from("FACTS", 1, "fact.3.n")
        assert [(m.seq, m.data) for m in some.messages] == [(4, b"3"), (14, b"13"), (24, b"23")]
        small = await streams.read_from("FACTS", 1, max_bytes=60)
        assert 1 <= len(small.messages) < 25


async def test_publishers_headers_cannot_pass_as_the_brokers(tmp_path: Path) -> None:
    async with facts(tmp_path) as (_, _, streams):
        forged = {
            "Nats-Sequence": "77",
            "Nats-Subject": "fact.other",
            "Nats-Last-Sequence": "76",
        }
        seq = await streams.store("fact.1", b"x", headers=forged)
        page = await streams.read_from("FACTS", 1)
        assert [m[:3] for m in page.messages] == [(seq, "fact.1", b"x")]


async def test_replay_yields_everything_once_and_skips_what_was_purged(tmp_path: Path) -> None:
    async with facts(tmp_path) as (_, link, streams):
        await fill(link, streams, 2500)
        assert [m.seq async for m in streams.replay("FACTS")] == list(range(1, 2501))
        assert [m.seq async for m in streams.replay("FACTS", 2499)] == [2499, 2500]
        assert [m.seq async for m in streams.replay("FACTS", 9999)] == []
        threes = [m.seq async for m in streams.replay("FACTS", 1, "fact.3.n")]
        assert threes == list(range(4, 2501, 10))
        assert [m.seq async for m in streams.replay("FACTS", 1, "fact.none")] == []
        assert await streams.purge_up_to("FACTS", 1000) == 1000
        assert [m.seq async for m in streams.replay("FACTS")] == list(range(1001, 2501))
        assert await streams.purge_up_to("FACTS", 2500, "fact.3.n") == 150
        assert len([m async for m in streams.replay("FACTS")]) == 1350
        assert await streams.purge_up_to("FACTS", 2500) == 1350
        assert [m.seq async for m in streams.replay("FACTS")] == []


async def test_replay_ends_at_what_was_the_last_message_when_it_began(tmp_path: Path) -> None:
    async with facts(tmp_path) as (_, link, streams):
        await fill(link, streams, 3)
        seen: list[int] = []
        async for message in streams.replay("FACTS"):
            seen.append(message.seq)
            await streams.store("fact.more", b"x")
        assert seen == [1, 2, 3]


async def test_replay_goes_on_over_a_restart_of_the_broker(tmp_path: Path) -> None:
    async with facts(tmp_path) as (server, link, streams):
        await fill(link, streams, 5000)
        seen: list[int] = []
        async for message in streams.replay("FACTS"):
            seen.append(message.seq)
            if message.seq in (500, 3500):
                server.kill()
                await server.start()
        assert seen == list(range(1, 5001))
        assert link.reconnects == 2


async def test_page_cut_in_the_middle_is_requested_again(tmp_path: Path) -> None:
    async with plain_server(tmp_path) as server, Proxy(server.port) as proxy:
        async with connected(server.url) as filling:
            streams = Streams(filling)
            await streams.ensure_stream(FACTS)
            await fill(filling, streams, 3000)
        async with connected(f"nats://127.0.0.1:{proxy.port}") as link:
            proxy.cut_after["down"] = 150_000  # less than a page
            link.on_disconnected(lambda _: proxy.cut_after.update({"down": None}))
            seen = [m.seq async for m in Streams(link, timeout_s=20).replay("FACTS")]
            assert seen == list(range(1, 3001))
            assert link.reconnects == 1


async def test_page_with_a_missing_message_is_no_page(tmp_path: Path) -> None:
    """As after a reconnect in its middle: later answers would go to the new connection."""
    async with plain_server(tmp_path) as server, connected(server.url) as link:

        def answer(msg_reply: str) -> None:
            for seq, before in ((1, 0), (3, 2)):
                block = (
                    f"NATS/1.0\r\nNats-Subject: fact.1\r\nNats-Sequence: {seq}\r\n"
                    f"Nats-Last-Sequence: {before}\r\n\r\n"
                ).encode()
                link.publish_block(render_hpub(msg_reply, block, b"x"))

        link.subscribe("$JS.API.DIRECT.GET.FAKE", lambda m: answer(m.reply))
        with pytest.raises(Unreachable, match="missing"):
            await Streams(link, timeout_s=20).read_from("FAKE", 1)


async def test_reading_from_a_broker_that_stays_away_ends_with_a_fault(tmp_path: Path) -> None:
    async with facts(tmp_path) as (server, link, _):
        server.kill()
        await eventually(lambda: not link.is_connected)
        streams = Streams(link, timeout_s=0.2, stall_s=0.5)
        with pytest.raises(Unreachable):
            _ = [m async for m in streams.replay("FACTS")]


# buckets


async def test_bucket_compares_and_sets(tmp_path: Path) -> None:
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        bucket = Bucket(Streams(link), "registry")
        assert (await bucket.ensure(history=3)).is_new
        assert not (await bucket.ensure(history=3)).is_new
        assert await bucket.get("agent.web-1") is None
        first = await bucket.create("agent.web-1", b"one")
        with pytest.raises(SequenceConflict):
            await bucket.create("agent.web-1", b"two")
        second = await bucket.update("agent.web-1", b"two", first)
        with pytest.raises(SequenceConflict):
            await bucket.update("agent.web-1", b"three", first)
        assert await bucket.get("agent.web-1") == BucketEntry("agent.web-1", b"two", second)
        await bucket.put("group.web", b"")
        assert await bucket.keys() == ["agent.web-1", "group.web"]
        assert await bucket.keys("agent.>") == ["agent.web-1"]
        with pytest.raises(SequenceConflict):
            await bucket.delete("agent.web-1", first)
        await bucket.delete("agent.web-1", second)
        assert await bucket.get("agent.web-1") is None
        assert await bucket.keys() == ["group.web"]
        assert await bucket.create("agent.web-1", b"again") > second
        assert (await bucket.items())["agent.web-1"].value == b"again"


async def test_bucket_is_one_that_other_nats_clients_can_read(tmp_path: Path) -> None:
    import nats

    async with plain_server(tmp_path) as server, connected(server.url) as link:
        bucket = Bucket(Streams(link), "registry")
        await bucket.ensure()
        await bucket.put("a.b", b"1")
        await bucket.put("c", b"2")
        await bucket.delete("c")
        stock = await nats.connect(server.url)
        try:
            theirs = await stock.jetstream().key_value("registry")
            assert (await theirs.get("a.b")).value == b"1"
            assert await theirs.keys() == ["a.b"]
            await theirs.put("d", b"4")
            await theirs.delete("a.b")
        finally:
            await stock.close()
        assert {key: e.value for key, e in (await bucket.items()).items()} == {"d": b"4"}


async def test_bucket_is_read_within_seconds_of_a_restart_and_hints_come_again(
    tmp_path: Path,
) -> None:
    """The stock client's watch needs 19 s for that."""
    hints: list[str] = []
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        streams = Streams(link, timeout_s=20)
        bucket = Bucket(streams, "leases")
        await bucket.ensure()
        watching = bucket.watch(hints.append)
        await bucket.put("web", b"1")
        server.kill()
        await server.start()
        found = await streams.insist(lambda: bucket.get("web"))
        assert found is not None
        assert found.value == b"1"
        await bucket.put("web", b"2")
        await eventually(lambda: hints == ["web", "web"])
        watching.unsubscribe()


@pytest.mark.parametrize("key", ["", "a b", "a..b", ".a", "*", "a.>", "a\r\nb"])
async def test_key_out_of_shape_is_refused(tmp_path: Path, key: str) -> None:
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        bucket = Bucket(Streams(link), "b")
        with pytest.raises(Misused):
            await bucket.put(key, b"x")
        with pytest.raises(Misused):
            await bucket.get(key)


def test_stored_message_has_named_fields() -> None:
    assert Stored(1, "a", b"x") == (1, "a", b"x", b"")
