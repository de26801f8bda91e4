"""The agent's write-ahead log: attempts are on disk before their answer. SQLite, one writer thread.

Group commit: the writes that arrive during one transaction form the next. Their results come back
to the loop together, so that a burst costs one fsync and one wake-up.
"""

import json
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from broker_agent.store.rows import AttemptRow, JournalTables, ReleasedAttempt, Writes
from broker_client.runtime.clock import SystemClock
from broker_client.runtime.rates import Gathering
from schemas.faults import Corrupt, MeshError, Unreachable
from schemas.spans import DAY_S

REMEMBER_S: Final = DAY_S
# The upper bits of a report's number are the number of starts, so that report numbers grow over
# restarts without a write for each.
SEQ_BITS: Final = 32
# Size of SQLite's write-ahead log between checkpoints, in pages of 4 KiB.
CHECKPOINT_PAGES: Final = 2000
# Longest delay of a group commit under load, and while all slots are taken, so that no task could
# start sooner.
GATHER_S: Final = 0.008
PATIENT_S: Final = 0.03
_GATHER_STEPS: Final = 3

# Longest delay of writes without a waiting caller; they join the next urgent commit.
LAZY_S: Final = 0.2
LAZY_ITEMS: Final = 256
# Result of a write: None, the state of a duplicate, or the fault.
WriteResult = str | MeshError | None
OnWritten = Callable[[WriteResult], None]
OnFound = Callable[[list[ReleasedAttempt] | MeshError], None]
Notify = Callable[[Callable[[], None]], object]


class _Batch:
    """Writes of one transaction, by kind; the kinds have a fixed order."""

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
        self.accepts: list[tuple[AttemptRow, OnWritten]] = []
        self.questions: list[tuple[str, OnFound]] = []
        self.returns: list[AttemptRow] = []
        self.runs: list[tuple[float, int, int, int]] = []
        self.ends: list[AttemptRow] = []
        self.releases: list[tuple[int, str, int, str]] = []
        self.callbacks: list[OnWritten] = []
        self.tidy: list[Callable[[], None]] = []
        self.epoch: int | None = None

    @property
    def urgent(self) -> int:
        """Number of writes with a waiting caller."""
        return len(self.accepts) + len(self.callbacks) + len(self.questions)

    @property
    def is_urgent(self) -> bool:
        """Whether a caller waits for it; other batches may be delayed, within bounds."""
        return self.urgent > 0 or len(self.releases) >= LAZY_ITEMS

    def __bool__(self) -> bool:
        is_lazy = self.runs or self.releases or self.returns
        return bool(self.is_urgent or is_lazy or self.epoch is not None)

    @property
    def writes(self) -> Writes:
        return Writes(
            [row for row, _ in self.accepts],
            self.returns,
            self.runs,
            self.ends,
            self.releases,
            self.epoch,
        )


class Journal:
    """The journal. Only the loop's thread calls its methods; callbacks come through `notify`.

    Call `open_journal`, then `start`. A failed transaction changes nothing on disk, and each of
    its callbacks gets the fault (`journal_unavailable`), which `fault` holds until a later commit
    succeeds. is_same_boot: whether the previous start was since the host's last boot.
    """

    def __init__(
        self,
        database: sqlite3.Connection,
        *,
        remember_s: float = REMEMBER_S,
        elapsed: Callable[[], float] | None = None,
    ) -> None:
        self._rows = JournalTables(
            database, remember_s=remember_s, elapsed=elapsed or SystemClock().elapsed
        )
        self._gathering = Gathering(wait_s=GATHER_S, patient_s=PATIENT_S)
        self._lock = threading.Lock()  # guards _next and _closing
        self._wake = threading.Condition(self._lock)
        self._next = _Batch()
        self._closing = False
        self._notify: Notify | None = None
        self._is_patient: Callable[[], bool] = lambda: False
        self._thread: threading.Thread | None = None
        self.boots, self.epoch = self._rows.boots, self._rows.epoch
        self.rows = self._rows.found
        self.last_row = max((row.row for row in self.rows), default=0)
        self.is_same_boot = self._rows.is_same_boot
        self.commits = 0
        self.failures = 0
        self.fault = ""

    # What the loop calls.

    def start(self, notify: Notify, is_patient: Callable[[], bool]) -> None:
        """Start the writer; `notify` runs a function in the loop, such as call_soon_threadsafe.

        is_patient: called in the writer's thread, returns whether a commit may be delayed.
        """
        self._notify = notify
        self._is_patient = is_patient
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    @property
    def first_seq(self) -> int:
        """First number for reports of this start, greater than all of earlier starts."""
        return self.boots << SEQ_BITS

    def take_rows(self) -> list[AttemptRow]:
        """Return the attempts of earlier starts; later calls return none."""
        rows, self.rows = self.rows, []
        return rows

    def next_row(self) -> int:
        self.last_row += 1
        return self.last_row

    def accept(self, row: AttemptRow, done: OnWritten) -> None:
        """Record a new attempt. `done` gets None, or its state if it was released earlier."""
        with self._lock:
            self._next.accepts.append((row, done))
            self._wake.notify()

    def running(self, row: int, started_at: float, pid: int, pid_start: int) -> None:
        """Record the process, for a later start of the agent, without a callback."""
        with self._lock:
            self._next.runs.append((started_at, pid, pid_start, row))
            self._wake.notify()

    def ended(self, row: AttemptRow, done: OnWritten) -> None:
        with self._lock:
            self._next.ends.append(row)
            self._next.callbacks.append(done)
            self._wake.notify()

    def release(
        self, items: Iterable[tuple[int, str, int, str]], tidy: Callable[[], None] | None = None
    ) -> None:
        """Forget (row, command, attempt, state) except for ids and states.

        tidy: runs in the writer's thread after the commit, since removing files is slow.
        """
        with self._lock:
            self._next.releases.extend(items)
            if tidy is not None:
                self._next.tidy.append(tidy)
            self._wake.notify()

    def find_released(self, commands: Sequence[str], found: OnFound) -> None:
        """Look up these commands; `found` gets all remembered attempts, or the fault.

        Releases under way are included.
        """
        with self._lock:
            self._next.questions.append((json.dumps(commands), found))
            self._wake.notify()

    def take_back(self, row: AttemptRow) -> None:
        """Undo the release of an attempt: its end has to be reported again."""
        with self._lock:
            self._next.returns.append(row)
            self._wake.notify()

    def note_epoch(self, epoch: int) -> None:
        """Store the newest master's epoch; no write if it is known."""
        if epoch == self.epoch:
            return
        self.epoch = epoch
        with self._lock:
            self._next.epoch = epoch
            self._wake.notify()

    def probe(self, done: OnWritten) -> None:
        """Write a small value, to find out whether a failed disk has recovered."""
        with self._lock:
            self._next.epoch = self.epoch
            self._next.callbacks.append(done)
            self._wake.notify()

    def flush(self, done: OnWritten) -> None:
        """Call `done` once all earlier writes are on disk, or failed."""
        with self._lock:
            self._next.callbacks.append(done)
            self._wake.notify()

    def close(self, timeout_s: float = 10.0) -> None:
        """Commit the rest and end the thread."""
        with self._lock:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                return  # the disk hangs: closing the database during a write would crash
        self._rows.close()

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
            self._commit_batch(batch)

    def _gather(self) -> None:
        """Wait a moment for more writes, if the recent rate promises some."""
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

    def _commit_batch(self, batch: _Batch) -> None:
        notify = self._notify
        known: dict[tuple[str, int], str] = {}
        answers: list[list[ReleasedAttempt]] = []
        fault: MeshError | None = None
        try:
            known = self._rows.commit(batch.writes)
            answers = [self._rows.remembered(wanted) for wanted, _ in batch.questions]
            self.commits += 1
            self.fault = ""
        except (sqlite3.Error, OSError) as error:
            self.failures += 1
            self._rows.roll_back()
            fault = Unreachable("journal_unavailable", f"cannot write the journal: {error}")
            fault.__cause__ = error
            self.fault = fault.message
        if notify is not None and batch.urgent:
            # The loop may be closed during the last batch: no caller waits then.
            with suppress(RuntimeError):
                notify(lambda: _resolve(batch, known, answers, fault))
        if fault is None:
            for tidy in batch.tidy:
                tidy()


def _resolve(
    batch: _Batch,
    known: dict[tuple[str, int], str],
    answers: list[list[ReleasedAttempt]],
    fault: MeshError | None,
) -> None:
    for row, done in batch.accepts:
        done(fault or known.get((row.command, row.attempt)))
    for number, (_, found) in enumerate(batch.questions):
        found(fault or answers[number])
    for done in batch.callbacks:
        done(fault)


def check_journal_files(path: Path) -> None:
    """Raise Corrupt unless the journal's paths are regular files: SQLite would block on others."""
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
    """Open or make the journal at `path`, for one process at a time.

    Raises Corrupt (`state_corrupt`) for another file, Unreachable (`journal_unavailable`) if the
    disk fails.
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
