"""Tables of the journal, and the transactions on them. For one thread at a time.

`attempts` holds complete rows of attempts that are not released. Released ones leave id and end in
one of two tables that alternate, so that eviction is one DROP and the last `remember_s` are always
there.
"""

import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from schemas.faults import Corrupt
from schemas.messages.work import AttemptReport

FORMAT: Final = 4
# Columns that are kept of a released attempt beside its id and state.
_REMEMBERED: Final = (
    "exit_code INTEGER, reason TEXT NOT NULL DEFAULT '', started_at REAL NOT NULL DEFAULT 0,"
    " ended_at REAL NOT NULL DEFAULT 0, stdout_bytes INTEGER NOT NULL DEFAULT 0,"
    " stderr_bytes INTEGER NOT NULL DEFAULT 0, output_limit INTEGER NOT NULL DEFAULT 0"
)
# Upgrades of the journals of earlier releases.
_UPGRADES: Final = {
    1: ("ALTER TABLE attempts ADD COLUMN kill_after REAL NOT NULL DEFAULT 0",),
    2: tuple(
        f"CREATE TABLE IF NOT EXISTS released_{turn} (command TEXT NOT NULL, attempt INTEGER"
        " NOT NULL, state TEXT NOT NULL, PRIMARY KEY (command, attempt)) WITHOUT ROWID"
        for turn in (0, 1)
    )
    + tuple(
        f"ALTER TABLE released_{turn} ADD COLUMN {column}"
        for turn in (0, 1)
        for column in _REMEMBERED.split(", ")
    ),
    3: ("ALTER TABLE attempts DROP COLUMN seq",),
}
# Longest part of the age of released ids that a crash loses.
AGE_STEP_S: Final = 60.0
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_ATTEMPTS: Final = """
CREATE TABLE IF NOT EXISTS attempts (
    row INTEGER PRIMARY KEY, command TEXT NOT NULL, attempt INTEGER NOT NULL,
    incarnation TEXT NOT NULL, state TEXT NOT NULL,
    accepted_at REAL NOT NULL, started_at REAL NOT NULL, ended_at REAL NOT NULL,
    pid INTEGER NOT NULL, pid_start INTEGER NOT NULL, exit_code INTEGER, reason TEXT NOT NULL,
    stdout_bytes INTEGER NOT NULL, stderr_bytes INTEGER NOT NULL,
    output_limit INTEGER NOT NULL, shipped INTEGER NOT NULL, report BLOB,
    kill_after REAL NOT NULL DEFAULT 0
)"""
_RELEASED: Final = (
    "CREATE TABLE IF NOT EXISTS {} (command TEXT NOT NULL, attempt INTEGER NOT NULL,"
    f" state TEXT NOT NULL, {_REMEMBERED}, PRIMARY KEY (command, attempt)) WITHOUT ROWID"
)
_INSERT: Final = "INSERT INTO attempts VALUES {}"
_RUNNING: Final = (
    "UPDATE attempts SET state = 'running', started_at = ?, pid = ?, pid_start = ? WHERE row = ?"
)
_ENDED: Final = (
    "WITH ends (row, state, started_at, ended_at, exit_code, reason, stdout_bytes,"
    " stderr_bytes, shipped, report) AS (VALUES {})"
    " UPDATE attempts SET state = ends.state, started_at = ends.started_at,"
    " ended_at = ends.ended_at, exit_code = ends.exit_code, reason = ends.reason,"
    " stdout_bytes = ends.stdout_bytes, stderr_bytes = ends.stderr_bytes, shipped = ends.shipped,"
    " report = ends.report FROM ends WHERE attempts.row = ends.row"
)
_RELEASE: Final = (
    "WITH gone (row, command, attempt, state) AS (VALUES {{}}) INSERT OR REPLACE INTO {}"
    " SELECT gone.command, gone.attempt, gone.state, a.exit_code, coalesce(a.reason, ''),"
    " coalesce(a.started_at, 0), coalesce(a.ended_at, 0), coalesce(a.stdout_bytes, 0),"
    " coalesce(a.stderr_bytes, 0), coalesce(a.output_limit, 0)"
    " FROM gone LEFT JOIN attempts AS a ON a.row = gone.row"
)
_DROP: Final = "DELETE FROM attempts WHERE row IN (SELECT value FROM json_each(?))"
# Numbers of rows per statement; SQLite compiles each once.
_BULKS: Final = (64, 16, 4, 1)


class AttemptRow(NamedTuple):
    """One attempt in the journal. Times are Unix seconds.

    report: encoded AttemptReport of its end, or empty. shipped: whether all its output is stored,
    so that only the report is left to send. kill_after: seconds of the master's silence that it may
    outlive.
    """

    row: int
    command: str
    attempt: int
    incarnation: str
    state: str
    accepted_at: float = 0.0
    started_at: float = 0.0
    ended_at: float = 0.0
    pid: int = 0
    pid_start: int = 0
    exit_code: int | None = None
    reason: str = ""
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    output_limit: int = 0
    shipped: bool = False
    report: bytes | None = None
    kill_after: float = 0.0


class ReleasedAttempt(NamedTuple):
    """A released attempt. Values that an earlier version did not keep are 0 or None."""

    command: str
    attempt: int
    state: str
    exit_code: int | None
    reason: str
    started_at: float
    ended_at: float
    stdout_bytes: int
    stderr_bytes: int
    output_limit: int


def end_row(
    row: int, incarnation: str, report: AttemptReport, raw: bytes, *, shipped: bool
) -> AttemptRow:
    """Row of an attempt that has ended."""
    return AttemptRow(
        row=row,
        command=report.command,
        attempt=report.attempt,
        incarnation=incarnation,
        state=report.state,
        accepted_at=report.accepted_at,
        started_at=report.started_at,
        ended_at=report.ended_at,
        exit_code=report.exit_code,
        reason=report.reason,
        stdout_bytes=report.stdout_bytes,
        stderr_bytes=report.stderr_bytes,
        shipped=shipped,
        report=raw,
    )


class Writes(NamedTuple):
    """Writes of one transaction, in the order of `Rows.commit`.

    accepts: new attempts. returns: attempts whose release is undone. runs: (started_at, pid,
    pid_start, row). ends: complete rows. releases: (row, command, attempt, state).
    """

    accepts: Sequence[AttemptRow]
    returns: Sequence[AttemptRow]
    runs: Sequence[tuple[float, int, int, int]]
    ends: Sequence[AttemptRow]
    releases: Sequence[tuple[int, str, int, str]]
    epoch: int | None


class JournalTables:
    """The tables, loaded at once. is_same_boot: whether the last start was since the last boot."""

    def __init__(
        self, database: sqlite3.Connection, *, remember_s: float, elapsed: Callable[[], float]
    ) -> None:
        self._db = database
        self._remember_s = remember_s
        self._elapsed = elapsed
        self.is_same_boot = True
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value)")
            self._upgrade(int(self._meta("format", 0)))
            self._db.execute(_ATTEMPTS)
            for table in ("released_0", "released_1"):
                self._db.execute(_RELEASED.format(table))
            self.boots = int(self._meta("boots", 0)) + 1
            self.epoch = int(self._meta("epoch", 0))
            self._set_meta("format", FORMAT)
            self._set_meta("boots", self.boots)
            self._note_boot()
        found = self._db.execute("SELECT * FROM attempts ORDER BY row")
        self.found = [AttemptRow(*columns) for columns in found]
        self._load_turns()

    def _load_turns(self) -> None:
        self._young = int(self._meta("young", 0))
        # Seconds since the younger table was begun, and the part of that on the disk.
        self._age_s = self._stored_age_s = self._meta("young_s", 0.0)
        self._aged_at = self._elapsed()

    def _upgrade(self, found: int) -> None:
        """Upgrade a journal of an earlier version; 0: a new journal."""
        if found and found != FORMAT and found not in _UPGRADES:
            raise Corrupt("state_corrupt", "the journal was written by another version")
        for version in range(found or FORMAT, FORMAT):
            for statement in _UPGRADES[version]:
                self._db.execute(statement)

    def _note_boot(self) -> None:
        """Detect a boot since the last start: pids of before it are void."""
        try:
            boot = BOOT_ID.read_text().strip()
        except OSError:
            return
        row = self._db.execute("SELECT value FROM meta WHERE name = 'boot'").fetchone()
        self.is_same_boot = row is None or row[0] == boot
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('boot', ?)", (boot,))

    def _meta(self, name: str, default: float) -> float:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return default if row is None else float(row[0])

    def _set_meta(self, name: str, value: float) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def commit(self, writes: Writes) -> dict[tuple[str, int], str]:
        """Commit one transaction. Returns the states of `accepts` that were released earlier.

        Raises sqlite3.Error or OSError; call `roll_back` then.
        """
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        # First: a request for an attempt that is released in this batch must find its id.
        if writes.releases:
            self._release(writes.releases)
        known = self._released(writes.accepts)
        new = [row for row in writes.accepts if (row.command, row.attempt) not in known]
        self._in_bulk(_INSERT, [*new, *writes.returns])
        if writes.runs:
            db.executemany(_RUNNING, writes.runs)
        # Of two ends of one attempt the second counts: it knows of more stored output.
        ends = {row.row: _end(row) for row in writes.ends}
        self._in_bulk(_ENDED, list(ends.values()))
        if writes.epoch is not None:
            self._set_meta("epoch", writes.epoch)
        db.execute("COMMIT")
        return known

    def roll_back(self) -> None:
        with suppress(sqlite3.Error):
            self._db.rollback()
            self._load_turns()

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._db.close()

    def _released(self, rows: Sequence[AttemptRow]) -> dict[tuple[str, int], str]:
        """States of the `rows` that were released earlier, by one query."""
        if not rows:
            return {}
        wanted = json.dumps([row.command for row in rows])
        keys = {(row.command, row.attempt) for row in rows}
        found = self._db.execute(
            "SELECT command, attempt, state FROM released_0"
            " WHERE command IN (SELECT value FROM json_each(?1)) UNION ALL"
            " SELECT command, attempt, state FROM released_1"
            " WHERE command IN (SELECT value FROM json_each(?1))",
            (wanted,),
        )
        return {(c, a): state for c, a, state in found if (c, a) in keys}

    def remembered(self, wanted: str) -> list[ReleasedAttempt]:
        """Remembered attempts of these commands (a JSON list), by command and number."""
        found = self._db.execute(
            "SELECT * FROM released_0 WHERE command IN (SELECT value FROM json_each(?1)) UNION"
            " SELECT * FROM released_1 WHERE command IN (SELECT value FROM json_each(?1))",
            (wanted,),
        )
        return sorted(
            {(each[0], each[1]): ReleasedAttempt(*each) for each in found}.values(),
            key=lambda past: past[:2],
        )

    def _release(self, releases: Sequence[tuple[int, str, int, str]]) -> None:
        self._take_turns()
        table = f"released_{self._young}"
        self._in_bulk(_RELEASE.format(table), releases)
        self._db.execute(_DROP, (json.dumps([item[0] for item in releases]),))

    def _in_bulk(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write many rows with few statements: each step releases the interpreter's lock.

        With one step per row, the loop and this thread would contend for the lock all the time.
        """
        start = 0
        for size in _BULKS:
            while len(rows) - start >= size:
                part = rows[start : start + size]
                start += size
                one = f"({', '.join('?' * len(part[0]))})"
                values = [value for row in part for value in row]
                self._db.execute(statement.format(", ".join([one] * size)), values)

    def _take_turns(self) -> None:
        """Drop the older table once the younger one covers `remember_s`.

        The age is run time of the agent, not wall-clock time: a clock that is set forward must not
        evict early, and ids may be kept longer than needed.
        """
        now = self._elapsed()
        self._age_s += now - self._aged_at
        self._aged_at = now
        if self._age_s >= self._remember_s:
            old = f"released_{1 - self._young}"
            self._db.execute(f"DROP TABLE {old}")
            self._db.execute(_RELEASED.format(old))
            self._young = 1 - self._young
            self._age_s = 0.0
            self._set_meta("young", self._young)
        elif self._age_s - self._stored_age_s < AGE_STEP_S:
            return
        self._stored_age_s = self._age_s
        self._set_meta("young_s", self._age_s)


def _end(row: AttemptRow) -> tuple[Any, ...]:
    return (
        row.row,
        row.state,
        row.started_at,
        row.ended_at,
        row.exit_code,
        row.reason,
        row.stdout_bytes,
        row.stderr_bytes,
        row.shipped,
        row.report,
    )
