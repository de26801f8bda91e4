"""Settings of statements, and the rules for them, that all kinds of databases share."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from broker_agent.connectors.api import ActionSpec, CallFailed, Profile
from broker_agent.connectors.sql.tokens import Dialect, Statement, parse
from schemas import limits
from schemas.messages.actions.sql import SqlArgs, SqlExecuteArgs, SqlQueryArgs
from schemas.messages.actions.sql import Statement as Text
from schemas.messages.fields import Name

ACTIONS: Final[Mapping[str, ActionSpec]] = {
    "sql.query": ActionSpec(args=SqlQueryArgs, effect="reads"),
    "sql.execute": ActionSpec(args=SqlExecuteArgs, effect="writes"),
}
READING: Final = frozenset({"SELECT", "WITH", "VALUES", "TABLE", "SHOW", "EXPLAIN"})
# Of transactions and sessions, which belong to the connector: another call would meet their effect.
OWN: Final = frozenset(
    {
        *("BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE"),
        *("PREPARE", "EXECUTE", "DEALLOCATE", "SET", "RESET", "DISCARD", "USE", "XA", "HANDLER"),
        *("LISTEN", "UNLISTEN", "LOCK", "UNLOCK", "COPY", "LOAD", "DECLARE", "FETCH", "CLOSE"),
        *("ATTACH", "DETACH", "PRAGMA", "VACUUM"),
    }
)
# Bytes of the rows that a writing statement returns, within its result.
RETURNED_BYTES: Final = 16 * 1024
Value = None | bool | int | float | str


class StatementSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A statement that the host names: one statement with `:name` parameters."""

    sql: Text


class SqlProfile(Profile, frozen=True, kw_only=True):
    """Settings that all kinds of databases have.

    access: `read` refuses `sql.execute`. only_statements: no SQL of clients, only `statements`.
    connect_s: longest time for connect and login.
    """

    access: Literal["read", "write"] = "read"
    only_statements: bool = False
    statements: Annotated[dict[Name, StatementSettings], Meta(max_length=limits.MAP_LEN)] = (
        msgspec.field(default_factory=dict)
    )
    connect_s: Annotated[float, Meta(gt=0, le=300)] = 10.0


def check_statements(profile: SqlProfile, dialect: Dialect) -> Sequence[str]:
    """Return what is wrong with the statements of a profile."""
    wrong = []
    for name, settings in profile.statements.items():
        try:
            parse(settings.sql, dialect)
        except CallFailed as fault:
            wrong.append(f"statements.{name}: {fault.message}")
    if profile.only_statements and not profile.statements:
        wrong.append("only_statements without any statements allows nothing")
    return wrong


def allowed(profile: SqlProfile) -> Sequence[str]:
    """Actions that a profile allows."""
    return ["sql.query"] if profile.access == "read" else ["sql.execute", "sql.query"]


def choose(profile: SqlProfile, action: str, args: SqlArgs, dialect: Dialect) -> Statement:
    """Find and read the statement of a call.

    Raises CallFailed with effect none: `statement_unknown`, `statement_refused`.
    """
    if action == "sql.execute" and profile.access == "read":
        raise refused('the profile has access = "read": use sql.query')
    statement = parse(_text_of(profile, args), dialect)
    if action == "sql.query":
        if statement.verb not in READING:
            raise refused(f"sql.query takes {', '.join(sorted(READING))}, not {statement.verb}")
    elif statement.verb in OWN:
        raise refused(f"{statement.verb} is the connector's own")
    return statement


def _text_of(profile: SqlProfile, args: SqlArgs) -> str:
    if args.statement is None:
        if profile.only_statements:
            raise refused("the profile allows its own statements only (only_statements)")
        return args.sql or ""
    settings = profile.statements.get(args.statement)
    if settings is None:
        message = f"the profile has no statement {args.statement[:64]!a}"
        raise CallFailed("statement_unknown", message, effect="none")
    return settings.sql


def sets_of(args: SqlExecuteArgs) -> Sequence[Mapping[str, Value]]:
    """Sets of parameters for each of which the statement runs once."""
    return args.many or [args.params]


class Returned:
    """Rows that a writing statement returns: few and small ones, in its result."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self._left = RETURNED_BYTES

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row. Raises CallFailed (`result_too_large`): nothing is committed then."""
        self._left -= len(msgspec.msgpack.encode(row))
        if self._left < 0:
            message = f"the statement returns more than {RETURNED_BYTES} bytes; nothing is changed"
            raise CallFailed("result_too_large", message, effect="none")
        self.rows.append(row)


def refused(why: str) -> CallFailed:
    return CallFailed("statement_refused", f"the statement is refused: {why}", effect="none")
