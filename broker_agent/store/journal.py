"""What this agent has taken on, on disk before it is answered: SQLite, one writer thread.

Group commit: while one transaction is being committed, everything that arrives forms the next. Its
results come back to the loop together, so that a burst costs one fsync and one wake-up.
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

from broker_agent.store.rows import Past, Row, Rows, Writes
from broker_client.runtime.clock import SystemClock
from broker_client.runtime.rates import Gathering
from schemas.faults import Corrupt, MeshError, Unreachable
from schemas.spans import DAY_S

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
        self.runs: list[tuple[float, int, int, int]] = []
        self.ends: list[Row] = []
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
        self._rows = Rows(database, remember_s=remember_s, elapsed=elapsed or SystemClock().elapsed)
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
        with self._lock:
            self._next.ends.append(row)
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
            # The loop may be gone while the last batch is written: nobody waits for it then.
            with suppress(RuntimeError):
                notify(lambda: _resolve(batch, known, answers, fault))
        if fault is None:
            for tidy in batch.tidy:
                tidy()


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
