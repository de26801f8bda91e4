"""The actions `sql.query` and `sql.execute`, through a connection to a database."""

from typing import Annotated, Final, Literal

from msgspec import Meta

from schemas import limits
from schemas.messages.actions.base import Action, Arguments, invalid
from schemas.messages.fields import Name
from schemas.texts import cut_text

Statement = Annotated[str, Meta(max_length=128 * 1024)]
# A parameter: never a list, a map or a piece of SQL.
Scalar = None | bool | int | float | str
ParameterName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$(?!\n)")]
Parameters = Annotated[dict[ParameterName, Scalar], Meta(max_length=limits.MAP_LEN)]
ROWS_MAX: Final = 10**9
MANY: Final = 1000


class SqlArgs(Arguments, frozen=True, kw_only=True):
    """Exactly one of sql, a single statement with `:name` parameters, and statement.

    statement: name of one in the host's profile.
    """

    sql: Statement | None = None
    statement: Name | None = None
    params: Parameters = {}


class SqlQueryArgs(SqlArgs, frozen=True, kw_only=True):
    """Write the rows of a statement to stdout. max_rows: more rows than this fail the command."""

    format: Literal["jsonl", "csv"] = "jsonl"
    max_rows: Annotated[int, Meta(ge=1, le=ROWS_MAX)] | None = None


class SqlExecuteArgs(SqlArgs, frozen=True, kw_only=True):
    """Change rows, in one transaction.

    many: sets of parameters, for each of which the statement runs once. once: a second run with
    the same idempotency key changes nothing.
    """

    many: Annotated[list[Parameters], Meta(max_length=MANY)] = []
    once: bool = False


def _check(args: SqlArgs, action: str) -> None:
    if (args.sql is None) == (args.statement is None):
        raise invalid(action, "name either sql or statement")
    if args.sql is not None and (not args.sql.strip() or "\0" in args.sql):
        raise invalid(action, "sql is empty, or has a NUL byte")


def _check_execute(args: SqlExecuteArgs) -> None:
    _check(args, "sql.execute")
    if args.params and args.many:
        raise invalid("sql.execute", "name either params or many")


def _summary(args: SqlArgs) -> str:
    text = args.sql if args.sql is not None else f"statement {args.statement}"
    return cut_text(" ".join(text.split()), limits.TEXT_LEN)


SQL_QUERY: Final = Action(
    name="sql.query",
    args=SqlQueryArgs,
    does="writes the rows of a statement to stdout, as JSON lines or csv",
    check=lambda args: _check(args, "sql.query"),
    summary=_summary,
    effect="none",
    capability="sql",
)
SQL_EXECUTE: Final = Action(
    name="sql.execute",
    args=SqlExecuteArgs,
    does="changes rows in one transaction",
    check=_check_execute,
    summary=_summary,
    capability="sql",
)
