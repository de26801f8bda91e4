"""Ended commands for lists, look-ups and the deduplication of ids: a cache of the history stream.

A row's key is its sequence in the stream, so a rebuilt file holds the same rows in the same order.
One thread writes; the history stream is the source of truth, so the file may lose its last moments.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import structlog

from broker_master.core.facets import facets_of
from broker_master.core.idfilter import IdFilter
from broker_master.store.facets import conditions, facet_row
from schemas import codec
from schemas.faults import Corrupt, Refused
from schemas.filters import Word, fold
from schemas.listed import last_agent
from schemas.messages.facts import HistoryRecord

log = structlog.get_logger()

T = TypeVar("T")

_VERSION = 4
_IDS_MIN = 1_000_000
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SCHEMA = """
CREATE TABLE commands (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    grp TEXT NOT NULL,
    agent TEXT NOT NULL,
    state TEXT NOT NULL,
    client TEXT NOT NULL,
    submitted REAL NOT NULL,
    digest BLOB NOT NULL,
    record BLOB NOT NULL
);
CREATE TABLE facets (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    grp TEXT NOT NULL,
    agent TEXT NOT NULL,
    client TEXT NOT NULL,
    action TEXT NOT NULL,
    connection TEXT NOT NULL,
    program TEXT NOT NULL,
    argv TEXT NOT NULL,
    exit REAL,
    attempts REAL NOT NULL,
    took REAL,
    submitted REAL NOT NULL,
    ended REAL
);
CREATE TABLE labels (
    seq INTEGER NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (seq, name, value)
) WITHOUT ROWID;
CREATE INDEX by_group ON commands (grp);
CREATE INDEX by_agent ON commands (agent);
CREATE INDEX by_trouble ON commands (state) WHERE state <> 'succeeded';
CREATE TABLE position (seq INTEGER NOT NULL, stream TEXT NOT NULL, boot TEXT NOT NULL);
INSERT INTO position VALUES (0, '', '');
"""


class KnownCommand(msgspec.Struct, frozen=True):
    """Data of an ended command for the deduplication."""

    client: str
    digest: bytes
    state: str


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions of a search.

    before: only rows with a smaller sequence. groups: of the caller, None for all. words: of a
    filter, as `schemas.listed.COMMANDS` reads it. above: only rows with a greater sequence, so that
    no search reads too much at a time.
    """

    group: str | None = None
    agent: str | None = None
    state: str | None = None
    groups: tuple[str, ...] | None = None
    before: int | None = None
    above: int = 0
    words: tuple[Word, ...] = ()
    limit: int = 50


class HistoryRow(NamedTuple):
    """A record of the history stream: its sequence, and also its bytes."""

    seq: int
    history: HistoryRecord
    payload: bytes


class ReadModel:
    """Open with `ReadModel.open`; `close` when done.

    Look-ups by id are synchronous: one indexed read of a cached page costs less than a hop to
    another thread.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="readmodel-write")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="readmodel-read")
        self._write = _connect(path)
        self._read = _connect(path)
        self._look_up = _connect(path)
        self.position, self.stream, self._boot = self._write.execute(
            "SELECT seq, stream, boot FROM position"
        ).fetchone()
        self._ids = self._filter(self._write)

    @classmethod
    def open(cls, path: Path, stream: str) -> "ReadModel":
        """Open the cache of `stream`, which is the stream's identity.

        A file of another stream, of another version or damaged is replaced by an empty one.
        """
        model = cls._open_or_none(path)
        boot = _boot()
        if model is None or model.stream not in ("", stream) or not model.is_sound(boot):
            if model is not None:
                model.close()
            for name in (
                path,
                path.with_name(path.name + "-wal"),
                path.with_name(path.name + "-shm"),
            ):
                name.unlink(missing_ok=True)
            model = cls(path)
        with model._write:
            model._write.execute("UPDATE position SET stream = ?, boot = ?", (stream, boot))
        return model

    @classmethod
    def _open_or_none(cls, path: Path) -> "ReadModel | None":
        try:
            return cls(path)
        except sqlite3.OperationalError as error:
            # Not the file's fault: it may be valid once there is room, or access, again.
            code = "state_unreadable" if "unable to open" in str(error) else "disk_full"
            raise Refused(code, f"cannot open {path}: {error}") from error
        except (sqlite3.DatabaseError, Corrupt):
            return None

    def is_sound(self, boot: str) -> bool:
        """Whether the file is whole. Only a halt of the machine can damage unsynced data."""
        if boot and self._boot in ("", boot):
            return True
        try:
            return bool(self._write.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
        except sqlite3.DatabaseError:
            return False

    def close(self) -> None:
        self._writer.shutdown()
        self._reader.shutdown()
        for connection in (self._write, self._read, self._look_up):
            connection.close()

    # -- writing

    async def add(self, rows: Sequence[HistoryRow]) -> None:
        """Store records with their sequences, ascending; an id that was there is replaced."""
        for row in rows:
            self._ids.add(row.history.record.id)
        await self._on(self._writer, lambda: self._add(rows))
        self.position = max(self.position, rows[-1].seq)
        if self._ids.is_full:
            self._ids = await self._on(self._reader, lambda: self._filter(self._read))

    @staticmethod
    def _filter(connection: sqlite3.Connection) -> IdFilter:
        """A filter of all ids, with room for as many again."""
        count = connection.execute("SELECT count(*) FROM commands").fetchone()[0]
        ids = IdFilter(max(_IDS_MIN, 2 * count))
        for (command_id,) in connection.execute("SELECT id FROM commands"):
            ids.add(command_id)
        return ids

    def _add(self, rows: Sequence[HistoryRow]) -> None:
        values = [_values(row) for row in rows]
        with self._write:
            self._write.executemany(
                "INSERT OR REPLACE INTO commands VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values
            )
            self._add_facets(rows)
            self._write.execute("UPDATE position SET seq = max(seq, ?)", (rows[-1].seq,))

    def _add_facets(self, rows: Sequence[HistoryRow]) -> None:
        # Facets of replaced rows stay behind, found by nothing, until they are trimmed.
        self._write.executemany(
            f"INSERT OR REPLACE INTO facets VALUES ({', '.join('?' * 15)})",  # noqa: S608 - marks
            [facet_row(row.seq, facets_of(row.history)) for row in rows],
        )
        self._write.executemany(
            "INSERT OR REPLACE INTO labels VALUES (?, ?, ?)",
            [
                (row.seq, fold(name), fold(value))
                for row in rows
                for name, value in row.history.record.labels.items()
            ],
        )

    async def trim(self, first_seq: int) -> None:
        """Drop rows that the history stream no longer holds."""
        await self._on(self._writer, lambda: self._trim(first_seq))

    def _trim(self, first_seq: int) -> None:
        with self._write:
            for table in ("commands", "facets", "labels"):
                self._write.execute(f"DELETE FROM {table} WHERE seq < ?", (first_seq,))  # noqa: S608 - names above

    # -- reading

    def known(self, command_id: str) -> KnownCommand | None:
        if not self._ids.may_hold(command_id):
            return None
        row = self._look_up.execute(
            "SELECT client, digest, state FROM commands WHERE id = ?", (command_id,)
        ).fetchone()
        return None if row is None else KnownCommand(*row)

    def look_up(self, command_id: str) -> HistoryRecord | None:
        """As `get`, without a thread: for the few look-ups within a decision."""
        if not self._ids.may_hold(command_id):
            return None
        row = self._look_up.execute(
            "SELECT record FROM commands WHERE id = ?", (command_id,)
        ).fetchone()
        return None if row is None else codec.decode_trusted(HistoryRecord, row[0])

    def last_of(self, agent: str, limit: int) -> list[tuple[str, str]]:
        """Ids and states of the commands that ended last on `agent`, or for it, newest first."""
        return self._look_up.execute(
            "SELECT id, state FROM commands WHERE agent = ? ORDER BY seq DESC LIMIT ?",
            (agent, limit),
        ).fetchall()

    def some_ids(self, prefix: str, limit: int) -> list[tuple[str, str]]:
        """Ids and groups of the commands that ended last, and of some with this prefix.

        At most twice `limit`, from two short reads.
        """
        newest = self._look_up.execute(
            "SELECT id, grp FROM commands ORDER BY seq DESC LIMIT ?", (limit,)
        ).fetchall()
        alike = self._look_up.execute(
            "SELECT id, grp FROM commands WHERE id >= ? AND id < ? LIMIT ?",
            (prefix, prefix + "\x7f", limit),
        ).fetchall()
        return [*newest, *alike]

    def last_in_trouble(self, state: str, limit: int) -> list[tuple[str, str]]:
        """Ids and groups of the last commands with an unsuccessful end in `state`."""
        return self._look_up.execute(
            "SELECT id, grp FROM commands WHERE state = ? AND state <> 'succeeded'"
            " ORDER BY seq DESC LIMIT ?",
            (state, limit),
        ).fetchall()

    async def get(self, command_id: str) -> HistoryRecord | None:
        row = await self._on(
            self._reader,
            lambda: self._read.execute(
                "SELECT record FROM commands WHERE id = ?", (command_id,)
            ).fetchone(),
        )
        return None if row is None else codec.decode_trusted(HistoryRecord, row[0])

    async def find(self, wanted: Filter) -> list[tuple[int, HistoryRecord]]:
        """Matching records with their sequences, the last ended first."""
        rows = await self._on(self._reader, lambda: self._find(wanted))
        found = []
        for sequence, blob in rows:
            try:
                found.append((sequence, codec.decode_trusted(HistoryRecord, blob)))
            except Refused as error:
                log.warning("row_unreadable", sequence=sequence, error=str(error))
        return found

    def _find(self, wanted: Filter) -> list[tuple[int, bytes]]:
        clauses, values = ["commands.seq > ?"], list[object]([wanted.above])
        for column, value in (
            ("grp", wanted.group),
            ("agent", wanted.agent),
            ("state", wanted.state),
        ):
            if value is not None:
                clauses.append(f"commands.{column} = ?")
                values.append(value)
        if wanted.before is not None:
            clauses.append("commands.seq < ?")
            values.append(wanted.before)
        if wanted.groups is not None:
            clauses.append(f"commands.grp IN ({', '.join('?' * len(wanted.groups))})")
            values.extend(wanted.groups)
        source = "commands"
        if wanted.words:
            words, more = conditions(wanted.words)
            clauses += words
            values += more
            # In this order: the large record is read only where the rest matches.
            source = "facets CROSS JOIN commands ON commands.seq = facets.seq"
            if wanted.before is not None:
                clauses.append("facets.seq < ?")
                values.append(wanted.before)
            clauses.append("facets.seq > ?")
            values.append(wanted.above)
        where = " AND ".join(clauses)
        order = f"{source.partition(' ')[0]}.seq DESC"
        return self._read.execute(
            f"SELECT commands.seq, record FROM {source} WHERE {where} ORDER BY {order} LIMIT ?",  # noqa: S608 - only names above
            (*values, wanted.limit),
        ).fetchall()

    async def count(self) -> int:
        row = await self._on(
            self._reader, lambda: self._read.execute("SELECT count(*) FROM commands").fetchone()
        )
        return int(row[0])

    async def _on(self, executor: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, call)
        except sqlite3.OperationalError as error:
            raise Refused("disk_full", f"read model {self._path.name}: {error}") from error


def _values(row: HistoryRow) -> tuple[object, ...]:
    history, record = row.history, row.history.record
    return (
        row.seq,
        record.id,
        record.group,
        last_agent(record),
        record.state,
        record.client,
        history.submitted,
        history.digest,
        row.payload,
    )


def _boot() -> str:
    """Id of the present run of the operating system; empty if it has none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    # A cache that can be rebuilt need not wait for the disk.
    connection.execute("PRAGMA synchronous = OFF")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, _VERSION):
        connection.close()
        raise Corrupt("state_corrupt", f"read model version {version}, not {_VERSION}")
    if version == 0:
        with connection:
            connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
    return connection
