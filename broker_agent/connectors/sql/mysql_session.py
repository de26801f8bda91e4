"""A session with a MariaDB or MySQL server."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

import pymysql
from pymysql.constants import ER
from pymysql.cursors import SSCursor

from broker_agent.connectors.api import Call, CallFailed, Effect, Out, Secrets
from broker_agent.connectors.sql.mysql import MysqlProfile
from broker_agent.connectors.sql.mysql_login import connect, prepare, told
from broker_agent.connectors.sql.mysql_values import CSV, JSON
from broker_agent.connectors.sql.rows import Rows, plain
from broker_agent.connectors.sql.statements import Returned, choose, sets_of
from broker_agent.connectors.sql.tokens import MYSQL, Statement, values_of
from schemas.messages.actions.sql import SqlExecuteArgs, SqlQueryArgs

# Errors of a statement that was stopped: by its time limit, by KILL QUERY.
_TOO_LATE: Final = frozenset({1969, 3024})
_STOPPED: Final = frozenset({ER.QUERY_INTERRUPTED, 1028, 1158, 1159, 1160, 1161})
# The connection is gone. Source: the list of client errors of MariaDB.
_LOST: Final = frozenset({0, 2006, 2013, 2014, 2027, 2055, 1053, 1077, 1152, 1184, 1927, 4031})
_RESET: Final = 0x1F  # COM_RESET_CONNECTION
# A reply that comes later than the statement's own limit is waited for so long.
_SLACK_S: Final = 0.5
# Statements that a rollback takes back.
_TAKEN_BACK: Final = frozenset(
    {"SELECT", "WITH", "VALUES", "INSERT", "UPDATE", "DELETE", "REPLACE"}
)
_HAS_ONCE: Final = (
    "select 1 from information_schema.tables"
    " where table_schema = database() and table_name = 'mesh_once'"
)
_ONCE: Final = (
    "create table if not exists mesh_once"
    " (`key` varchar(64) character set ascii collate ascii_bin primary key,"
    " at timestamp default current_timestamp)"
)


class MysqlSession:
    def __init__(self, profile: MysqlProfile, secrets: Secrets) -> None:
        self._profile = profile
        self._secrets = secrets
        self._is_cancelled = False
        self.is_broken = False
        self._db = connect(profile, secrets)
        try:
            prepare(self._db)
            self._is_mariadb = "mariadb" in self._db.get_server_info().lower()
            self.server_id = self._own_id()
        except pymysql.MySQLError as error:
            self.close()
            raise told(error, profile) from error

    def _own_id(self) -> str:
        """Number of the session, and the address by which the server knows it."""
        with self._db.cursor() as cursor:
            cursor.execute(
                "select id, host from information_schema.processlist where id = connection_id()"
            )
            found = cursor.fetchone()
        return f"{found[0]} {found[1]}" if found else ""

    # -- calls

    def call(self, action: str, args: Any, out: Out, call: Call) -> Mapping[str, Any]:  # noqa: ANN401
        statement = choose(self._profile, action, args, MYSQL)
        sent: list[str] = []
        try:
            self._limit(call)
            if isinstance(args, SqlQueryArgs):
                return self._query(statement, args, out, sent)
            return self._execute(statement, args, call, sent)
        except pymysql.MySQLError as error:
            raise self._fault(error, statement, call, sent) from error
        except CallFailed:
            # Rows that were not read would come before the next answer.
            self.is_broken = self.is_broken or bool(sent)
            raise
        finally:
            self._roll_back()

    def _query(
        self, statement: Statement, args: SqlQueryArgs, out: Out, sent: list[str]
    ) -> Mapping[str, Any]:
        text, values = self._bound(statement, args.params)
        self._db.decoders = CSV if args.format == "csv" else JSON
        self._run("start transaction read only")
        sent.append("query")
        with self._streaming() as cursor:
            cursor.execute(text, values)
            columns = [column[0] for column in cursor.description or ()]
            rows = Rows(out, args.format, columns, args.max_rows)
            while found := cursor.fetchmany(rows.batch()):
                rows.add(found)
        sent.clear()
        return rows.result()

    @contextmanager
    def _streaming(self) -> Iterator[Any]:
        """A cursor that reads rows as they come. One that fails leaves the session broken."""
        cursor = self._db.cursor(SSCursor)
        try:
            yield cursor
        except BaseException:
            self.is_broken = True
            # Else its end would read all the rest.
            cursor.connection = None
            if cursor._result is not None:
                cursor._result.unbuffered_active = False
            self._db._force_close()
            raise
        cursor.close()

    def _execute(
        self, statement: Statement, args: SqlExecuteArgs, call: Call, sent: list[str]
    ) -> Mapping[str, Any]:
        bound = [self._bound(statement, params) for params in sets_of(args)]
        self._db.decoders = JSON
        if args.once:
            self._make_once()  # commits, so it comes before the transaction
        self._run("start transaction")
        affected, returned = 0, Returned()
        with self._db.cursor() as cursor:
            if args.once and not cursor.execute(
                "insert ignore into mesh_once (`key`) values (%s)", (call.key,)
            ):
                return {"affected": 0, "returned": [], "skipped": True}
            for text, values in bound:
                sent.append("statement")
                affected += max(0, cursor.execute(text, values))
                names = [column[0] for column in cursor.description or ()]
                for row in cursor.fetchall() if names else ():
                    returned.add(dict(zip(names, map(plain, row), strict=True)))
        sent.append("commit")
        self._db.commit()
        sent.clear()
        return {"affected": affected, "returned": returned.rows, "skipped": False}

    def _make_once(self) -> None:
        """Make the table of keys where it is missing; roles without that right need it there."""
        with self._db.cursor() as cursor:
            is_there = cursor.execute(_HAS_ONCE)
        if not is_there:
            self._run(_ONCE)

    def _bound(
        self, statement: Statement, params: Mapping[str, Any]
    ) -> tuple[str, tuple[Any, ...] | None]:
        text, names = statement.percent()
        values = tuple(values_of(tuple(names), params))
        if any(isinstance(each, float) and each - each for each in values):
            raise CallFailed("parameter_invalid", "a number is not finite", effect="none")
        # Without values the driver leaves percent signs as they are.
        return (text, values) if values else (statement.texts[0], None)

    def _run(self, sql: str) -> None:
        with self._db.cursor() as cursor:
            cursor.execute(sql)

    def _limit(self, call: Call) -> None:
        """Let the server end the statement at the call's deadline, and the driver soon after."""
        left = call.deadline - time.monotonic()
        if left <= 0:
            raise CallFailed("target_timeout", "no time is left", effect="none")
        self._db._read_timeout = self._db._write_timeout = left + _SLACK_S
        if self._is_mariadb:
            self._run(f"set session max_statement_time = {left:.3f}")
        else:
            self._run(f"set session max_execution_time = {int(left * 1000) + 1}")

    def _roll_back(self) -> None:
        if self.is_broken or self._is_cancelled:
            return
        try:
            self._db.rollback()
        except (pymysql.MySQLError, OSError):
            self.is_broken = True

    def _fault(
        self, error: pymysql.MySQLError, statement: Statement, call: Call, sent: list[str]
    ) -> CallFailed:
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        text = str(error.args[1]) if len(error.args) > 1 else str(error)
        is_late = time.monotonic() >= call.deadline
        effect: Effect = "none"
        if code in _LOST:
            self.is_broken = True
            effect = "unknown" if sent else "none"
            return CallFailed("target_timeout" if is_late else "target_lost", text, effect=effect)
        if "commit" in sent or (sent and statement.verb not in _TAKEN_BACK):
            effect = "unknown"
        if code in _TOO_LATE or (code in _STOPPED and is_late):
            return CallFailed("target_timeout", text, effect=effect)
        return CallFailed("target_refused", f"{code}: {text}", effect=effect)

    # -- its life

    def tidy(self) -> None:
        """Reset the session: variables, temporary tables and locks of the call are gone."""
        self._db._execute_command(_RESET, b"")
        self._db._read_ok_packet()
        prepare(self._db)

    def test(self, step: Callable[[str], None]) -> str:
        step("login")  # the driver connects and logs in at one go
        try:
            self._run("select 1")
        except pymysql.MySQLError as error:
            raise told(error, self._profile) from error
        step("query")
        # MariaDB puts a version before its own, for replicas of 2012.
        info = self._db.get_server_info().removeprefix("5.5.5-")
        return f"MariaDB {info.partition('-')[0]}" if self._is_mariadb else f"MySQL {info}"

    def cancel(self) -> None:
        """End the statement from a second session: this one waits for its answer."""
        self._is_cancelled = self.is_broken = True
        other = MysqlSession(self._profile, self._secrets)
        try:
            other.kill_other(self.server_id)
        finally:
            other.close()

    def kill_other(self, server_id: str) -> None:
        """End another session of this user, if it is still the one that had this id."""
        number, _, host = server_id.partition(" ")
        with self._db.cursor() as cursor, suppress(pymysql.MySQLError):
            is_there = cursor.execute(
                "select 1 from information_schema.processlist where id = %s and host = %s",
                (int(number), host),
            )
            if is_there:
                cursor.execute("kill %s", (int(number),))

    def close(self) -> None:
        with suppress(pymysql.MySQLError, OSError):
            self._db.close()
        # A statement that still runs makes close() fail: the socket is closed all the same.
        with suppress(Exception):
            self._db._force_close()
