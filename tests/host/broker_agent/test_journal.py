"""The journal: acknowledged writes are on disk, whatever happens next."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_agent.store.journal import Journal, WriteResult, open_journal
from broker_agent.store.rows import _UPGRADES, AttemptRow, ReleasedAttempt
from schemas.faults import Corrupt, MeshError, Unreachable
from tests.fake_clock import FakeClock
from tests.waiting import PATIENCE_S

# Journal in its first format, with one running attempt.
FIRST_FORMAT = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value);
INSERT INTO meta VALUES ('format', 1), ('boots', 3), ('epoch', 2), ('turned_at', 1790000000.5);
CREATE TABLE attempts (
    row INTEGER PRIMARY KEY, command TEXT NOT NULL, attempt INTEGER NOT NULL,
    incarnation TEXT NOT NULL, state TEXT NOT NULL, seq INTEGER NOT NULL,
    accepted_at REAL NOT NULL, started_at REAL NOT NULL, ended_at REAL NOT NULL,
    pid INTEGER NOT NULL, pid_start INTEGER NOT NULL, exit_code INTEGER, reason TEXT NOT NULL,
    stdout_bytes INTEGER NOT NULL, stderr_bytes INTEGER NOT NULL,
    output_limit INTEGER NOT NULL, shipped INTEGER NOT NULL, report BLOB
);
INSERT INTO attempts VALUES
    (1, 'c1', 1, 'inc', 'running', 0, 1.5, 2.5, 0, 77, 88, NULL, '', 0, 0, 100, 0, NULL);
"""

# Additions of the second format, with released attempts.
SECOND_FORMAT = """
ALTER TABLE attempts ADD COLUMN kill_after REAL NOT NULL DEFAULT 0;
UPDATE meta SET value = 2 WHERE name = 'format';
CREATE TABLE released_0 (command TEXT NOT NULL, attempt INTEGER NOT NULL,
    state TEXT NOT NULL, PRIMARY KEY (command, attempt)) WITHOUT ROWID;
CREATE TABLE released_1 (command TEXT NOT NULL, attempt INTEGER NOT NULL,
    state TEXT NOT NULL, PRIMARY KEY (command, attempt)) WITHOUT ROWID;
INSERT INTO released_0 VALUES ('c8', 1, 'failed');
INSERT INTO released_1 VALUES ('c9', 2, 'succeeded');
"""


def row(journal: Journal, command: str, *, state: str = "accepted", attempt: int = 1) -> AttemptRow:
    return AttemptRow(journal.next_row(), command, attempt, "inc", state, accepted_at=1.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    journal = open_journal(path)
    yield journal
    journal.close()


def start(journal: Journal) -> None:
    journal.start(asyncio.get_running_loop().call_soon_threadsafe, lambda: False)


async def accept(journal: Journal, entry: AttemptRow) -> WriteResult:
    done: asyncio.Future[WriteResult] = asyncio.get_running_loop().create_future()
    journal.accept(entry, done.set_result)
    async with asyncio.timeout(PATIENCE_S):
        return await done


async def flush(journal: Journal) -> WriteResult:
    done: asyncio.Future[WriteResult] = asyncio.get_running_loop().create_future()
    journal.flush(done.set_result)
    async with asyncio.timeout(PATIENCE_S):
        return await done


def reopened(journal: Journal, path: Path) -> Journal:
    journal.close()
    return open_journal(path)


async def test_accepted_attempt_is_there_after_a_restart(journal: Journal, path: Path) -> None:
    start(journal)
    entry = row(journal, "c1")
    assert await accept(journal, entry) is None
    again = reopened(journal, path)
    assert again.rows == [entry]
    assert (again.boots, again.last_row) == (2, entry.row)
    again.close()


async def test_end_replaces_what_was_accepted(journal: Journal, path: Path) -> None:
    start(journal)
    entry = row(journal, "c1")
    await accept(journal, entry)
    journal.running(entry.row, 2.0, 77, 99)
    ended = entry._replace(
        state="failed",
        started_at=2.0,
        ended_at=3.0,
        pid=77,
        pid_start=99,
        exit_code=3,
        reason="because",
        stdout_bytes=4,
        stderr_bytes=5,
        shipped=True,
        report=b"raw",
    )
    journal.ended(ended, lambda _: None)
    await flush(journal)
    again = reopened(journal, path)
    assert again.rows == [ended]
    again.close()


async def test_ends_of_a_burst_are_not_mixed_up(journal: Journal, path: Path) -> None:
    entries = [row(journal, f"c{number}") for number in range(150)]
    ends = [
        entry._replace(
            state="failed", stdout_bytes=entry.row, exit_code=entry.row % 7, report=b"raw"
        )
        for entry in entries
    ]
    for entry, end in zip(entries, ends, strict=True):
        journal.accept(entry, lambda _: None)
        journal.ended(end._replace(stdout_bytes=0, report=b"without its output"), lambda _: None)
        journal.ended(end, lambda _: None)
    start(journal)
    await flush(journal)
    assert journal.commits <= 2
    again = reopened(journal, path)
    assert again.rows == ends
    again.close()


async def test_released_id_stays_known_although_its_row_is_gone(
    journal: Journal, path: Path
) -> None:
    start(journal)
    entry = row(journal, "c1")
    await accept(journal, entry)
    journal.release([(entry.row, "c1", 1, "succeeded")])
    await flush(journal)
    assert await accept(journal, row(journal, "c1")) == "succeeded"
    assert await accept(journal, row(journal, "c1", attempt=2)) is None
    again = reopened(journal, path)
    start(again)
    assert [found.attempt for found in again.rows] == [2]
    assert await accept(again, row(again, "c1")) == "succeeded"
    again.close()


async def test_group_commit_of_a_burst_keeps_its_order(journal: Journal) -> None:
    start(journal)
    order: list[int] = []
    loop = asyncio.get_running_loop()
    last: asyncio.Future[None] = loop.create_future()

    def done(number: int) -> None:
        order.append(number)
        if number == 999:
            last.set_result(None)

    for number in range(1000):
        entry = row(journal, f"c{number}")
        journal.accept(entry, lambda _, number=number: done(number))  # type: ignore[misc]
    async with asyncio.timeout(PATIENCE_S):
        await last
    assert order == list(range(1000))
    assert journal.commits < 100


async def test_old_ids_are_evicted_after_two_turns_of_their_table(path: Path) -> None:
    journal = open_journal(path, remember_s=1e-9)
    start(journal)
    for command in ("c1", "c2", "c3"):
        entry = row(journal, command)
        await accept(journal, entry)
        journal.release([(entry.row, command, 1, "succeeded")])
        await flush(journal)
    assert await accept(journal, row(journal, "c3")) == "succeeded"
    assert await accept(journal, row(journal, "c1")) is None
    journal.close()


async def release(journal: Journal, command: str) -> None:
    entry = row(journal, command)
    await accept(journal, entry)
    journal.release([(entry.row, command, 1, "succeeded")])
    await flush(journal)


async def test_ids_are_evicted_by_the_monotonic_clock_not_the_wall_clock(path: Path) -> None:
    """Run time counts over restarts; time without the agent does not."""
    clock = FakeClock()
    journal = open_journal(path, remember_s=1000, elapsed=clock.elapsed)
    start(journal)
    await release(journal, "c1")
    clock.set_wall(clock.now() + 5e8)
    clock.advance(900)
    await release(journal, "c2")
    journal.close()
    clock = FakeClock(elapsed=5.0)
    journal = open_journal(path, remember_s=1000, elapsed=clock.elapsed)
    start(journal)
    clock.advance(99)
    await release(journal, "c3")
    assert await accept(journal, row(journal, "c1")) == "succeeded"
    clock.advance(1)
    await release(journal, "c4")
    assert await accept(journal, row(journal, "c1")) == "succeeded"
    clock.advance(999)
    await release(journal, "c5")
    assert await accept(journal, row(journal, "c1")) == "succeeded"
    clock.advance(1)
    await release(journal, "c6")
    assert await accept(journal, row(journal, "c1")) is None
    assert await accept(journal, row(journal, "c5")) == "succeeded"
    journal.close()


async def test_journal_of_the_first_release_is_still_opened(path: Path) -> None:
    database = sqlite3.connect(path)
    database.executescript(FIRST_FORMAT)
    database.close()
    journal = open_journal(path)
    assert [(found.command, found.state, found.kill_after) for found in journal.rows] == [
        ("c1", "running", 0.0)
    ]
    start(journal)
    held = row(journal, "c2")._replace(kill_after=7200.0)
    assert await accept(journal, held) is None
    again = reopened(journal, path)
    assert [found.kill_after for found in again.rows] == [0.0, 7200.0]
    again.close()


async def find(journal: Journal, *commands: str) -> list[ReleasedAttempt]:
    done: asyncio.Future[list[ReleasedAttempt] | MeshError] = (
        asyncio.get_running_loop().create_future()
    )
    journal.find_released(commands, done.set_result)
    async with asyncio.timeout(PATIENCE_S):
        found = await done
    assert isinstance(found, list)
    return found


async def test_journal_of_the_second_format_keeps_what_it_knows_of_released_ones(
    path: Path,
) -> None:
    database = sqlite3.connect(path)
    database.executescript(FIRST_FORMAT + SECOND_FORMAT)
    database.close()
    journal = open_journal(path)
    start(journal)
    assert await accept(journal, row(journal, "c8")) == "failed"
    assert await find(journal, "c8", "c9", "c7") == [
        ReleasedAttempt("c8", 1, "failed", None, "", 0.0, 0.0, 0, 0, 0),
        ReleasedAttempt("c9", 2, "succeeded", None, "", 0.0, 0.0, 0, 0, 0),
    ]
    await release(journal, "c2")
    again = reopened(journal, path)
    start(again)
    assert [past.command for past in await find(again, "c2", "c9")] == ["c2", "c9"]
    again.close()


async def test_journal_of_the_third_format_keeps_each_attempt_whole(path: Path) -> None:
    database = sqlite3.connect(path)
    database.executescript(FIRST_FORMAT)
    for version in (1, 2):
        for statement in _UPGRADES[version]:
            database.execute(statement)
    database.execute("UPDATE meta SET value = 3 WHERE name = 'format'")
    database.execute("UPDATE attempts SET kill_after = 7.5, output_limit = 99, report = x'c0'")
    database.commit()
    before = database.execute("SELECT * FROM attempts").fetchone()
    names = [column[1] for column in database.execute("PRAGMA table_info(attempts)")]
    database.close()
    assert "seq" in names
    journal = open_journal(path)
    kept = [value for name, value in zip(names, before, strict=True) if name != "seq"]
    assert [*journal.rows[0]] == kept
    again = reopened(journal, path)
    assert len(again.rows) == 1
    again.close()


async def test_end_of_a_released_attempt_is_remembered_and_reported_again(
    journal: Journal, path: Path
) -> None:
    start(journal)
    entry = row(journal, "c1")._replace(output_limit=99)
    await accept(journal, entry)
    ended = entry._replace(
        state="failed",
        started_at=2.0,
        ended_at=3.0,
        exit_code=3,
        reason="because",
        stdout_bytes=4,
        stderr_bytes=5,
        shipped=True,
        report=b"raw",
    )
    journal.ended(ended, lambda _: None)
    await flush(journal)
    journal.release([(entry.row, "c1", 1, "failed")])
    past = ReleasedAttempt("c1", 1, "failed", 3, "because", 2.0, 3.0, 4, 5, 99)
    assert await find(journal, "c1") == [past]
    back = ended._replace(row=journal.next_row())
    journal.take_back(back)
    await flush(journal)
    again = reopened(journal, path)
    assert again.rows == [back]
    start(again)
    again.release([(back.row, "c1", 1, "failed")])
    assert await find(again, "c1") == [past]
    again.close()


async def test_boot_of_the_host_is_noticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boot = path.with_name("boot_id")
    monkeypatch.setattr("broker_agent.store.rows.BOOT_ID", boot)
    seen = []
    for text in ("one", "one", "two", "two"):
        boot.write_text(text)
        journal = open_journal(path)
        seen.append(journal.is_same_boot)
        journal.close()
    assert seen == [True, True, False, True]


async def test_fault_is_kept_until_a_write_succeeds(journal: Journal, path: Path) -> None:
    start(journal)
    journal._rows._db.execute("PRAGMA query_only = ON")
    assert isinstance(await accept(journal, row(journal, "c1")), Unreachable)
    assert "cannot write the journal" in journal.fault
    outcome: asyncio.Future[WriteResult] = asyncio.get_running_loop().create_future()
    journal.probe(outcome.set_result)
    assert isinstance(await outcome, Unreachable)
    journal._rows._db.execute("PRAGMA query_only = OFF")
    outcome = asyncio.get_running_loop().create_future()
    journal.probe(outcome.set_result)
    assert await outcome is None
    assert journal.fault == ""


async def test_ids_are_kept_for_as_long_as_asked(journal: Journal) -> None:
    start(journal)
    for number in range(50):
        entry = row(journal, f"c{number}")
        await accept(journal, entry)
        journal.release([(entry.row, entry.command, 1, "succeeded")])
    await flush(journal)
    assert await accept(journal, row(journal, "c0")) == "succeeded"


async def test_failed_write_is_reported_and_the_next_one_succeeds(
    journal: Journal, path: Path
) -> None:
    start(journal)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TRIGGER no BEFORE INSERT ON attempts BEGIN SELECT RAISE(ABORT, 'x'); END")
    outcome = await accept(journal, row(journal, "c1"))
    assert isinstance(outcome, MeshError)
    assert outcome.code == "journal_unavailable"
    other.execute("DROP TRIGGER no")
    assert await accept(journal, row(journal, "c2")) is None
    assert [name for (name,) in other.execute("SELECT command FROM attempts")] == ["c2"]
    other.close()


async def test_write_without_a_waiting_caller_is_committed(journal: Journal, path: Path) -> None:
    start(journal)
    entry = row(journal, "c1")
    await accept(journal, entry)
    tidied: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()
    journal.release(
        [(entry.row, "c1", 1, "succeeded")],
        lambda: loop.call_soon_threadsafe(tidied.set_result, None),  # type: ignore[arg-type]
    )
    async with asyncio.timeout(PATIENCE_S):
        await tidied
    again = reopened(journal, path)
    assert again.rows == []
    again.close()


async def test_epoch_is_remembered(journal: Journal, path: Path) -> None:
    start(journal)
    journal.note_epoch(9)
    again = reopened(journal, path)
    assert again.epoch == 9
    again.close()


def test_foreign_file_in_place_of_the_journal_is_refused_and_kept(path: Path) -> None:
    path.write_bytes(b"not a database, but somebody's file " * 100)
    with pytest.raises(Corrupt) as caught:
        open_journal(path)
    assert caught.value.code == "state_corrupt"
    assert path.read_bytes().startswith(b"not a database")


def test_path_that_takes_no_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unreachable) as caught:
        open_journal(tmp_path / "missing" / "journal.db")
    assert caught.value.code == "journal_unavailable"


CRASHER = """
import asyncio, sys
from pathlib import Path
from broker_agent.store.journal import open_journal
from broker_agent.store.rows import AttemptRow

async def main():
    journal = open_journal(Path(sys.argv[1]))
    journal.start(asyncio.get_running_loop().call_soon_threadsafe, lambda: False)
    number = 0
    def accept():
        nonlocal number
        number += 1
        command = f"c{number}"
        def done(outcome):
            assert outcome is None
            print(command, flush=True)
            asyncio.get_running_loop().call_soon(accept)
        journal.accept(AttemptRow(journal.next_row(), command, 1, "inc", "accepted"), done)
    for _ in range(8):
        accept()
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 40, 300])
def test_acknowledged_writes_survive_a_kill(path: Path, lines: int) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CRASHER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    told = [child.stdout.readline().strip() for _ in range(lines)]
    os.kill(child.pid, signal.SIGKILL)
    told += child.stdout.read().split()
    child.wait(60)
    child.stdout.close()
    journal = open_journal(path)
    assert set(told) <= {found.command for found in journal.rows}
    journal.close()
