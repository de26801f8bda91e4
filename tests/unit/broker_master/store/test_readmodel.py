"""The cache of ended commands, on a real file: what it finds, and what becomes of a bad one."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker_master.store.readmodel import Filter, HistoryRow, KnownCommand, ReadModel
from schemas import codec
from schemas.messages.facts import AttemptRecord, CommandRecord, HistoryRecord

STREAM = "2026-11-21T00:00:00Z"


def row(seq: int, command_id: str = "", *, state: str = "succeeded", **fields: str) -> HistoryRow:
    agent = fields.get("agent", "web-1")
    record = CommandRecord(
        id=command_id or f"c{seq}",
        group=fields.get("group", "web"),
        agent=None,
        action="noop",
        state=state,
        attempts=[AttemptRecord(attempt=1, agent=agent, state=state)] if agent else [],
        submitted_at="",
        client=fields.get("client", "ops"),
    )
    history = HistoryRecord(record=record, digest=b"d%d" % seq, submitted=float(seq), ended=seq + 1)
    return HistoryRow(seq, history, codec.encode(history))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "readmodel.db"


@pytest.fixture
async def model(path: Path) -> AsyncIterator[ReadModel]:
    opened = ReadModel.open(path, STREAM)
    yield opened
    opened.close()


async def sequences(model: ReadModel, **wanted: object) -> list[int]:
    return [seq for seq, _ in await model.find(Filter(**wanted))]  # type: ignore[arg-type]


async def test_new_file_is_empty_and_stands_before_the_stream(model: ReadModel) -> None:
    assert (model.position, model.stream) == (0, "")
    assert await model.find(Filter()) == []
    assert model.known("c1") is None
    assert await model.get("c1") is None


async def test_last_commands_of_an_agent_are_read_newest_first(model: ReadModel) -> None:
    states = {1: "succeeded", 3: "failed", 4: "lost"}
    await model.add([row(seq, state=state) for seq, state in states.items()])
    await model.add([row(5, agent="web-2")])
    assert model.last_of("web-1", 2) == [("c4", "lost"), ("c3", "failed")]
    await model.add([row(6, "c4", state="succeeded")])
    assert model.last_of("web-1", 20) == [
        ("c4", "succeeded"),
        ("c3", "failed"),
        ("c1", "succeeded"),
    ]


async def test_ids_near_one_are_the_last_and_those_that_begin_alike(model: ReadModel) -> None:
    await model.add([row(seq, f"c{seq}") for seq in range(1, 9)])
    await model.add([row(9, "x", state="undeliverable"), row(10, "y", state="failed")])
    found = [each for each, _ in model.some_ids("c", 2)]
    assert found[:2] == ["y", "x"]
    assert all(each.startswith("c") for each in found[2:])
    assert len(found) == 4
    assert model.last_in_trouble("undeliverable", 5) == [("x", "web")]
    plan = model._look_up.execute(
        "EXPLAIN QUERY PLAN SELECT id, grp FROM commands WHERE state = ? AND state <> 'succeeded'"
        " ORDER BY seq DESC LIMIT ?",
        ("undeliverable", 5),
    ).fetchall()
    assert "by_trouble" in str(plan)


async def test_record_that_was_added_is_found_whole(model: ReadModel) -> None:
    await model.add([row(1), row(2)])
    assert await model.get("c2") == row(2).history
    assert model.known("c2") == KnownCommand("ops", b"d2", "succeeded")
    assert await model.find(Filter()) == [(2, row(2).history), (1, row(1).history)]
    assert (model.position, await model.count()) == (2, 2)


async def test_amended_record_takes_the_place_of_the_one_before(model: ReadModel) -> None:
    await model.add([row(1, "a", state="lost"), row(2, "b")])
    await model.add([row(3, "a", state="failed")])
    assert await sequences(model) == [3, 2]
    known = model.known("a")
    assert known is not None
    assert known.state == "failed"


async def test_adding_a_row_is_idempotent(model: ReadModel) -> None:
    await model.add([row(1), row(2)])
    await model.add([row(2), row(3)])
    assert await sequences(model) == [3, 2, 1]


async def test_filters_join(model: ReadModel) -> None:
    await model.add(
        [
            row(1),
            row(2, group="db", agent="db-1"),
            row(3, state="failed"),
            row(4, state="failed", agent="web-2"),
            row(5, state="expired", agent=""),
        ]
    )
    assert await sequences(model, group="web") == [5, 4, 3, 1]
    assert await sequences(model, agent="web-1") == [3, 1]
    assert await sequences(model, state="failed") == [4, 3]
    assert await sequences(model, state="failed", agent="web-2", group="web") == [4]
    assert await sequences(model, groups=("db",)) == [2]
    assert await sequences(model, groups=("db",), group="web") == []
    assert await sequences(model, groups=("db", "web")) == [5, 4, 3, 2, 1]


async def test_pages_join_without_a_gap_while_new_rows_come(model: ReadModel) -> None:
    await model.add([row(seq) for seq in range(1, 11)])
    seen: list[int] = []
    before = None
    while page := await sequences(model, before=before, limit=3):
        seen += page
        before = page[-1]
        await model.add([row(100 + len(seen))])
    assert seen == list(range(10, 0, -1))


async def test_words_of_a_filter_are_never_part_of_the_query(model: ReadModel) -> None:
    await model.add([row(1)])
    hostile = "x' OR '1'='1"
    assert await sequences(model, group=hostile) == []
    assert await sequences(model, groups=(hostile,)) == []
    assert model.known(hostile) is None


async def test_trim_drops_what_the_stream_has_dropped(model: ReadModel) -> None:
    await model.add([row(seq) for seq in range(1, 6)])
    await model.trim(4)
    assert await sequences(model) == [5, 4]
    assert model.known("c3") is None
    assert model.position == 5


async def test_file_remembers_rows_and_position_over_a_restart(path: Path) -> None:
    first = ReadModel.open(path, STREAM)
    await first.add([row(1), row(7)])
    first.close()
    again = ReadModel.open(path, STREAM)
    assert (again.position, again.known("c7")) == (7, KnownCommand("ops", b"d7", "succeeded"))
    again.close()


async def test_rebuilt_file_holds_the_same_rows_in_the_same_order(path: Path) -> None:
    history = [row(1), row(2, "a"), row(4), row(6, "a", state="failed"), row(7)]
    first = ReadModel.open(path, STREAM)
    for each in history:
        await first.add([each])
    before = await first.find(Filter())
    first.close()
    path.unlink()
    rebuilt = ReadModel.open(path, STREAM)
    assert rebuilt.position == 0
    await rebuilt.add(history)
    assert await rebuilt.find(Filter()) == before
    rebuilt.close()


async def test_file_of_another_stream_is_replaced(path: Path) -> None:
    """A broker whose store was lost has new streams; their sequences mean other records."""
    first = ReadModel.open(path, STREAM)
    await first.add([row(1)])
    first.close()
    other = ReadModel.open(path, "2027-01-01T00:00:00Z")
    assert (other.position, other.known("c1")) == (0, None)
    other.close()


@pytest.mark.parametrize(
    "content", [b"this is no database at all, but it is long enough to look like one" * 20, b"x"]
)
async def test_file_that_is_no_database_is_replaced(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    model = ReadModel.open(path, STREAM)
    await model.add([row(1)])
    assert model.known("c1") is not None
    model.close()


async def test_file_that_was_cut_short_is_replaced(path: Path) -> None:
    first = ReadModel.open(path, STREAM)
    await first.add([row(seq) for seq in range(1, 500)])
    first.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    model = ReadModel.open(path, STREAM)
    assert model.position == 0
    await model.add([row(1)])
    model.close()


async def test_file_that_a_halt_of_the_machine_has_damaged_is_replaced(path: Path) -> None:
    """The damage is where opening does not look: nothing is synced, so a power cut leaves that."""
    first = ReadModel.open(path, STREAM)
    await first.add([row(seq) for seq in range(1, 2000)])
    first.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE position SET boot = 'the one before'")
    connection.close()
    with path.open("r+b") as file:
        for page in range(40, path.stat().st_size // 4096 - 5):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    model = ReadModel.open(path, STREAM)
    assert model.position == 0
    assert await model.find(Filter()) == []
    await model.add([row(1)])
    assert model.known("c1") is not None
    model.close()


async def test_sound_file_is_kept_over_a_start_of_the_machine(path: Path) -> None:
    first = ReadModel.open(path, STREAM)
    await first.add([row(1)])
    first.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE position SET boot = 'the one before'")
    connection.close()
    model = ReadModel.open(path, STREAM)
    assert model.position == 1
    model.close()


async def test_file_of_another_version_is_replaced(path: Path) -> None:
    first = ReadModel.open(path, STREAM)
    await first.add([row(1)])
    first.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    model = ReadModel.open(path, STREAM)
    assert (model.position, await model.count()) == (0, 0)
    model.close()


async def test_leftovers_of_a_replaced_file_go_with_it(path: Path) -> None:
    path.write_bytes(b"no database" * 100)
    wal = path.with_name(path.name + "-wal")
    wal.write_bytes(b"not of this file")
    model = ReadModel.open(path, STREAM)
    await model.add([row(1)])
    assert model.known("c1") is not None
    model.close()
