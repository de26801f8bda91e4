"""A session with a PostgreSQL server. Only workers import this module: it loads the driver."""

import os
import secrets as chance
import select
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import errors, pq
from psycopg.conninfo import make_conninfo

from broker_agent.connectors.api import Call, CallFailed, Effect, Out, Secrets
from broker_agent.connectors.sql.csvs import fields_of
from broker_agent.connectors.sql.postgresql_types import adapters
from broker_agent.connectors.sql.rows import BATCH, Rows, plain
from broker_agent.connectors.sql.statements import Returned, choose, sets_of
from broker_agent.connectors.sql.tokens import POSTGRESQL, Statement, values_of
from schemas.messages.actions.sql import SqlExecuteArgs, SqlQueryArgs

if TYPE_CHECKING:
    from broker_agent.connectors.sql.postgresql import PostgresqlProfile

# Settings that the text of values and the reading of statements rely on.
_OPTIONS: Final = (
    "-c standard_conforming_strings=on -c datestyle=iso -c intervalstyle=postgres"
    " -c bytea_output=hex -c extra_float_digits=1 -c xmlbinary=base64"
)
# Interval at which the server looks whether this process is still there, from version 14 on.
_WATCH: Final = "set local client_connection_check_interval = 2000"
_WATCHES: Final = 140000
# All that `discard all` does, which cannot follow other statements in one message.
_TIDY: Final = (
    "close all; set session authorization default; reset all; deallocate all;"
    " unlisten *; select pg_advisory_unlock_all(); discard plans; discard temp; discard sequences"
)
CANCEL_S: Final = 2.0
# Rows of one piece of the server's answer: so many are in memory at a time.
PIECE: Final = 64
COPY_BYTES: Final = 64 * 1024
_COPIED: Final = frozenset({"SELECT", "WITH", "VALUES", "TABLE"})
_ONCE: Final = (
    "create table if not exists mesh_once"
    " (key text primary key, at timestamptz not null default now())"
)
_UNREADY: Final = ("too many", "starting up", "shutting down", "recovery")
_GONE: Final = ("57P01", "57P02", "57P03", "57P05")
_ADAPTERS: Final = adapters()


class PostgresqlSession:
    def __init__(self, profile: "PostgresqlProfile", secrets: Secrets) -> None:
        self._profile = profile
        self._info = _conninfo(profile, secrets)
        self._is_cancelled = False
        self._deadline = 0.0
        # Of a call, if it fails now.
        self._effect: Effect = "none"
        try:
            self._db = psycopg.connect(
                self._info,
                autocommit=True,
                prepare_threshold=None,
                cursor_factory=psycopg.RawCursor,
                context=_Context(),
            )
        except psycopg.Error as error:
            raise refused_login(error) from error
        self._watch = self._found_watch()
        info = self._db.info
        self.server_id = f"{info.backend_pid} {info.get_parameters()['application_name']}"

    @property
    def is_broken(self) -> bool:
        return self._db.broken or self._db.closed

    def _found_watch(self) -> str:
        """Return the setting that makes the server look for this process, if it has such."""
        if self._db.info.server_version < _WATCHES:
            return ""
        try:
            self._db.execute(f"begin; {_WATCH}; rollback")
        except psycopg.Error:  # servers on systems other than Linux have no such watch
            self._roll_back()
            return ""
        return f"; {_WATCH}"

    def call(self, action: str, args: Any, out: Out, call: Call) -> Mapping[str, Any]:  # noqa: ANN401
        statement = choose(self._profile, action, args, POSTGRESQL)
        self._deadline, self._effect = call.deadline, "none"
        try:
            if isinstance(args, SqlQueryArgs):
                return self._query(statement, args, out)
            return self._execute(statement, args, call)
        except psycopg.Error as error:
            fault = self._fault(error)
            self._roll_back()
            raise fault from error
        except BaseException:
            self._roll_back()
            raise

    def _begin(self, mode: str) -> None:
        """Begin a transaction. That of a query is ended by `tidy`, when its answer is out."""
        if self._db.info.transaction_status != pq.TransactionStatus.IDLE:
            self._roll_back()
        left_ms = max(1, int((self._deadline - time.monotonic()) * 1000))
        self._db.execute(f"begin {mode}; set local statement_timeout = {left_ms}{self._watch}")

    # Queries.

    def _query(self, statement: Statement, args: SqlQueryArgs, out: Out) -> Mapping[str, Any]:
        self._begin("read only")
        if args.format == "csv" and statement.verb in _COPIED:
            return self._copy(statement, args, out)
        sql, names = statement.numbered()
        values = values_of(names, args.params)
        cursor = self._db.cursor()
        found = cursor.stream(sql, values, size=PIECE)
        batch = [row for _, row in zip(range(BATCH), found, strict=False)]
        columns = [column.name for column in cursor.description or ()]
        rows = Rows(out, args.format, columns, args.max_rows)
        while batch:
            rows.add(batch)
            batch = [row for _, row in zip(range(rows.batch()), found, strict=False)]
        return rows.result()

    def _copy(self, statement: Statement, args: SqlQueryArgs, out: Out) -> Mapping[str, Any]:
        """Write csv as the server makes it: `copy` takes no parameters, so they become literals.

        The server reads the statement alone before, so that no other can be hidden in it.
        """
        sql, names = statement.numbered()
        values = values_of(names, args.params)
        columns = self._described(sql)
        rows = Rows(_Nothing(), "csv", columns, args.max_rows)
        self._start_copy(statement, args.params if values else {})
        link = self._db.pgconn
        out.write(self._line(link))
        first = self._line(link)
        if first:
            rows.note_first(fields_of(first))
            rows.count(1)
            out.write(first)
            self._copy_rest(link, rows, out)
        while (result := self._next(link)) is not None:
            self._checked(result)
        return {**rows.result(), "bytes": out.written}

    def _copy_rest(self, link: Any, rows: Rows, out: Out) -> None:  # noqa: ANN401
        """Write all lines that come. The loop is short, since it runs for each row."""
        take, gathered, count = link.get_copy_data, bytearray(), 0
        while True:
            size, line = take(1)
            if size > 0:
                gathered += line
                count += 1
                if len(gathered) < COPY_BYTES:
                    continue
            rows.count(count)
            out.write(gathered)
            gathered, count = bytearray(), 0
            if size < 0:
                return
            if not size:
                self._wait(link)

    def _line(self, link: Any) -> bytes:  # noqa: ANN401
        """Wait for one line of `copy`; empty at its end."""
        while True:
            size, line = link.get_copy_data(1)
            if size:
                return bytes(line) if size > 0 else b""
            self._wait(link)

    def _described(self, sql: str) -> list[str]:
        link, encoding = self._db.pgconn, "utf-8"
        self._checked(link.prepare(b"", sql.encode(encoding)))
        told = self._checked(link.describe_prepared(b""))
        return [(told.fname(number) or b"").decode(encoding) for number in range(told.nfields)]

    def _start_copy(self, statement: Statement, params: Mapping[str, Any]) -> None:
        if params:
            text, names = statement.percent()
            with psycopg.ClientCursor(self._db) as client:
                text = client.mogrify(text, [params[name] for name in names])
        else:
            text = statement.named()
        link = self._db.pgconn
        # A comment at the end must not hide the bracket.
        link.send_query(f"copy ({text}\n) to stdout with (format csv, header)".encode())
        self._await(link)
        self._checked(link.get_result(), pq.ExecStatus.COPY_OUT)

    def _next(self, link: Any) -> Any:  # noqa: ANN401  (of the driver)
        self._await(link)
        return link.get_result()

    def _await(self, link: Any) -> None:  # noqa: ANN401
        while link.is_busy():
            self._wait(link)

    @staticmethod
    def _wait(link: Any) -> None:  # noqa: ANN401
        """Wait for bytes of the server; other threads go on meanwhile."""
        poll = select.poll()
        poll.register(link.socket, select.POLLIN)
        poll.poll()
        link.consume_input()

    @staticmethod
    def _checked(result: Any, *wanted: int) -> Any:  # noqa: ANN401
        good = wanted or (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)
        if result is None or result.status not in good:
            if result is None:
                raise psycopg.OperationalError("the server has closed the connection")
            raise errors.error_from_result(result, encoding="utf-8")
        return result

    # Writes.

    def _execute(self, statement: Statement, args: SqlExecuteArgs, call: Call) -> Mapping[str, Any]:
        sql, names = statement.numbered()
        sets = [values_of(names, params) for params in sets_of(args)]
        if args.once:
            self._make_once()
        self._begin("read write")
        if args.once and not self._is_first(call.key):
            return {"affected": 0, "returned": [], "skipped": True}
        affected, returned = 0, Returned()
        with self._db.cursor() as cursor:
            for values in sets:
                cursor.execute(sql, values, prepare=True)
                affected += max(0, cursor.rowcount)
                columns = [column.name for column in cursor.description or ()]
                for row in cursor if columns else ():
                    returned.add(dict(zip(columns, map(plain, row), strict=True)))
        self._effect = "unknown"
        self._db.execute("commit")
        self._effect = "done"
        return {"affected": affected, "returned": returned.rows, "skipped": False}

    def _make_once(self) -> None:
        """Make the table of keys where it is missing; roles without that right need it there."""
        found = self._db.execute("select to_regclass('mesh_once')").fetchone()
        if found is not None and found[0] is None:
            self._db.execute(_ONCE)

    def _is_first(self, key: str) -> bool:
        sql = "insert into mesh_once (key) values ($1) on conflict do nothing"
        return self._db.execute(sql, [key]).rowcount == 1

    # Ends.

    def _roll_back(self) -> None:
        with suppress(psycopg.Error):
            status = self._db.info.transaction_status
            if status == pq.TransactionStatus.ACTIVE:
                # In the middle of an answer, whose rest nobody reads.
                self._db.close()
            elif status != pq.TransactionStatus.IDLE:
                self._db.execute("rollback")

    def _fault(self, error: psycopg.Error) -> CallFailed:
        effect, state = self._effect, error.sqlstate or ""
        if self.is_broken or state in _GONE or self._db.pgconn.status != pq.ConnStatus.OK:
            with suppress(psycopg.Error):
                self._db.close()
            if time.monotonic() >= self._deadline:
                return CallFailed("target_timeout", "no answer in time", effect=effect)
            return CallFailed("target_lost", f"the connection broke: {told(error)}", effect=effect)
        if isinstance(error, errors.QueryCanceled):
            if self._is_cancelled:
                return CallFailed("target_refused", "the statement was interrupted", effect=effect)
            return CallFailed("target_timeout", told(error), effect=effect)
        if isinstance(error, errors.ReadOnlySqlTransaction):
            message = f"the statement is refused: {told(error)}"
            return CallFailed("statement_refused", message, effect=effect)
        if not state and isinstance(error, psycopg.DataError):
            return CallFailed("parameter_invalid", told(error), effect=effect)
        return CallFailed("target_refused", f"{told(error)} ({state})", effect=effect)

    def tidy(self) -> None:
        """Forget all that a call may have left in the session."""
        is_open = self._db.info.transaction_status != pq.TransactionStatus.IDLE
        self._db.execute(f"rollback; {_TIDY}" if is_open else _TIDY)

    def cancel(self) -> None:
        self._is_cancelled = True
        self._db.cancel_safe(timeout=CANCEL_S)

    def end_other(self, server_id: str) -> None:
        """End another session, if it is still the one that had this name."""
        pid, _, name = server_id.partition(" ")
        try:
            self._db.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where pid = $1 and application_name = $2",
                [int(pid), name],
            )
        except (psycopg.Error, ValueError) as error:
            raise CallFailed("target_refused", str(error), effect="none") from error

    def test(self, step: Callable[[str], None]) -> str:
        """Connect once more, in steps."""
        link = connect_in_steps(self._info, self._profile, step)
        try:
            result = link.exec_(b"select version()")
            if result.status != pq.ExecStatus.TUPLES_OK:
                raise CallFailed("target_refused", result.error_message.strip(), effect="none")
            step("query")
            return " ".join((result.get_value(0, 0) or b"").decode().split()[:2])
        finally:
            link.finish()

    def close(self) -> None:
        with suppress(psycopg.Error):
            self._db.close()


class _Context:
    """Carries the table of types into a connection."""

    adapters = _ADAPTERS
    connection = None


class _Nothing:
    """Output of rows that are written elsewhere."""

    written = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Drop the header, which the server writes."""


def _conninfo(profile: "PostgresqlProfile", secrets: Secrets) -> str:
    given: dict[str, Any] = {
        "host": profile.host,
        "port": profile.port,
        "dbname": profile.database,
        "user": profile.user,
        "password": secrets.get("password", ""),
        "sslmode": "disable" if profile.tls == "off" else profile.tls,
        "sslcert": profile.cert,
        "sslkey": profile.key,
        "connect_timeout": max(2, round(profile.connect_s)),
        "application_name": f"agent-mesh {chance.token_hex(4)}",
        "client_encoding": "UTF8",
        "options": _OPTIONS,
        "passfile": os.devnull,
        "gssencmode": "disable",
        # A peer that vanishes shows within half a minute, even between two bytes of it.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }
    if profile.tls == "verify-full":
        given["sslrootcert"] = profile.ca or "system"
    return make_conninfo("", **given)


def connect_in_steps(info: str, profile: "PostgresqlProfile", step: Callable[[str], None]) -> Any:  # noqa: ANN401
    """Connect, and tell each stage. Raises CallFailed with effect none."""
    if not profile.host.startswith("/"):
        try:
            socket.getaddrinfo(profile.host, profile.port, type=socket.SOCK_STREAM)
        except OSError as error:
            message = f"resolve: {profile.host}: {error.strerror}"
            raise CallFailed("target_unreachable", message, effect="none") from error
    step("resolve")
    link = pq.PGconn.connect_start(info.encode())
    is_connected = is_secure = False
    poll: int = pq.PollingStatus.WRITING
    until = time.monotonic() + profile.connect_s
    while poll not in {pq.PollingStatus.OK, pq.PollingStatus.FAILED}:
        events = select.POLLIN if poll == pq.PollingStatus.READING else select.POLLOUT
        watch = select.poll()
        watch.register(link.socket, events)
        if not watch.poll(max(0.0, until - time.monotonic()) * 1000):
            link.finish()
            raise CallFailed("target_unreachable", "no answer in time", effect="none")
        poll = link.connect_poll()
        if not is_connected and link.status not in {pq.ConnStatus.STARTED, pq.ConnStatus.BAD}:
            is_connected = True
            step("connect")
        if not is_secure and link.ssl_in_use:
            is_secure = True
            step("tls")
    if poll == pq.PollingStatus.FAILED:
        fault = refused_login(psycopg.OperationalError(link.error_message.decode(errors="replace")))
        link.finish()
        raise fault
    step("login")
    return link


def refused_login(error: psycopg.Error) -> CallFailed:
    """The fault for a connection that was not made. Texts decide: there is no other sign."""
    text = told(error)
    low = text.lower()
    if "ssl" in low or "certificate" in low:
        code = "tls_failed"
    elif "fatal" not in low and "password" not in low:
        code = "target_unreachable"
    else:
        code = "target_unreachable" if any(sign in low for sign in _UNREADY) else "login_refused"
    return CallFailed(code, text, effect="none")


def told(error: psycopg.Error) -> str:
    """The server's words on one line, with its detail and hint."""
    diag = error.diag
    parts = [diag.message_primary or str(error), diag.message_detail, diag.message_hint]
    return "; ".join(" ".join(part.split()) for part in parts if part)
