"""The generated sections of docs/connections/: settings and actions of each kind."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import inspect

from broker_agent.connectors import kinds, script
from broker_agent.connectors.api import Secret
from broker_agent.connectors.sql.statements import StatementSettings
from schemas.messages.actions import ACTIONS
from tools.sections import table
from tools.shapes import default, fields_of, words

PAGES: Final = "docs/connections"
Kind = type[msgspec.Struct]
# Settings that their names say, in each kind.
_COMMON: Final[Mapping[str, str]] = {
    "host": "name or address of the server",
    "port": "port of the server",
    "database": "name of the database",
    "user": "user to log in as",
    "password": "secret of `user`",
    "cwd": "working directory; without one a fresh folder of the task's own",
    "env": "variables of its environment",
    "sql": "one statement with `:name` parameters",
    "params": "parameters by name, as below",
    "timeout_s": "longest time of a run, in seconds",
    "type": "`text`, `integer` or `number`",
    "optional": "whether it may be left out",
    "statements": "statements of the host by name, each a table with `sql`",
    "connect_s": "longest time for connect and login, in seconds",
    "test_path": "path of the request of a test",
    "ca": "file of the authorities that signed the server's certificate",
    "key": "private key to log in with, in OpenSSH's or PEM form",
    "passphrase": "decrypts the key",
    "scripts": "scripts by name, as below",
}
# Types of settings that have a table or a section of their own.
_OWN: Final[Mapping[type, str]] = {
    Secret: "[secret](../connections.md#secrets)",
    StatementSettings: "statement",
    script.Script: "[script](#a-script)",
    script.Parameter: "[parameter](#a-parameter)",
}


def settings(kind: Kind) -> str:
    """Return the table of the settings of a profile, or of a part of one."""
    told = _docs(kind)
    rows = [
        [f"`{each.encode_name}`", _type(each.type), _default(each), told[each.name]]
        for each in sorted(fields_of(kind), key=lambda each: each.name not in kind.__annotations__)
    ]
    return table(["setting", "is", "default", "what"], rows)


def _docs(kind: Kind) -> dict[str, str]:
    """Sentences about fields, from the docstrings of a type and of its bases. Raises KeyError."""
    known = [each.name for each in fields_of(kind)]
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        found |= dict(_told(each.__dict__.get("__doc__") or "", known))
    return {name: found.get(name) or _COMMON[name] for name in known}


def _told(text: str, known: list[str]) -> Iterator[tuple[str, str]]:
    names = "|".join(map(re.escape, known))
    begin = re.compile(rf"(?:^|(?<=[.;] ))((?:{names})(?:, (?:{names}))*): ")
    parts = begin.split(" ".join(text.split()).strip())
    # Without a heading sentence the first field begins the text.
    for several, what in zip(parts[1::2], parts[2::2], strict=True):
        for name in several.split(", "):
            yield name, what.strip().rstrip(".;").replace("None for", "none means")


def _default(field: inspect.Field) -> str:
    return default(field).replace("nil", "none")


def _type(kind: inspect.Type) -> str:
    match kind:
        case inspect.StructType():
            return _OWN[kind.cls]
        case inspect.DictType():
            return f"table of {_type(kind.value_type)}"
        case inspect.ListType():
            return f"list of {_type(kind.item_type)}"
        case inspect.UnionType():
            ordered = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
            return " or ".join(map(_type, ordered))
        case inspect.StrType():
            return "text"
    return words(kind)


def actions(kind: str) -> str:
    """Return the table of the actions of a kind."""
    connector: Any = kinds.find_builtin(kind)
    return table(
        ["action", "does", "arguments"],
        [
            [f"`{name}`", ACTIONS[name].does, _arguments(spec.args)]
            for name, spec in connector.actions.items()
            if name in ACTIONS  # others are the agent's own calls
        ],
    )


def _arguments(args: Kind) -> str:
    anchor = f"../protocol.md#{args.__name__.lower()}"
    return f"[{', '.join(each.encode_name for each in fields_of(args))}]({anchor})"


def _of(kind: str) -> dict[str, Callable[[], str]]:
    return {
        "settings": lambda: settings(kinds.find_builtin(kind).profile),
        "actions": partial(actions, kind),
    }


SECTIONS: Final[dict[str, dict[str, Callable[[], str]]]] = {
    f"{PAGES}/{kind}.md": _of(kind) for kind in kinds.KINDS
}
SECTIONS[f"{PAGES}/script.md"] |= {
    "script": partial(settings, script.Script),
    "parameter": partial(settings, script.Parameter),
}
