"""Settings of a process: one Struct, filled from flag, environment, file or default, in this order.

A field with a Struct as its type is a table: `timers.beat_s` is `beat_s` below `[timers]` in the
file and `MESH_TIMERS__BEAT_S` in the environment. Nothing reads the environment later, and all
faults are reported together.
"""

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar, get_args, get_origin

import msgspec

from broker_client.runtime.files import read_given
from schemas.faults import MeshError, Refused
from schemas.near import near_names
from schemas.spans import DAY_S, size_bytes, span_s

S = TypeVar("S", bound=msgspec.Struct)

ENV_PREFIX: Final = "MESH_"
DEFAULT: Final = "default"


class _Leaf(NamedTuple):
    """One setting: its path, type and default."""

    path: tuple[str, ...]
    kind: Any
    default: Any

    @property
    def key(self) -> str:
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        return ENV_PREFIX + "__".join(self.path).upper()


class Loaded(Generic[S]):
    """The settings and the source of each value, by dotted key."""

    def __init__(self, value: S, values: dict[str, Any], sources: dict[str, str]) -> None:
        self.value = value
        self.values = values
        self.sources = sources

    def render(self) -> str:
        """Return one line per setting, `key = value  # source`: a valid file of settings."""
        lines = [f"{key} = {_toml(value)}" for key, value in self.values.items()]
        width = max((len(line) for line in lines), default=0)
        sources = (self.sources[key] for key in self.values)
        pairs = zip(lines, sources, strict=True)
        return "".join(f"{line:<{width}}  # {source}\n" for line, source in pairs)


def load_settings(
    kind: type[S],
    *,
    environ: Mapping[str, str],
    flags: Mapping[str, Any] | None = None,
    file: Path | None = None,
    check: Callable[[S], object] | None = None,
) -> Loaded[S]:
    """Fill a `kind`. flags: by dotted key; None for an absent flag.

    check: validates the whole and raises a MeshError. Raises Refused (`settings_invalid`) that
    names every fault, or a fault of `files.read_given` for the file.
    """
    leaves = list(_leaves(kind, ()))
    faults: list[str] = []
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    in_file = _read_file(file, leaves, faults)
    faults += _unknown(leaves, given, environ)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for leaf in leaves:
        raw, source = _find(leaf, given, environ, in_file, file)
        sources[leaf.key] = source
        values[leaf.key] = (
            leaf.default if source == DEFAULT else _convert(leaf, raw, source, faults)
        )
    if not faults:
        value = _build(kind, (), values)
        try:
            if check is not None:
                check(value)
        except MeshError as error:
            faults.append(error.message)
        else:
            return Loaded(value, values, sources)
    raise Refused("settings_invalid", "; ".join(faults))


def _leaves(kind: type[msgspec.Struct], path: tuple[str, ...]) -> Iterator[_Leaf]:
    for field in msgspec.structs.fields(kind):
        here = (*path, field.name)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from _leaves(field.type, here)
        elif field.default_factory is not msgspec.NODEFAULT:
            yield _Leaf(here, field.type, field.default_factory())
        elif field.default is not msgspec.NODEFAULT:
            yield _Leaf(here, field.type, field.default)
        else:
            raise TypeError(f"setting {'.'.join(here)} has no default")


def _read_file(file: Path | None, leaves: list[_Leaf], faults: list[str]) -> dict[str, Any]:
    """Return the values of the file by dotted key; an unknown key is a fault."""
    if file is None:
        return {}
    try:
        table = tomllib.loads(read_given(file))
    except tomllib.TOMLDecodeError as error:
        faults.append(f"{file}: {error}")
        return {}
    found: dict[str, Any] = {}
    known = {leaf.key for leaf in leaves}
    _flatten(table, "", known, found)
    faults += [
        f"{file}: no setting {key!a}{near_names(key, [*known])}"
        for key in found
        if key not in known
    ]
    return found


def _flatten(table: Mapping[str, Any], prefix: str, known: set[str], found: dict[str, Any]) -> None:
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key not in known:
            _flatten(value, f"{key}.", known, found)
        else:
            found[key] = value


def _unknown(
    leaves: list[_Leaf], flags: Mapping[str, Any], environ: Mapping[str, str]
) -> Iterator[str]:
    """Yield unknown keys; of variables only those below a known table, as the prefix is shared."""
    keys = {leaf.key for leaf in leaves}
    yield from (f"no setting {key!a}{near_names(key, [*keys])}" for key in flags if key not in keys)
    variables = {leaf.variable for leaf in leaves}
    tables = {f"{ENV_PREFIX}{leaf.path[0].upper()}__" for leaf in leaves if len(leaf.path) > 1}
    for name in environ:
        if name not in variables and any(name.startswith(table) for table in tables):
            yield f"environment: no setting {name}{near_names(name, [*variables])}"


def _find(
    leaf: _Leaf,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    in_file: Mapping[str, Any],
    file: Path | None,
) -> tuple[Any, str]:
    if leaf.key in flags:
        return flags[leaf.key], f"flag --{leaf.key.replace('_', '-')}"
    if leaf.variable in environ:
        return environ[leaf.variable], f"environment {leaf.variable}"
    if leaf.key in in_file:
        return in_file[leaf.key], f"file {file}"
    return None, DEFAULT


def _convert(leaf: _Leaf, raw: object, source: str, faults: list[str]) -> object:
    """Return a value of the setting's type; text is parsed, lists are split at commas."""
    kind = leaf.kind
    try:
        if isinstance(raw, str) and isinstance(leaf.default, (list, tuple)):
            raw = [part.strip() for part in raw.split(",") if part.strip()]
        elif isinstance(raw, str):
            raw = _measured(leaf.path[-1], raw)
        return msgspec.convert(raw, kind, strict=not isinstance(raw, (str, list)))
    except msgspec.ValidationError as error:
        from schemas.wrong import fault_in_words  # for who has made a mistake only

        wrong = fault_in_words(str(error))
        faults.append(f"{leaf.key} ({source}): {raw!a:.80} {wrong}; {_example(leaf)}")
        return leaf.default
    except ValueError as error:
        faults.append(f"{leaf.key} ({source}): {error}")
        return leaf.default


def _example(leaf: _Leaf) -> str:
    choices = get_args(leaf.kind) if get_origin(leaf.kind) is Literal else ()
    if choices:
        return f"give one of {', '.join(map(str, choices))}"
    example = leaf.default
    return f"give for example {_toml(list(example) if isinstance(example, tuple) else example)}"


def _measured(name: str, text: str) -> object:
    """Parse durations and sizes by the suffix of a setting's name, which is the default unit.

    `beat_s` takes 5, 5s or 1m; `agent_days` 90, 12h or 2w; `spool_bytes` 1048576 or 1GiB.
    """
    try:
        float(text)
    except ValueError:
        pass
    else:
        return text
    if name.endswith("_s"):
        return span_s(text)
    if name.endswith("_days"):
        return span_s(text) / DAY_S
    return size_bytes(text) if "bytes" in name.split("_") else text


def _build(kind: type[S], path: tuple[str, ...], values: Mapping[str, Any]) -> S:
    built: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        here = (*path, field.name)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            built[field.name] = _build(field.type, here, values)
        else:
            built[field.name] = values[".".join(here)]
    return kind(**built)


def _toml(value: object) -> str:
    """Return a TOML value: JSON's booleans, numbers, strings and arrays are valid TOML."""
    return '""' if value is None else json.dumps(value, ensure_ascii=False)
