"""`mesh context ls` and `use`: list of the contexts, and choice of the default."""

import os
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cyclopts import Parameter

from broker_client.cli.options import LISTING, SHARED, Listing, Shared
from broker_client.cli.screen.columns import COLUMNS_HELP, Columns, Trait, print_columns, text
from broker_client.cli.screen.report import print_json, print_lines
from broker_client.context import (
    contexts_directory,
    find_context,
    folder_beside,
    load_context,
    names_of,
    use,
)
from schemas.faults import MeshError


class ContextRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A context. name: for --context. current: the default. fault: of an unusable one, or empty."""

    name: str
    current: bool
    client: str = ""
    role: str = ""
    urls: list[str] = []
    file: str = ""
    fault: str = ""


def _mark(current: str) -> str:
    return "*" if current == "true" else ""


_TRAITS: Final[dict[str, Trait[ContextRecord]]] = {
    "context": text("CONTEXT", lambda c: c.name, least=16),
    "current": text("CURRENT", lambda c: "true" if c.current else "false", shown=_mark),
    "client": text("CLIENT", lambda c: c.client),
    "role": text("ROLE", lambda c: c.role),
    "broker": text("BROKER", lambda c: ", ".join(c.urls), least=12),
    "file": text("FILE", lambda c: c.file, rank=2, least=12),
    "fault": text("FAULT", lambda c: c.fault, least=12),
}
CONTEXTS: Final = Columns(
    _TRAITS,
    usual=("context", "current", "client", "role", "broker", "fault"),
    other={"name": "context", "urls": "broker"},
)


def ls(
    *,
    columns: Annotated[str | None, Parameter(help=COLUMNS_HELP, validator=CONTEXTS.check)] = None,
    shared: Listing = LISTING,
) -> None:
    """List the contexts of this account; nothing is connected."""
    current = _current()
    found = [_record(path, current) for path in names_of(os.environ)]
    if current is not None and not any(each.current for each in found):
        found.append(_record(current, current))
    nothing = f"no contexts in {contexts_directory(os.environ)}: see `mesh client create`"
    print_columns(shared, CONTEXTS, ContextRecord, found, names=columns, nothing=nothing)


def _current() -> Path | None:
    try:
        return find_context(None, os.environ)
    except MeshError:
        return None


def _record(path: Path, current: Path | None) -> ContextRecord:
    is_named = path.parent == contexts_directory(os.environ)
    name = path.stem if is_named else str(path)
    try:
        context = load_context(path, os.environ)
    except MeshError as error:
        return ContextRecord(
            name=name, current=path == current, file=str(path), fault=error.message
        )
    return ContextRecord(
        name=name,
        current=path == current,
        client=context.name,
        role=context.role,
        urls=[*context.urls],
        file=str(path),
    )


def use_(
    context: Annotated[
        str, Parameter(help="Name of a context, a file, or a folder that `client create` made.")
    ],
    /,
    *,
    shared: Shared = SHARED,
) -> None:
    """Make this context the default; MESH_CONTEXT takes precedence."""
    path = use(context, os.environ)
    if shared.output == "json":
        print_json(_record(path, _current()))
        return
    lines = [f"context in use: {path}"]
    beside = folder_beside(context)
    if beside is not None and beside != path:
        lines.append(f"there is a folder of that name here, too: for it, give ./{context}")
    if os.environ.get("MESH_CONTEXT"):
        lines.append("MESH_CONTEXT is set, and goes before it")
    print_lines(shared, lines)
