"""`mesh context ls` and `use`: list of the contexts, and choice of the default."""

import os
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from broker_client.cli.options import LISTING, SHARED, Listing, Shared
from broker_client.cli.screen.report import print_json, print_lines, print_list, screen_width
from broker_client.cli.screen.tables import Column, fit
from broker_client.context import contexts_directory, find_context, load_context, names_of, use
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


def ls(*, shared: Listing = LISTING) -> None:
    """List the contexts of this account; nothing is connected."""
    current = _current()
    found = [_record(path, current) for path in names_of(os.environ)]
    if current is not None and not any(each.current for each in found):
        found.append(_record(current, current))
    columns = (
        Column("CONTEXT"),
        Column("CURRENT"),
        Column("CLIENT"),
        Column("ROLE", 2),
        Column("BROKER", 1, least=12),
        Column("FAULT", least=12),
    )
    rows = [
        (
            each.name,
            "*" if each.current else "",
            each.client,
            each.role,
            ", ".join(each.urls),
            each.fault,
        )
        for each in found
    ]
    nothing = f"no contexts in {contexts_directory(os.environ)}: see `mesh client create`"
    print_list(
        shared,
        ContextRecord,
        found,
        lambda: fit(columns, rows, screen_width()),
        nothing=nothing,
    )


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
    if os.environ.get("MESH_CONTEXT"):
        lines.append("MESH_CONTEXT is set, and goes before it")
    print_lines(shared, lines)
