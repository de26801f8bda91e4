"""The table of actions: the kinds of work that an agent does.

Each action has a type for its arguments, so that nothing untyped travels. The agent runs it by the
executor in the module of the same name below `broker_agent/executors/`; those with a capability
work through a connection, by `executors/connection.py`.
"""

from typing import Final

import msgspec

from schemas.faults import Refused
from schemas.messages.actions import connection, file, http, script, sql
from schemas.messages.actions.base import Action, Arguments
from schemas.messages.actions.process import NOOP, PROCESS, NoopArgs, ProcessArgs, StagedInput

__all__ = ["NOOP", "PROCESS", "Action", "NoopArgs", "ProcessArgs", "StagedInput"]

ActionArgs = Arguments
AnyAction = (
    Action[ProcessArgs]
    | Action[NoopArgs]
    | Action[sql.SqlQueryArgs]
    | Action[sql.SqlExecuteArgs]
    | Action[http.HttpRequestArgs]
    | Action[file.FileListArgs]
    | Action[file.FileStatArgs]
    | Action[file.FileReadArgs]
    | Action[file.FileWriteArgs]
    | Action[file.FileMoveArgs]
    | Action[file.FileDeleteArgs]
    | Action[script.ScriptRunArgs]
    | Action[connection.ConnectionTestArgs]
)
_TABLE: Final[tuple[AnyAction, ...]] = (
    PROCESS,
    NOOP,
    sql.SQL_QUERY,
    sql.SQL_EXECUTE,
    http.HTTP_REQUEST,
    file.FILE_LIST,
    file.FILE_STAT,
    file.FILE_READ,
    file.FILE_WRITE,
    file.FILE_MOVE,
    file.FILE_DELETE,
    script.SCRIPT_RUN,
    connection.CONNECTION_TEST,
)
ACTIONS: Final[dict[str, AnyAction]] = {action.name: action for action in _TABLE}

# Actions of every agent, with or without an announcement.
COMMON: Final = frozenset(action.name for action in ACTIONS.values() if action.from_start)


def find_action(name: str) -> AnyAction:
    """Return the action `name`. Raises Refused (`action_unknown`) that lists the known names."""
    action = ACTIONS.get(name)
    if action is None:
        known = ", ".join(sorted(ACTIONS))
        raise Refused("action_unknown", f"no action {name[:64]!a}; there are: {known}")
    return action


def action_of(args: ActionArgs) -> AnyAction:
    """The action with arguments of this type."""
    return next(action for action in ACTIONS.values() if type(args) is action.args)


def decode_args(name: str, raw: msgspec.Raw) -> ActionArgs:
    """The typed arguments of the action `name`.

    Raises Refused: `action_unknown`, `argument_unknown` for an argument that the action does not
    have, or `field_invalid` for a value out of its type or limits.
    """
    return find_action(name).decode(raw)
