"""Group commit into a stream of a real broker: stored once, or clearly not, whatever happens."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker_client.runtime.batch import BatchEntry, BatchWriter, SequenceConflict, WriterLimits
from broker_client.runtime.link import Link
from broker_client.runtime.stream_config import StreamConfig
from broker_client.runtime.stream_pages import Stored
from broker_client.runtime.streams import Streams
from schemas.faults import MeshError, Misused, Refused, Unreachable
from tests.links import connected
from tests.proxy import Proxy
from tests.servers import NatsServer, plain_server
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.integration

FACTS = StreamConfig(name="FACTS", subjects=("fact.>",), allow_atomic=True)


@asynccontextmanager
async def running(writer: BatchWriter) -> AsyncIterator[BatchWriter]:
    ready = asyncio.Event()
    task = asyncio.create_task(writer.run(ready))
    await asyncio.wait_for(ready.wait(), PATIENCE_S)
    try:
        yield writer
    finally:
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled(), task.exception()


@asynccontextmanager
async def facts_writer(
    tmp_path: Path,
    config: StreamConfig = FACTS,
    **options: Any,  # noqa: ANN401  whatever WriterLimits takes
) -> AsyncIterator[tuple[NatsServer, Streams, BatchWriter]]:
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        streams = Streams(link, timeout_s=20)
        await streams.ensure_stream(config)
        async with running(BatchWriter(streams, "FACTS", limits=WriterLimits(**options))) as writer:
            yield server, streams, writer


@asynccontextmanager
async def proxied(tmp_path: Path) -> AsyncIterator[tuple[Proxy, Link]]:
    async with (
        plain_server(tmp_path) as server,
        Proxy(server.port) as proxy,
        connected(f"nats://127.0.0.1:{proxy.port}") as link,
    ):
        yield proxy, link


async def stored(streams: Streams) -> list[Stored]:
    return [message async for message in streams.replay("FACTS")]


async def test_appended_messages_are_stored_and_answered_with_their_sequences(
    tmp_path: Path,
) -> None:
    async with facts_writer(tmp_path) as (_, streams, writer):
        futures = [writer.append(f"fact.{n}", b"%d" % n, 0) for n in range(1200)]
        seqs = await asyncio.gather(*futures)
        found = await stored(streams)
        assert [(m.seq, m.subject, m.data) for m in found] == [
            (seq, f"fact.{n}", b"%d" % n) for n, seq in enumerate(seqs)
        ]
        assert writer.stored == 1200
        assert writer.writes <= 5


async def test_records_during_a_write_form_the_next_group_commit(tmp_path: Path) -> None:
    async with facts_writer(tmp_path) as (_, _, writer):

        async def one_after_the_other(name: int) -> None:
            for turn in range(10):
                await writer.append(f"fact.{name}.{turn}", b"x", 0)

        await asyncio.gather(*(one_after_the_other(name) for name in range(100)))
        assert writer.stored == 1000
        assert writer.writes <= 20


@pytest.mark.parametrize("others", [0, 3, 60], ids=["alone", "as singles", "in a batch"])
async def test_one_conflict_is_refused_and_fails_none_of_its_neighbours(
    tmp_path: Path, others: int
) -> None:
    async with facts_writer(tmp_path) as (_, streams, writer):
        await writer.append("fact.taken", b"first", 0)
        before = [writer.append(f"fact.b{n}", b"x", 0) for n in range(others)]
        conflict = writer.append("fact.taken", b"second", 0)
        after = [writer.append(f"fact.a{n}", b"x", 0) for n in range(others)]
        with pytest.raises(SequenceConflict) as caught:
            await conflict
        assert caught.value.subject == "fact.taken"
        await asyncio.gather(*before, *after)
        found = await stored(streams)
        assert len(found) == 1 + 2 * others
        assert [m.data for m in found if m.subject == "fact.taken"] == [b"first"]
        assert writer.conflicts == 1


async def test_many_conflicts_among_many_are_each_refused_alone(tmp_path: Path) -> None:
    async with facts_writer(tmp_path) as (_, streams, writer):
        await asyncio.gather(*(writer.append(f"fact.{n}", b"1", 0) for n in range(0, 300, 10)))
        answers = await asyncio.gather(
            *(writer.append(f"fact.{n}", b"2", 0) for n in range(300)), return_exceptions=True
        )
        refused = [n for n, a in enumerate(answers) if isinstance(a, SequenceConflict)]
        assert refused == list(range(0, 300, 10))
        assert len(await stored(streams)) == 300


async def test_group_is_stored_whole_and_in_order_or_not_at_all(tmp_path: Path) -> None:
    async with facts_writer(tmp_path) as (_, streams, writer):
        first = writer.append_many([BatchEntry(f"fact.g1.{n}", b"x", 0) for n in range(3)])
        spoiled = writer.append_many(
            [
                BatchEntry("fact.g2.1", b"x", 0),
                BatchEntry("fact.g1.1", b"x", 0),
                BatchEntry("fact.g2.2", b"x", 0),
            ]
        )
        last = writer.append_many(
            [BatchEntry("fact.g3.1", b"x", 0), BatchEntry("fact.g3.1", b"y", 0)][:1]
        )
        seqs = await first
        assert seqs == [seqs[0], seqs[0] + 1, seqs[0] + 2]
        with pytest.raises(SequenceConflict):
            await spoiled
        assert len(await last) == 1
        assert sorted(m.subject for m in await stored(streams)) == [
            "fact.g1.0",
            "fact.g1.1",
            "fact.g1.2",
            "fact.g3.1",
        ]


async def test_sequences_chain_on_one_subject_in_the_order_of_appending(tmp_path: Path) -> None:
    """The broker refuses a subject twice in a batch with conditions, so the second one waits."""
    async with facts_writer(tmp_path) as (_, streams, writer):
        fillers = [writer.append(f"fact.f{n}", b"x", 0) for n in range(20)]
        first = writer.append("fact.1", b"a", 0)
        second = writer.append("fact.1", b"b", 21)
        loose = [writer.append("fact.log", b"%d" % n) for n in range(20)]
        await asyncio.gather(*fillers, first, second, *loose)
        assert (await first, await second) == (21, 22)
        assert [m.data for m in await stored(streams) if m.subject == "fact.log"] == [
            b"%d" % n for n in range(20)
        ]


async def test_full_stream_refuses_all_and_says_so(tmp_path: Path) -> None:
    small = StreamConfig(name="FACTS", subjects=("fact.>",), allow_atomic=True, max_msgs=3)
    async with facts_writer(tmp_path, small) as (_, streams, writer):
        await writer.append_many([BatchEntry(f"fact.{n}", b"x", 0) for n in range(3)])
        answers = await asyncio.gather(
            *(writer.append(f"fact.more{n}", b"x", 0) for n in range(50)),
            writer.append_many([BatchEntry("fact.a", b"x", 0), BatchEntry("fact.b", b"x", 0)]),
            return_exceptions=True,
        )
        assert {getattr(a, "code", a) for a in answers} == {"store_full"}
        assert len(await stored(streams)) == 3
        await streams.purge_up_to("FACTS", 3)
        assert await writer.append("fact.again", b"x", 0) > 3


async def test_full_queue_refuses_at_once_and_nothing_happens(tmp_path: Path) -> None:
    async with facts_writer(tmp_path, queue_messages=10, queue_bytes=100_000) as (_, _, writer):
        futures = [writer.append(f"fact.{n}", b"x", 0) for n in range(10)]
        with pytest.raises(Refused) as caught:
            _ = writer.append("fact.more", b"x", 0)
        assert caught.value.code == "queue_full"
        await asyncio.gather(*futures)
        futures = [writer.append("fact.big1", bytes(90_000), 0)]
        with pytest.raises(Refused):
            _ = writer.append("fact.big2", bytes(90_000), 0)
        await asyncio.gather(*futures)


async def test_mistakes_of_the_caller_are_refused_before_anything_is_queued(
    tmp_path: Path,
) -> None:
    async with facts_writer(tmp_path) as (_, _, writer):
        twice = [BatchEntry("fact.1", b"x", 0), BatchEntry("fact.1", b"y", 0)]
        for call in (
            lambda: writer.append_many([]),
            lambda: writer.append_many([BatchEntry(f"fact.{n}", b"") for n in range(501)]),
            lambda: writer.append_many(twice),
            lambda: writer.append("fact.a\r\nPUB x 0\r\n", b""),
        ):
            with pytest.raises(Misused):
                call()
        with pytest.raises(Refused) as caught:
            _ = writer.append("fact.1", bytes(2_000_000))
        assert caught.value.code == "too_large"
        assert writer.queued == 0


async def test_withdrawn_append_is_not_written(tmp_path: Path) -> None:
    async with facts_writer(tmp_path) as (_, streams, writer):
        kept = writer.append("fact.kept", b"x", 0)
        writer.append("fact.gone", b"x", 0).cancel()
        await kept
        assert [m.subject for m in await stored(streams)] == ["fact.kept"]


async def test_stopped_writer_leaves_nobody_waiting(tmp_path: Path) -> None:
    async with facts_writer(tmp_path) as (server, _, writer):
        server.freeze()
        sent = writer.append("fact.1", b"x", 0)
        await eventually(lambda: writer.writes == 1)
        queued = writer.append("fact.2", b"x", 0)
    with pytest.raises(Unreachable) as in_flight:
        await sent
    assert in_flight.value.effect == "unknown"
    with pytest.raises(Unreachable) as waiting:
        await queued
    assert waiting.value.effect == "none"
    with pytest.raises(Unreachable):
        _ = writer.append("fact.3", b"x", 0)


# unknown outcomes


async def append_through(
    writer: BatchWriter, count: int, disturb: Callable[[int], Any], *, expected: int | None
) -> dict[str, int]:
    """Append `count` facts, 20 at a time, `disturb` in between; sequences by subject."""
    answers: dict[str, int] = {}
    for begin in range(0, count, 20):
        disturb(begin)
        names = [f"fact.{n}" for n in range(begin, begin + 20)]
        seqs = await asyncio.gather(
            *(writer.append(name, name.encode(), expected) for name in names)
        )
        answers.update(zip(names, seqs, strict=True))
    return answers


def check_each_once(answers: dict[str, int], found: list[Stored]) -> None:
    assert {m.subject: m.seq for m in found} == answers
    assert len(found) == len(answers), "something is stored twice"


@pytest.mark.parametrize("expected", [0, None], ids=["conditional", "unconditional"])
@pytest.mark.parametrize("singles", [0, 20], ids=["batches", "singles"])
async def test_lost_answers_lead_neither_to_loss_nor_to_doubles(
    tmp_path: Path, *, singles: int, expected: int | None
) -> None:
    """The writes reach the broker and are stored, but the connection breaks before its answer."""
    async with proxied(tmp_path) as (proxy, link):
        streams = Streams(link, timeout_s=20)
        await streams.ensure_stream(FACTS)
        limits = WriterLimits(singles=singles, answer_s=1)
        writer = BatchWriter(streams, "FACTS", limits=limits)
        async with running(writer):
            loop = asyncio.get_running_loop()

            def lose_answers(begin: int) -> None:
                if begin % 40 == 20:
                    proxy.freeze("down", present_only=True)
                    loop.call_later(0.15, proxy.reset)

            answers = await append_through(writer, 160, lose_answers, expected=expected)
            check_each_once(answers, await stored(streams))
            assert writer.retries >= 4
            assert writer.stalled_since is None


@pytest.mark.parametrize("singles", [0, 20], ids=["batches", "singles"])
async def test_retry_stores_writes_that_never_arrived(tmp_path: Path, singles: int) -> None:
    async with proxied(tmp_path) as (proxy, link):
        streams = Streams(link, timeout_s=20)
        await streams.ensure_stream(FACTS)
        writer = BatchWriter(streams, "FACTS", limits=WriterLimits(singles=singles))
        async with running(writer):
            loop = asyncio.get_running_loop()

            def lose_writes(begin: int) -> None:
                if begin % 40 == 20:
                    proxy.freeze("up", present_only=True)
                    loop.call_later(0.1, proxy.reset)

            answers = await append_through(writer, 80, lose_writes, expected=None)
            check_each_once(answers, await stored(streams))


async def test_sec_s11_large_messages_hold_up_no_small_ones(tmp_path: Path) -> None:
    async with facts_writer(tmp_path, heavy_bytes=512 * 1024) as (_, streams, writer):
        large = [writer.append(f"fact.large.{n}", bytes(250_000), 0) for n in range(40)]
        small = await writer.append("fact.small", b"x", 0)
        # With the first write goes what was there, and of the large ones as much as goes with one.
        assert small <= 1 + 512 * 1024 // 250_000
        later = [await writer.append(f"fact.later.{n}", b"x", 0) for n in range(5)]
        assert later[-1] < 30
        # All of them are stored, in their own order, whatever else comes.
        seqs = await asyncio.gather(*large)
        assert seqs == sorted(seqs)
        assert writer.queued == 0
        assert len(await stored(streams)) == 46


async def test_batch_cut_at_any_byte_is_stored_once(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (proxy, link):
        streams = Streams(link, timeout_s=20)
        await streams.ensure_stream(FACTS)
        link.on_disconnected(lambda _: proxy.cut_after.update({"up": None}))
        async with running(BatchWriter(streams, "FACTS")) as writer:
            answers: dict[str, int] = {}
            for turn, size in enumerate((500, 3000, 5000)):
                proxy.reset()
                await eventually(lambda: link.is_connected)
                proxy.cut_after["up"] = size
                proxy.reset()
                names = [f"fact.{turn}.{n}" for n in range(60)]
                seqs = await asyncio.gather(*(writer.append(n, bytes(50), 0) for n in names))
                answers.update(zip(names, seqs, strict=True))
            check_each_once(answers, await stored(streams))


async def test_writer_lives_through_crashes_of_the_broker(tmp_path: Path) -> None:
    async with facts_writer(tmp_path, answer_s=2) as (server, streams, writer):
        answers: dict[str, int] = {}
        conflicts: list[MeshError] = []

        async def client(name: int) -> None:
            for turn in range(30):
                subject = f"fact.{name}.{turn}"
                try:
                    answers[subject] = await writer.append(subject, b"x", 0)
                except MeshError as fault:
                    conflicts.append(fault)

        clients = [asyncio.create_task(client(name)) for name in range(50)]
        for crash_at in (300, 700, 1100):
            await eventually(lambda at=crash_at: len(answers) >= at)  # type: ignore[misc]
            server.kill()
            await server.start()
        await asyncio.wait_for(asyncio.gather(*clients), 60)
        assert conflicts == []
        check_each_once(answers, await stored(streams))


async def test_conflict_with_our_own_earlier_try_counts_as_stored(tmp_path: Path) -> None:
    """The first try arrives after it was searched for, as bytes in a dead connection may."""
    async with facts_writer(tmp_path, answer_s=0.5) as (_, streams, writer):
        link: Link = streams.link
        held: list[bytes] = []
        publish = link.publish_block

        def hold_first(block: bytes) -> None:
            held.append(block)
            if len(held) == 2:
                publish(held[0])  # late, but before the second try
            if len(held) > 1:
                publish(block)

        link.publish_block = hold_first  # type: ignore[method-assign]
        assert await writer.append("fact.1", b"x", 0) == 1
        assert writer.conflicts == 0
        assert [m.seq for m in await stored(streams)] == [1]


async def test_stall_is_shown_while_the_broker_stores_nothing(tmp_path: Path) -> None:
    async with facts_writer(tmp_path, answer_s=0.3) as (server, _, writer):
        server.freeze()
        future = writer.append("fact.1", b"x", 0)
        await eventually(lambda: writer.stalled_since is not None)
        assert not future.done()
        server.thaw()
        assert await asyncio.wait_for(future, PATIENCE_S) == 1
        await eventually(lambda: writer.stalled_since is None)


async def test_lost_stream_ends_the_writer_instead_of_starting_anew(tmp_path: Path) -> None:
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        streams = Streams(link, timeout_s=2, stall_s=0.5)
        writer = BatchWriter(streams, "FACTS")
        with pytest.raises(Refused, match="not found"):
            await writer.run(asyncio.Event())


@pytest.mark.parametrize("is_together", [False, True])
async def test_sec_s30_message_larger_than_the_stream_takes_is_refused_alone(
    tmp_path: Path,
    is_together: bool,
) -> None:
    """The broker says of such a batch only that it is not whole: written again, it never would be.

    together: the large one is in a group of its own kind, which is refused as a whole.
    """
    config = StreamConfig(
        name="FACTS", subjects=("fact.>",), allow_atomic=True, max_msg_size=20_000
    )
    async with facts_writer(tmp_path, config) as (_, streams, writer):
        before = [writer.append(f"fact.{n}", b"x", 0) for n in range(50)]
        large: asyncio.Future[Any]
        if is_together:
            group = [BatchEntry("fact.g.1", b"x"), BatchEntry("fact.g.2", bytes(30_000))]
            large = writer.append_many(group)
        else:
            large = writer.append("fact.large", bytes(30_000), 0)
        after = [writer.append(f"fact.{n}", b"x", 0) for n in range(50, 100)]
        with pytest.raises(Refused) as caught:
            await asyncio.wait_for(large, PATIENCE_S)
        assert caught.value.code == "too_large"
        await asyncio.wait_for(asyncio.gather(*before, *after), PATIENCE_S)
        assert {m.subject for m in await stored(streams)} == {f"fact.{n}" for n in range(100)}
        assert writer.stalled_since is None
