"""What this agent has taken on, on disk before it is answered: SQLite, one writer thread.

Group commit: while one transaction is being committed, everything that arrives forms the next. Its
results come back to the loop together, so that a burst costs one fsync and one wake-up.

Attempts that are not released stand in `attempts`, complete. Released ones leave their id and how
they ended in one of two tables that take turns, so that forgetting the old ones is one DROP and
those of at least `remember_s` are always there.
"""

import json
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from broker_client.runtime.clock import SystemClock
from broker_client.runtime.rates import Gathering
from schemas.faults import Corrupt, MeshError, Unreachable
from schemas.messages.work import AttemptReport
from schemas.spans import DAY_S

FORMAT: Final = 3
# What is remembered of a released attempt beside its id and state.
_REMEMBERED: Final = (
    "exit_code INTEGER, reason TEXT NOT NULL DEFAULT '', started_at REAL NOT NULL DEFAULT 0,"
    " ended_at REAL NOT NULL DEFAULT 0, stdout_bytes INTEGER NOT NULL DEFAULT 0,"
    " stderr_bytes INTEGER NOT NULL DEFAULT 0, output_limit INTEGER NOT NULL DEFAULT 0"
)
# The journals of earlier releases, and what each lacks.
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
}
REMEMBER_S: Final = DAY_S
# The number of starts goes into the upper bits of every report's number: it grows over restarts
# without being written each time.
SEQ_BITS: Final = 32
# Kept in the write-ahead file between checkpoints, in pages of 4 KiB.
CHECKPOINT_PAGES: Final = 2000
# Under load a commit waits so long for company, which then shares its fsync; and so long while all
# slots are taken, when no task could start any sooner.
GATHER_S: Final = 0.008
PATIENT_S: Final = 0.03
_GATHER_STEPS: Final = 3

# Writes that nobody waits for go with the next that somebody does, or when this much is over.
LAZY_S: Final = 0.2
LAZY_ITEMS: Final = 256
# How much of the time for which released ids were kept may be forgotten by a crash.
AGE_STEP_S: Final = 60.0
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_ATTEMPTS: Final = """
CREATE TABLE IF NOT EXISTS attempts (
    row INTEGER PRIMARY KEY, command TEXT NOT NULL, attempt INTEGER NOT NULL,
    incarnation TEXT NOT NULL, state TEXT NOT NULL, seq INTEGER NOT NULL,
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
    "WITH ends (row, state, seq, started_at, ended_at, exit_code, reason, stdout_bytes,"
    " stderr_bytes, shipped, report) AS (VALUES {})"
    " UPDATE attempts SET state = ends.state, seq = ends.seq, started_at = ends.started_at,"
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
# Rows of one statement; each of these sizes is compiled once.
_BULKS: Final = (64, 16, 4, 1)


class Row(NamedTuple):
    """One attempt as it stands in the journal. Times are Unix seconds.

    report: the encoded AttemptReport of its end, once there is one. shipped: whether all of its
    output is stored, so that nothing but the report is left to send. kill_after: silence of the
    master, in seconds, that it may outlive.
    """

    row: int
    command: str
    attempt: int
    incarnation: str
    state: str
    seq: int = 0
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


class Past(NamedTuple):
    """A released attempt. What an earlier release of the agent has not kept is 0 or None."""

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


def end_row(row: int, incarnation: str, report: AttemptReport, raw: bytes, *, shipped: bool) -> Row:
    """The journal's form of an end."""
    return Row(
        row=row,
        command=report.command,
        attempt=report.attempt,
        incarnation=incarnation,
        state=report.state,
        seq=report.seq,
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


# What became of a write: None, the state of a duplicate, or why nothing was written.
Outcome = str | MeshError | None
Done = Callable[[Outcome], None]
Found = Callable[[list[Past] | MeshError], None]
Notify = Callable[[Callable[[], None]], object]


class _Batch:
    """Everything that goes into one transaction, by kind; the kinds have a fixed order."""

    __slots__ = (
        "accepts",
        "callbacks",
        "ends",
        "epoch",
        "questions",
        "releases",
        "returns",
        "runs",
        "tidy",
    )

    def __init__(self) -> None:
        self.accepts: list[tuple[Row, Done]] = []
        self.questions: list[tuple[str, Found]] = []
        self.returns: list[Row] = []
        self.runs: list[tuple[Any, ...]] = []
        self.ends: list[tuple[Any, ...]] = []
        self.releases: list[tuple[int, str, int, str]] = []
        self.callbacks: list[Done] = []
        self.tidy: list[Callable[[], None]] = []
        self.epoch: int | None = None

    @property
    def urgent(self) -> int:
        """How many wait for it."""
        return len(self.accepts) + len(self.callbacks) + len(self.questions)

    @property
    def is_urgent(self) -> bool:
        """Whether somebody waits for it; the rest may wait for company, within bounds."""
        return self.urgent > 0 or len(self.releases) >= LAZY_ITEMS

    def __bool__(self) -> bool:
        is_lazy = self.runs or self.releases or self.returns
        return bool(self.is_urgent or is_lazy or self.epoch is not None)


class Journal:
    """Methods are called by one thread, the loop's; callbacks come back through `notify`.

    Call `open_journal`, then `start`. A failed transaction changes nothing on disk, and each of
    its callbacks gets the fault (`journal_unavailable`), which `fault` holds until a later one
    goes through. is_same_boot: whether the start before this one was since the host's last boot.
    """

    def __init__(
        self,
        database: sqlite3.Connection,
        *,
        remember_s: float = REMEMBER_S,
        elapsed: Callable[[], float] | None = None,
    ) -> None:
        self._db = database
        self._remember_s = remember_s
        self._elapsed = elapsed or SystemClock().elapsed
        self._gathering = Gathering(wait_s=GATHER_S, patient_s=PATIENT_S)
        self._lock = threading.Lock()  # guards _next and _closing
        self._wake = threading.Condition(self._lock)
        self._next = _Batch()
        self._closing = False
        self._notify: Notify | None = None
        self._is_patient: Callable[[], bool] = lambda: False
        self._thread: threading.Thread | None = None
        self.boots = 0
        self.epoch = 0
        self.rows: list[Row] = []
        self.last_row = 0
        self.commits = 0
        self.failures = 0
        self.fault = ""
        self.is_same_boot = True
        self._load()

    def _load(self) -> None:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value)")
            version = int(self._meta("format", 0))
            self._upgrade(version)
            self._db.execute(_ATTEMPTS)
            for table in ("released_0", "released_1"):
                self._db.execute(_RELEASED.format(table))
            self.boots = int(self._meta("boots", 0)) + 1
            self.epoch = int(self._meta("epoch", 0))
            self._set_meta("format", FORMAT)
            self._set_meta("boots", self.boots)
            self._note_boot()
        found = self._db.execute("SELECT * FROM attempts ORDER BY row")
        self.rows = [Row(*columns) for columns in found]
        self.last_row = max((row.row for row in self.rows), default=0)
        self._load_turns()

    def _load_turns(self) -> None:
        self._young = int(self._meta("young", 0))
        # How long the younger table has been the younger one, and what of that is on the disk.
        self._age_s = self._stored_age_s = self._meta("young_s", 0.0)
        self._aged_at = self._elapsed()

    def _upgrade(self, found: int) -> None:
        """Bring a journal of an earlier release to the present form; 0 is a new one."""
        if found and found != FORMAT and found not in _UPGRADES:
            raise Corrupt("state_corrupt", "the journal was written by another version")
        for version in range(found or FORMAT, FORMAT):
            for statement in _UPGRADES[version]:
                self._db.execute(statement)

    def _note_boot(self) -> None:
        """Process numbers of before a boot mean nothing after it."""
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

    # What the loop calls.

    def start(self, notify: Notify, is_patient: Callable[[], bool]) -> None:
        """Begin to write; `notify` runs a function in the loop, such as call_soon_threadsafe.

        is_patient: whether more may be gathered for one commit; asked by the writer's thread.
        """
        self._notify = notify
        self._is_patient = is_patient
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    @property
    def first_seq(self) -> int:
        """Reports of this start of the agent have greater numbers than those of all before it."""
        return self.boots << SEQ_BITS

    def take_rows(self) -> list[Row]:
        """The attempts that earlier starts left, once; they are not kept after that."""
        rows, self.rows = self.rows, []
        return rows

    def next_row(self) -> int:
        self.last_row += 1
        return self.last_row

    def accept(self, row: Row, done: Done) -> None:
        """Record a new attempt. `done` gets None, or the state if it was released earlier."""
        with self._lock:
            self._next.accepts.append((row, done))
            self._wake.notify()

    def running(self, row: int, started_at: float, pid: int, pid_start: int) -> None:
        """Record the process, so that a later start of the agent finds it. Nobody waits for it."""
        with self._lock:
            self._next.runs.append((started_at, pid, pid_start, row))
            self._wake.notify()

    def ended(self, row: Row, done: Done) -> None:
        end = (
            row.row,
            row.state,
            row.seq,
            row.started_at,
            row.ended_at,
            row.exit_code,
            row.reason,
            row.stdout_bytes,
            row.stderr_bytes,
            row.shipped,
            row.report,
        )
        with self._lock:
            self._next.ends.append(end)
            self._next.callbacks.append(done)
            self._wake.notify()

    def release(
        self, items: Iterable[tuple[int, str, int, str]], tidy: Callable[[], None] | None = None
    ) -> None:
        """Forget (row, command, attempt, state) but for the ids.

        tidy: runs in the writer's thread once that is committed: removing files takes its time.
        """
        with self._lock:
            self._next.releases.extend(items)
            if tidy is not None:
                self._next.tidy.append(tidy)
            self._wake.notify()

    def find_released(self, commands: Sequence[str], found: Found) -> None:
        """Look up these commands; `found` gets all attempts that are remembered, or why not.

        The answer also has what is being released when this is called.
        """
        with self._lock:
            self._next.questions.append((json.dumps(commands), found))
            self._wake.notify()

    def take_back(self, row: Row) -> None:
        """Keep an attempt as one that is not released: its end is to be told once more."""
        with self._lock:
            self._next.returns.append(row)
            self._wake.notify()

    def note_epoch(self, epoch: int) -> None:
        """Remember the newest master over restarts; what is known already costs nothing."""
        if epoch == self.epoch:
            return
        self.epoch = epoch
        with self._lock:
            self._next.epoch = epoch
            self._wake.notify()

    def probe(self, done: Done) -> None:
        """Write something: whether the disk takes it again after it has failed."""
        with self._lock:
            self._next.epoch = self.epoch
            self._next.callbacks.append(done)
            self._wake.notify()

    def flush(self, done: Done) -> None:
        """Call `done` once all that was asked before is on disk, or failed."""
        with self._lock:
            self._next.callbacks.append(done)
            self._wake.notify()

    def close(self, timeout_s: float = 10.0) -> None:
        """Write what is left and end the thread."""
        with self._lock:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                return  # the disk hangs: closing under the writer's hands would crash it
        with suppress(sqlite3.Error):
            self._db.close()

    # What the writer's thread does.

    def _write(self) -> None:
        while True:
            with self._lock:
                while not self._next and not self._closing:
                    self._wake.wait()
                if not self._next.is_urgent and not self._closing:
                    self._wake.wait_for(self._is_due, LAZY_S)
            self._gather()
            with self._lock:
                batch, self._next = self._next, _Batch()
                if not batch and self._closing:
                    return
            self._settle(batch)

    def _gather(self) -> None:
        """Wait a moment for more, if that is what the last moments promise."""
        gathering, before = self._gathering, self._next.urgent
        wait_s = gathering.wait_s(before, time.monotonic(), patient=self._is_patient())
        if wait_s:
            for _ in range(_GATHER_STEPS):
                time.sleep(wait_s / _GATHER_STEPS)
                if self._next.urgent >= gathering.enough or self._closing:
                    break
            else:
                gathering.note_wait(self._next.urgent - before, time.monotonic())
        gathering.note_write(self._next.urgent, time.monotonic())

    def _is_due(self) -> bool:
        return self._next.is_urgent or self._closing

    def _settle(self, batch: _Batch) -> None:
        notify = self._notify
        known: dict[tuple[str, int], str] = {}
        answers: list[list[Past]] = []
        fault: MeshError | None = None
        try:
            known = self._commit(batch)
            answers = [self._remembered(wanted) for wanted, _ in batch.questions]
            self.commits += 1
            self.fault = ""
        except (sqlite3.Error, OSError) as error:
            self.failures += 1
            with suppress(sqlite3.Error):
                self._db.rollback()
                self._load_turns()
            fault = Unreachable("journal_unavailable", f"cannot write the journal: {error}")
            fault.__cause__ = error
            self.fault = fault.message
        if notify is not None and batch.urgent:
            # The loop may be gone while the last batch is written: nobody waits for it then.
            with suppress(RuntimeError):
                notify(lambda: _resolve(batch, known, answers, fault))
        if fault is None:
            for tidy in batch.tidy:
                tidy()

    def _commit(self, batch: _Batch) -> dict[tuple[str, int], str]:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        # First: a request for what is being released just now must find its id.
        if batch.releases:
            self._release(batch.releases)
        known = self._released([row for row, _ in batch.accepts])
        new = [row for row, _ in batch.accepts if (row.command, row.attempt) not in known]
        self._in_bulk(_INSERT, [*new, *batch.returns])
        if batch.runs:
            db.executemany(_RUNNING, batch.runs)
        # Of two ends of one attempt the second counts: output was stored between them.
        self._in_bulk(_ENDED, list({end[0]: end for end in batch.ends}.values()))
        if batch.epoch is not None:
            self._set_meta("epoch", batch.epoch)
        db.execute("COMMIT")
        return known

    def _released(self, rows: Sequence[Row]) -> dict[tuple[str, int], str]:
        """Which of `rows` were released earlier, with their states; one query for all of them."""
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

    def _remembered(self, wanted: str) -> list[Past]:
        """Each attempt of these commands (a JSON list), by command and number."""
        found = self._db.execute(
            "SELECT * FROM released_0 WHERE command IN (SELECT value FROM json_each(?1)) UNION"
            " SELECT * FROM released_1 WHERE command IN (SELECT value FROM json_each(?1))",
            (wanted,),
        )
        return sorted(
            {(each[0], each[1]): Past(*each) for each in found}.values(), key=lambda past: past[:2]
        )

    def _release(self, releases: list[tuple[int, str, int, str]]) -> None:
        self._take_turns()
        table = f"released_{self._young}"
        self._in_bulk(_RELEASE.format(table), releases)
        self._db.execute(_DROP, (json.dumps([item[0] for item in releases]),))

    def _in_bulk(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Many rows by few statements: each step lets go of the interpreter and must win it back.

        With one step a row, the loop and this thread would hand it to each other all the time.
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
        """Let the older table go once the younger one covers `remember_s`.

        Counted is the time that the agent has run, and no wall clock: one that is set forward must
        not make it forget early, and an id that is kept for too long does no harm.
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


def _resolve(
    batch: _Batch,
    known: dict[tuple[str, int], str],
    answers: list[list[Past]],
    fault: MeshError | None,
) -> None:
    for row, done in batch.accepts:
        done(fault or known.get((row.command, row.attempt)))
    for number, (_, found) in enumerate(batch.questions):
        found(fault or answers[number])
    for done in batch.callbacks:
        done(fault)


def check_journal_files(path: Path) -> None:
    """Raise Corrupt if anything but regular files is in the journal's place: SQLite would wait."""
    for tail in ("", "-wal", "-shm", "-journal"):
        try:
            mode = path.with_name(path.name + tail).lstat().st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(mode):
            raise Corrupt("state_corrupt", f"{path}{tail} is not a regular file")


def open_journal(
    path: Path,
    *,
    remember_s: float = REMEMBER_S,
    elapsed: Callable[[], float] | None = None,
) -> Journal:
    """Open or make the journal at `path`, which is for one process at a time.

    Raises Corrupt (`state_corrupt`) for what is no journal of ours, Unreachable
    (`journal_unavailable`) if the disk does not take it.
    """
    try:
        check_journal_files(path)
        database = sqlite3.connect(
            path, check_same_thread=False, isolation_level=None, cached_statements=64
        )
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            database.execute("PRAGMA temp_store = MEMORY")
            path.chmod(0o600)
            return Journal(database, remember_s=remember_s, elapsed=elapsed)
        except BaseException:
            with closing(database):
                raise
    except (sqlite3.OperationalError, OSError) as error:
        raise Unreachable("journal_unavailable", f"cannot open {path}: {error}") from error
    except (sqlite3.DatabaseError, TypeError, ValueError) as error:
        raise Corrupt("state_corrupt", f"{path} is not a journal: {error}") from error
