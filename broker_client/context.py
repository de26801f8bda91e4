"""Choice of the context: a file, a name, the environment's, or the default."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from broker_client.runtime.context import Context, context_identity, read_context
from broker_client.runtime.files import read_given, write_public
from schemas import addresses
from schemas.faults import Corrupt, MeshError, Refused
from schemas.ids import is_name

__all__ = ["Context", "context_identity", "find_context", "load_context"]

VARIABLE: Final = "MESH_CONTEXT"
DEFAULT_NAME: Final = "default"
FILE_NAME: Final = "context.toml"
SUFFIX: Final = ".toml"
# File beside the contexts directory: the name or path given to `mesh context use`.
CURRENT: Final = "current"


def load_context(given: str | Path | None, environ: Mapping[str, str]) -> Context:
    """Load the context of `given`, or else of `MESH_CONTEXT`, `mesh context use` or `default`.

    given: a file, a directory that `mesh client create` made, or a name below
    `$XDG_CONFIG_HOME/mesh/contexts`. A text with a slash or with the suffix `.toml` is a path.
    The paths in the context are absolute; the files are not opened yet. Raises Refused or Corrupt:
    `context_invalid`, or `state_unreadable` without the permission to read it.
    """
    path = find_context(given, environ)
    try:
        return _check(path, read_context(path))
    except MeshError as error:
        if error.code == "state_missing":
            raise Refused("context_invalid", _missing(given, path)) from error
        if error.code == "state_corrupt":
            raise Corrupt("context_invalid", error.message) from error
        raise


def _missing(given: str | Path | None, path: Path) -> str:
    is_beside = isinstance(given, str) and folder_beside(given) is not None
    hint = f": for the folder of that name here, give ./{given}" if is_beside else ""
    return f"there is no context at {path}{hint}"


def find_context(given: str | Path | None, environ: Mapping[str, str]) -> Path:
    """Return the file that `load_context` reads; it may be missing if it was named explicitly."""
    if isinstance(given, Path):
        return _file_of(given)
    named = given or environ.get(VARIABLE, "")
    if not named:
        return _default(environ)
    if "/" in named or named.endswith(SUFFIX):
        return _file_of(Path(named).expanduser())
    if not is_name(named):
        raise Refused("context_invalid", f"neither a file nor the name of a context: {named!a}")
    return contexts_directory(environ) / f"{named}{SUFFIX}"


def contexts_directory(environ: Mapping[str, str]) -> Path:
    configured = environ.get("XDG_CONFIG_HOME", "")
    # The XDG base directory specification ignores relative values.
    base = Path(configured) if configured.startswith("/") else Path.home() / ".config"
    return base / "mesh" / "contexts"


def names_of(environ: Mapping[str, str]) -> list[Path]:
    """Return the files of the contexts below the contexts directory, by name."""
    directory = contexts_directory(environ)
    return sorted(path for path in directory.glob(f"*{SUFFIX}") if is_name(path.stem))


def use(given: str, environ: Mapping[str, str]) -> Path:
    """Make `given`, a name or a path as in `load_context`, the default context.

    A name without a context means a folder of that name here that `mesh client create` made.
    Returns its file. Raises the fault of an unusable context; nothing changes then.
    """
    path = find_context(given, environ)
    beside = folder_beside(given)
    if beside is not None and not path.exists():
        path = beside
    load_context(path, environ)
    current = contexts_directory(environ).parent / CURRENT
    current.parent.mkdir(parents=True, exist_ok=True)
    is_named = path.parent == contexts_directory(environ)
    write_public(current, f"{path.stem if is_named else path.absolute()}\n".encode())
    return path


def folder_beside(given: str) -> Path | None:
    """Return the context in the folder here that has the name `given`, if there is one."""
    path = Path(given) / FILE_NAME
    return path.absolute() if is_name(given) and path.is_file() else None


def _default(environ: Mapping[str, str]) -> Path:
    contexts = contexts_directory(environ)
    current = contexts.parent / CURRENT
    if current.is_file():
        named = read_given(current).strip()
        return Path(named) if named.startswith("/") else contexts / f"{named}{SUFFIX}"
    path = contexts / f"{DEFAULT_NAME}{SUFFIX}"
    if path.exists():
        return path
    raise Refused(
        "context_invalid",
        f"no context: give --context FILE or NAME, set {VARIABLE}, `mesh context use`, or make"
        f" {path}",
    )


def _file_of(path: Path) -> Path:
    return path / FILE_NAME if path.is_dir() else path


def _check(path: Path, context: Context) -> Context:
    if not is_name(context.name):
        raise Refused("context_invalid", f"{path}: name is not a name: {context.name!a}")
    faults = [f"{url!a}: {why}" for url in context.urls if (why := addresses.url_fault(url))]
    if faults and len(faults) == len(context.urls):
        raise Refused(
            "context_invalid", f"{path}: not the address of a broker: {'; '.join(faults)}"
        )
    return msgspec.structs.replace(context, urls=addresses.usable(context.urls))
