"""Work that may be repeated starts before it is recorded; the test plays the master."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from broker_agent.core.profiles import UsableProfile
from broker_agent.executors import registry
from broker_agent.executors.registry import ExecutorPorts, Executors
from broker_agent.services import runner
from tests.host.broker_agent.rig import WAIT_S, Rig
from tests.host.broker_agent.test_runner import journalled
from tests.waiting import eventually

ENDLESS = "with recursive c(x) as (select 1 union all select x + 1 from c) select count(*) from c"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    file = tmp_path / "shop.db"
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("create table sale (id integer)")
    settings = {"file": str(file), "access": "write"}
    shop = UsableProfile(name="shop", kind="sqlite", hash="1", settings=settings, path="")

    def executors(ports: ExecutorPorts) -> Executors:
        return registry.build(ports._replace(find_profile=lambda _name: shop))

    (tmp_path / "agent").mkdir()
    rig = Rig(tmp_path / "agent", executors=executors)
    rig.link()
    rig.serve()
    # The worker runs from here on, and the journal has the epoch.
    call(rig, "first", "select 1 as a")
    rig.release(await rig.end_of("first"))
    assert await journalled(rig) == []
    yield rig
    await rig.close()


def call(rig: Rig, command: str, sql: str, action: str = "sql.query") -> None:
    rig.run(command, [], action=action, args={"sql": sql}, connection="shop", timeout_s=600.0)


async def test_short_reading_is_written_once_and_acknowledged_by_its_report(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "RECORDED_AFTER_S", WAIT_S)
    await journalled(rig)
    before = rig.journal.commits
    call(rig, "c1", "select 1 as a")
    active = rig.running.active[("c1", 1)]
    end = await rig.end_of("c1")
    active.record()  # as its timer does, which fires after the end
    assert (end.state, end.effect) == ("succeeded", "none")
    assert rig.journal.commits == before + 1
    assert not rig.replies("c1")
    assert await journalled(rig) == [("c1", "succeeded")]
    assert rig.journal.failures == 0
    call(rig, "c1", "select 1 as a")
    assert (await rig.reply_to("c1")).answer == "duplicate"
    rig.release(end)
    assert await journalled(rig) == []


async def test_long_reading_is_recorded_and_acknowledged_while_it_runs(rig: Rig) -> None:
    call(rig, "c1", ENDLESS)
    assert (await rig.reply_to("c1")).answer == "accepted"
    assert [command for command, _ in await journalled(rig)] == ["c1"]
    rig.cancel("c1")
    assert (await rig.end_of("c1")).state == "cancelled"
    assert await journalled(rig) == [("c1", "cancelled")]


async def test_write_is_recorded_before_it_starts(rig: Rig) -> None:
    before = rig.journal.commits
    call(rig, "c1", "insert into sale values (1)", "sql.execute")
    assert not rig.running.active
    end = await rig.end_of("c1")
    assert (end.state, end.effect) == ("succeeded", "done")
    assert rig.journal.commits >= before + 2
    assert rig.replies("c1")


async def test_reading_that_was_released_before_is_a_duplicate_and_not_reported(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "RECORDED_AFTER_S", WAIT_S)
    call(rig, "c1", "select 1 as a")
    rig.release(await rig.end_of("c1"))
    assert await journalled(rig) == []
    reports = len(rig.reports("c1"))
    call(rig, "c1", "select 1 as a")
    reply = await rig.reply_to("c1")
    assert (reply.answer, reply.state) == ("duplicate", "succeeded")
    await eventually(lambda: not len(rig.station.book))
    assert len(rig.reports("c1")) == reports
    assert await journalled(rig) == []


async def test_long_reading_that_was_released_before_is_ended(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = runner.RECORDED_AFTER_S
    monkeypatch.setattr(runner, "RECORDED_AFTER_S", WAIT_S)
    call(rig, "c1", "select 1 as a")
    rig.release(await rig.end_of("c1"))
    await journalled(rig)
    reports = len(rig.reports("c1"))
    monkeypatch.setattr(runner, "RECORDED_AFTER_S", soon)
    call(rig, "c1", ENDLESS)
    assert (await rig.reply_to("c1")).answer == "duplicate"
    await eventually(lambda: not len(rig.station.book))
    assert len(rig.reports("c1")) == reports
    assert not rig.running.active


async def test_reading_goes_on_while_the_journal_fails(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_writes: object) -> dict[tuple[str, int], str]:
        raise OSError("no disk")

    monkeypatch.setattr(rig.journal._rows, "commit", fails)
    call(rig, "c1", "select 1 as a")
    assert (await rig.end_of("c1")).state == "succeeded"
