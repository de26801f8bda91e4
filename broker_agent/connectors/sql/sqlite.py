"""The connector `sqlite`: a database in a file of the host, by the driver of Python itself."""

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final

from msgspec import Meta

from broker_agent.connectors.api import Call, CallFailed, Out, Secrets
from broker_agent.connectors.sql.rows import Rows, plain
from broker_agent.connectors.sql.statements import (
    ACTIONS,
    Returned,
    SqlProfile,
    allowed,
    check_statements,
    choose,
    sets_of,
)
from broker_agent.connectors.sql.tokens import SQLITE, Statement, values_of
from schemas.messages.actions.sql import SqlExecuteArgs, SqlQueryArgs

# Instructions of its machine between looks at the clock, about a millisecond.
STEPS: Final = 10_000
VALUE_BYTES: Final = 64 * 1024 * 1024
_READING: Final = frozenset(
    {
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_RECURSIVE,
    }
)
# Other files, settings of the session, and what would be left in it for the next call.
_NEVER: Final = frozenset(
    {
        sqlite3.SQLITE_ATTACH,
        sqlite3.SQLITE_DETACH,
        sqlite3.SQLITE_PRAGMA,
        sqlite3.SQLITE_TRANSACTION,
        sqlite3.SQLITE_SAVEPOINT,
        sqlite3.SQLITE_CREATE_TEMP_TABLE,
        sqlite3.SQLITE_CREATE_TEMP_VIEW,
        sqlite3.SQLITE_CREATE_TEMP_TRIGGER,
        sqlite3.SQLITE_CREATE_TEMP_INDEX,
    }
)
_FUNCTIONS: Final = frozenset({"load_extension", "fts3_tokenizer"})
_ONCE: Final = (
    "create table if not exists mesh_once"
    " (key text primary key, at text not null default current_timestamp)"
)


class SqliteProfile(SqlProfile, frozen=True, kw_only=True):
    """file: absolute path. busy_s: longest wait for a lock of another process."""

    file: str
    busy_s: Annotated[float, Meta(ge=0, le=300)] = 5.0


class SqliteSession:
    server_id = ""

    def __init__(self, profile: SqliteProfile) -> None:
        self._profile = profile
        self._is_own = False
        self._reads = True
        self._deadline = 0.0
        self._is_cancelled = False
        self.is_broken = False
        mode = "ro" if profile.access == "read" else "rw"
        try:
            self._db = sqlite3.connect(
                f"{Path(profile.file).as_uri()}?mode={mode}",
                uri=True,
                timeout=profile.busy_s,
                isolation_level=None,
                check_same_thread=False,
                # One of another call would be run again without leave.
                cached_statements=0,
            )
            self._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_BYTES)
            # Opened lazily: a file that is no database shows here.
            self._db.execute("select count(*) from sqlite_schema").fetchone()
        except sqlite3.Error as error:
            message = f"{profile.file}: {error}"
            raise CallFailed("target_unreachable", message, effect="none") from error
        self._db.set_authorizer(self._authorize)
        self._db.set_progress_handler(self._is_late, STEPS)

    def call(self, action: str, args: Any, out: Out, call: Call) -> Mapping[str, Any]:  # noqa: ANN401
        self._deadline = call.deadline
        statement = choose(self._profile, action, args, SQLITE)
        self._reads = action == "sql.query"
        try:
            if isinstance(args, SqlQueryArgs):
                return self._query(statement, args, out)
            return self._execute(statement, args, call)
        except sqlite3.Error as error:
            raise self._fault(error) from error
        except OverflowError as error:
            message = "a number has more than 64 bits"
            raise CallFailed("parameter_invalid", message, effect="none") from error
        finally:
            self._roll_back()

    def _query(self, statement: Statement, args: SqlQueryArgs, out: Out) -> Mapping[str, Any]:
        cursor = self._run(statement, args.params)
        if cursor.description is None:
            return {"columns": [], "rows": 0, "bytes": 0, "first": None}
        columns = [column[0] for column in cursor.description]
        rows = Rows(out, args.format, columns, args.max_rows)
        while found := cursor.fetchmany(rows.batch()):
            rows.add(found)
        return rows.result()

    def _execute(self, statement: Statement, args: SqlExecuteArgs, call: Call) -> Mapping[str, Any]:
        self._own("begin immediate")
        if args.once and not self._is_first(call.key):
            return {"affected": 0, "returned": [], "skipped": True}
        affected, returned = 0, Returned()
        for params in sets_of(args):
            cursor = self._run(statement, params)
            names = [column[0] for column in cursor.description or ()]
            for row in cursor:
                returned.add(dict(zip(names, map(plain, row), strict=True)))
            affected += max(0, cursor.rowcount)
            if statement.verb == "WITH":  # which the driver does not count
                affected += self._own("select changes()").fetchone()[0]
        self._own("commit")
        return {"affected": affected, "returned": returned.rows, "skipped": False}

    def _is_first(self, key: str) -> bool:
        self._own(_ONCE)
        sql = "insert into mesh_once (key) values (?) on conflict do nothing"
        return self._own(sql, (key,)).rowcount == 1

    def _run(self, statement: Statement, params: Mapping[str, Any]) -> sqlite3.Cursor:
        values = values_of(statement.names, params)
        return self._db.execute(statement.named(), dict(zip(statement.names, values, strict=True)))

    def _own(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a statement of this module, which needs no leave."""
        self._is_own = True
        try:
            return self._db.execute(sql, values)
        finally:
            self._is_own = False

    def _roll_back(self) -> None:
        self._deadline = 0.0
        with suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._own("rollback")
        self.is_broken = self.is_broken or self._db.in_transaction

    def _authorize(
        self, action: int, first: str | None, second: str | None, _db: str | None, _by: str | None
    ) -> int:
        del first
        if self._is_own:
            return sqlite3.SQLITE_OK
        if action in _NEVER or (action == sqlite3.SQLITE_FUNCTION and second in _FUNCTIONS):
            return sqlite3.SQLITE_DENY
        if self._reads and action not in _READING:
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    def _is_late(self) -> bool:
        return self._is_cancelled or bool(self._deadline and time.monotonic() > self._deadline)

    def _fault(self, error: sqlite3.Error) -> CallFailed:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_INTERRUPT:
            if self._is_cancelled:
                return _failed("target_refused", "the statement was interrupted")
            return _failed("target_timeout", "the statement took too long")
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return _failed("target_timeout", f"{error}: another process has it")
        if code == sqlite3.SQLITE_AUTH or str(error).startswith("not authorized"):
            return _failed("statement_refused", f"the statement is refused: {error}")
        if code in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            self.is_broken = True
        return _failed("target_refused", str(error))

    def test(self, step: Callable[[str], None]) -> str:
        step("connect")
        try:
            self._own("select 1").fetchone()
        except sqlite3.Error as error:
            raise self._fault(error) from error
        step("query")
        return f"SQLite {sqlite3.sqlite_version}"

    def cancel(self) -> None:
        self._is_cancelled = True
        self._db.interrupt()

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._db.close()


def _failed(code: str, message: str) -> CallFailed:
    """The fault of a call whose transaction is rolled back."""
    return CallFailed(code, message, effect="none")


class SqliteConnector:
    kind = "sqlite"
    capability = "sql"
    profile = SqliteProfile
    actions = ACTIONS

    def check(self, profile: SqliteProfile) -> Sequence[str]:
        wrong = [] if profile.file.startswith("/") else ["file is no absolute path"]
        return [*wrong, *check_statements(profile, SQLITE)]

    def allowed(self, profile: SqliteProfile) -> Sequence[str]:
        return allowed(profile)

    def open(self, profile: SqliteProfile, secrets: Secrets) -> SqliteSession:
        del secrets
        return SqliteSession(profile)

    def kill(self, profile: SqliteProfile, secrets: Secrets, server_id: str) -> None:
        """Do nothing: what a process of SQLite did ends with it."""


CONNECTOR: Final = SqliteConnector()
