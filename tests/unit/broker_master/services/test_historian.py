"""Ended commands on their way into history: each once, whatever fails in between."""

import asyncio
from typing import Any, cast

import pytest

from broker_master.core.records import command_record
from broker_master.services import historian as module
from broker_master.services.historian import Historian
from broker_master.services.recovery import replay_facts
from broker_master.store.readmodel import HistoryRow, KnownCommand
from schemas.faults import MeshError, Refused
from schemas.messages.work import Output
from schemas.states import State
from tests.fake_clock import FakeClock
from tests.planes import make_plane
from tests.unit.broker_master.deeds import Deed, accepted, assigned, ended
from tests.waiting import soon


class HistoryInMemory:
    """The stream and its writer: what was appended is there, in order."""

    def __init__(self) -> None:
        self.stored: list[bytes] = []
        self.parts: list[int] = []
        self.fault: MeshError | None = None
        self.takes_bytes = 1 << 20

    def append_many(self, entries: list[Any]) -> "asyncio.Future[list[int]]":
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        if self.fault is not None:
            future.set_exception(self.fault)
            return future
        if any(len(entry.body) > self.takes_bytes for entry in entries):
            future.set_exception(Refused("too_large", "more than this broker takes"))
            return future
        self.parts.append(len(entries))
        begin = len(self.stored) + 1
        self.stored += [entry.body for entry in entries]
        future.set_result(list(range(begin, len(self.stored) + 1)))
        return future


class RowsInMemory:
    def __init__(self) -> None:
        self.rows: dict[str, HistoryRow] = {}
        self.fault: MeshError | None = None
        self.position = 0

    async def add(self, rows: list[HistoryRow]) -> None:
        if self.fault is not None:
            raise self.fault
        for row in rows:
            self.rows[row.history.record.id] = row

    def known(self, command_id: str) -> KnownCommand | None:
        row = self.rows.get(command_id)
        if row is None:
            return None
        record = row.history.record
        return KnownCommand(record.client, row.history.digest, record.state)


class Archive:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.plane = make_plane(self.clock)
        self.writer, self.rows = HistoryInMemory(), RowsInMemory()
        self.plane.readmodel = cast("Any", self.rows)
        self.historian = Historian(self.plane, cast("Any", self.writer))
        self.alarms: list[tuple[str, str]] = []
        self.plane.telemetry.noted.listen(
            lambda entry: self.alarms.append((entry.action, entry.target))
        )

    def end(self, *ids: str, **fields: Any) -> None:  # noqa: ANN401  of Outcome
        for command_id in ids:
            deeds = (accepted(command_id), assigned(command_id), ended(command_id, **fields))
            for sequence, deed in enumerate(deeds, 1):
                self.plane.book.replay(*deed, sequence)
            self.plane.book.end_replay()
            command = self.plane.book.get(command_id)
            assert command is not None
            record = command_record(command, self.plane.timers, with_output=True)
            self.historian.add(command, record)

    async def write(self) -> None:
        await self.historian._write_some()


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Archive:
    monkeypatch.setattr(module, "_RETRY_S", 0)
    return Archive()


async def test_command_leaves_the_book_once_its_row_can_be_looked_up(archive: Archive) -> None:
    archive.end("a", "b")
    archive.clock.advance(3)
    assert archive.historian.lag_s() == 3
    await archive.write()
    assert (len(archive.writer.stored), list(archive.rows.rows)) == (2, ["a", "b"])
    assert (len(archive.plane.book), archive.historian.lag_s()) == (0, 0)


async def test_stream_that_refuses_delays_and_loses_nothing(archive: Archive) -> None:
    archive.end("a")
    archive.writer.fault = Refused("store_full", "no room")
    await archive.write()
    assert (archive.plane.book.get("a") is not None, archive.rows.rows) == (True, {})
    archive.writer.fault = None
    await archive.write()
    assert (len(archive.writer.stored), len(archive.plane.book)) == (1, 0)


async def test_retry_of_a_refused_row_makes_no_second_record(
    archive: Archive,
) -> None:
    archive.end("a", "b")
    archive.rows.fault = Refused("disk_full", "no room")
    for _ in range(3):
        await archive.write()
        archive.end("c") if archive.plane.book.get("c") is None else None
    assert (len(archive.writer.stored), len(archive.plane.book)) == (2, 3)
    archive.rows.fault = None
    await archive.write()
    await archive.write()
    assert (len(archive.writer.stored), list(archive.rows.rows)) == (3, ["a", "b", "c"])
    assert len(archive.plane.book) == 0


async def test_commands_that_end_one_by_one_are_written_together(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write costs the broker as much as one of a hundred records, and holds up the facts."""
    monkeypatch.setattr(module, "_LINGER_S", 0.3)
    service = asyncio.create_task(archive.historian.run(asyncio.Event()))
    archive.end("first")
    await soon(lambda: archive.writer.parts)
    for number in range(10):
        archive.end(f"c{number}")
        await asyncio.sleep(0)
    await soon(lambda: len(archive.writer.stored) == 11)
    assert archive.writer.parts == [1, 10]
    service.cancel()


async def test_full_part_is_not_kept_waiting(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH", 4)
    monkeypatch.setattr(module, "_LINGER_S", 3600.0)
    service = asyncio.create_task(archive.historian.run(asyncio.Event()))
    archive.end(*(f"c{number}" for number in range(9)))
    await soon(lambda: len(archive.writer.stored) == 9)
    assert archive.writer.parts == [4, 4, 1]
    service.cancel()


async def test_large_records_do_not_wait_for_each_other(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part is full by its bytes as well."""
    monkeypatch.setattr(module, "_BATCH_BYTES", 1)
    monkeypatch.setattr(module, "_LINGER_S", 0.3)
    archive.end(*(f"c{number}" for number in range(9)))
    service = asyncio.create_task(archive.historian.run(asyncio.Event()))
    await soon(lambda: len(archive.writer.stored) == 9)
    assert archive.writer.parts == [1] * 9
    service.cancel()


# what a start makes of the facts


async def replayed(archive: Archive, *deeds: Deed) -> None:
    class Facts:
        async def replay(self) -> Any:  # noqa: ANN401
            for sequence, (fact, body) in enumerate(deeds, 1):
                yield fact, body, sequence

    archive.plane.facts = cast("Any", Facts())
    await replay_facts(archive.plane, archive.historian)


async def test_end_that_history_lacks_is_written_and_one_that_it_has_is_forgotten(
    archive: Archive,
) -> None:
    archive.end("told")
    await archive.write()
    await replayed(
        archive,
        *(accepted("told"), assigned("told"), ended("told")),
        *(accepted("untold"), assigned("untold"), ended("untold")),
        accepted("open"),
    )
    assert [command.id for command in archive.plane.book] == ["untold", "open"]
    await archive.write()
    assert [command.id for command in archive.plane.book] == ["open"]
    assert len(archive.writer.stored) == 2


async def test_command_in_history_is_not_run_again_although_its_end_was_purged(
    archive: Archive,
) -> None:
    """Its facts were being carried forward while it ended: the copies outlive that of its end."""
    archive.end("over")
    await archive.write()
    await replayed(archive, accepted("over"), assigned("over"))
    assert archive.plane.book.get("over") is None


async def test_end_that_differs_from_history_is_written_again(archive: Archive) -> None:
    """A late word came, and the master was gone before its record was amended."""
    archive.end("a")
    await archive.write()
    await replayed(archive, accepted("a"), assigned("a"), ended("a", state=State.FAILED))
    await archive.write()
    assert len(archive.writer.stored) == 2
    known = archive.rows.known("a")
    assert known is not None
    assert known.state == "failed"


async def test_sec_s30_record_too_large_for_the_broker_holds_nobody_up(archive: Archive) -> None:
    """One of five is refused for its size: it is found, cut to its end, and told as an alarm."""
    archive.writer.takes_bytes = 4096
    archive.end("a", "b")
    archive.end("c", output=Output(stdout=bytes(20_000)))
    archive.end("d", "e")
    for _ in range(8):
        await archive.write()
    assert sorted(archive.rows.rows) == ["a", "b", "c", "d", "e"]
    record = archive.rows.rows["c"].history.record
    assert (record.state, record.output, record.truncated) == ("succeeded", None, True)
    assert record.cut == ["output", "accepted"]
    assert archive.alarms == [("history.cut", "c")]
    assert (len(archive.plane.book), archive.historian.lag_s()) == (0, 0)


async def test_sec_s30_record_that_nothing_makes_small_enough_is_set_aside(
    archive: Archive,
) -> None:
    archive.end("a")
    archive.end("x" * 64, state=State.FAILED, reason="r" * 200)
    archive.end("b")
    archive.writer.takes_bytes = max(
        len(each.payload) for each in archive.historian._queue if len(each.history.record.id) == 1
    )
    for _ in range(8):
        await archive.write()
    assert list(archive.rows.rows) == ["a", "b"]
    assert archive.alarms == [("history.cut", "x" * 64), ("history.set_aside", "x" * 64)]
    assert archive.plane.telemetry.counters["history", "set_aside"] == 1
    assert (len(archive.plane.book), archive.historian.lag_s()) == (0, 0)


async def test_sec_s30_other_refusals_still_delay_and_lose_nothing(archive: Archive) -> None:
    archive.writer.fault = Refused("store_full", "no room")
    archive.end("a", "b")
    for _ in range(8):
        await archive.write()
    assert (archive.alarms, len(archive.plane.book)) == ([], 2)
