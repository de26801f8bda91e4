"""Profiles: settings of ways to systems, in files of the host. Decisions without any file.

A profile that cannot be used has a problem, which names its file and line. What was in use before
stays in use until the file is mended or removed.
"""

import hashlib
import math
import stat
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from broker_agent.core.lines import Place, line_of, parser_line, path_of, places_in
from broker_agent.core.references import Secret, Vault, parts_of, reference_fault, references
from schemas import limits
from schemas.ids import is_name

HASH_BYTES: Final = 16
# Bytes of a file.
FILE_BYTES: Final = 64 * 1024
ACTIONS_MAX: Final = 32
# Whole numbers of a message are below it.
WHOLE_MAX: Final = 2**63
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_ALL: Final = stat.S_IRWXG | stat.S_IRWXO
_WORD: Final = 120

Settings: TypeAlias = Mapping[str, Any]


class ProfileProblem(Exception):
    """Cause for which a file is not used. line: in it; 0: none in particular."""

    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self.text = text
        self.line = line


class Checker(Protocol):
    """The parts of a `Connector` that check settings without connecting."""

    profile: Any
    actions: Mapping[str, Any]

    def check(self, profile: Any) -> Sequence[str]: ...  # noqa: ANN401


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Settings that can be used. warnings: for people on the host, each a sentence."""

    hash: str
    shape: str = ""
    actions: Sequence[str] = ()
    variables: Sequence[str] = ()
    warnings: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class UsableProfile:
    """A profile in use. settings: as in its file, without `kind`, with references to secrets.

    variables: names of variables of the agent that its worker needs. is_plugin: its connector is a
    plug-in, which only a worker imports.
    """

    name: str
    kind: str
    hash: str
    settings: Settings = field(repr=False)
    path: str
    variables: Sequence[str] = ()
    is_plugin: bool = False
    vault: Vault = field(default_factory=Vault)

    def order(self) -> bytes:
        """Encode the order for a worker, for its `ready.take_up`."""
        order = WorkerOrder(
            name=self.name,
            kind=self.kind,
            hash=self.hash,
            settings=dict(self.settings),
            is_plugin=self.is_plugin,
            vault=self.vault,
        )
        return msgspec.msgpack.encode(order)


class WorkerOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Order for a worker that reaches a system: the settings of a profile, with references."""

    name: str
    kind: str
    hash: str
    settings: dict[str, Any]
    is_plugin: bool = False
    vault: Vault = msgspec.field(default_factory=Vault)

    def __repr__(self) -> str:
        return f"WorkerOrder(name={self.name!r}, kind={self.kind!r}, hash={self.hash!r})"


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Return the kind and the other settings of a file. Raises ProfileProblem."""
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        fault, line = parser_line(str(error))
        raise ProfileProblem(f"not TOML: {fault}", line or len(text.splitlines())) from None
    except (ValueError, RecursionError):
        raise ProfileProblem("not TOML: a number is too long, or it is nested too deep") from None
    if path := _wild(settings, []):
        raise ProfileProblem(
            f"{'.'.join(path)} is too large, or not a number", line_of(places_in(text), path)
        )
    kind = settings.pop("kind", None)
    if not isinstance(kind, str):
        line = line_of(places_in(text), ["kind"])
        raise ProfileProblem('kind is missing; give for example kind = "postgresql"', line)
    return kind, settings


def _wild(value: object, path: list[str]) -> list[str]:
    """Return the path of a number that no message can carry; empty: there is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return path
    if isinstance(value, int) and abs(value) >= WHOLE_MAX:
        return path
    found = (_wild(inner, [*path, name]) for name, inner in parts_of(value))
    return next(filter(None, found), [])


def check(
    settings: Settings, connector: Checker, places: Sequence[Place] = (), *, kind: str = ""
) -> Checked:
    """Check settings against their kind. places: of the file, for lines. Raises ProfileProblem."""
    typed = _typed(settings, connector, places)
    found = references(typed)
    for name, secret in found.items():
        if fault := reference_fault(secret):
            raise ProfileProblem(f"{name} {fault}", line_of(places, name.split(".")))
    if wrong := connector.check(typed):
        raise ProfileProblem("; ".join(wrong)[: limits.REASON_LEN], _named_line(places, wrong[0]))
    allowed: Callable[[Any], Sequence[str]] = getattr(
        connector, "allowed", lambda _typed: list(connector.actions)
    )
    plain = [name for name, secret in found.items() if secret.source == "plain"]
    return Checked(
        hash=hash_of(kind, typed),
        shape=shape_of(typed),
        actions=sorted(allowed(typed))[:ACTIONS_MAX],
        variables=sorted({secret.env for secret in found.values() if secret.env}),
        warnings=[f"{name} is in the file itself (plain)" for name in plain],
    )


def _typed(settings: Settings, connector: Checker, places: Sequence[Place]) -> Any:  # noqa: ANN401
    try:
        return msgspec.convert(dict(settings), connector.profile)
    except msgspec.ValidationError as error:
        from schemas.wrong import in_words  # for who has made a mistake only

        said = str(error)
        path = path_of(said)
        words = in_words(said, connector.profile).replace("the message has", "the kind has", 1)
        if is_secret(connector.profile, path) and "object" in said and "got `str`" in said:
            words = f'{".".join(path)} is no reference to a secret, such as {{ file = "/PATH" }}'
        raise ProfileProblem(words, line_of(places, path)) from None


def is_secret(kind: Any, path: Sequence[str]) -> bool:  # noqa: ANN401  (type of a profile)
    """Whether the field at `path` is a reference to a secret."""
    if len(path) != 1 or not issubclass(kind, msgspec.Struct):
        return False
    types = {each.name: each.type for each in msgspec.structs.fields(kind)}
    return "Secret" in repr(types.get(path[0], ""))


def _named_line(places: Sequence[Place], sentence: str) -> int:
    """Return the line of the setting that a sentence begins with, if it does."""
    first = sentence.partition(" ")[0].rstrip(":")
    return line_of(places, first.split(".")) if first else 0


def file_fault(mode: int, uid: int, own_uid: int, *, has_plain: bool) -> str:
    """Return why a file or folder of this mode and owner is not trusted, or an empty text."""
    if uid not in {0, own_uid}:
        return "it belongs to neither root nor the agent's user"
    if mode & _OTHERS_WRITE:
        return f"others can write it (mode {mode & 0o7777:o})"
    if has_plain and mode & _OTHERS_ALL:
        return f"it holds a secret and others can read it (mode {mode & 0o7777:o}): chmod 600"
    return ""


def has_plain(settings: object) -> bool:
    """Whether a file holds a value of a secret; settings: of any form, also invalid ones."""
    if isinstance(settings, Mapping):
        return isinstance(settings.get("plain"), str) or any(map(has_plain, settings.values()))
    return isinstance(settings, list) and any(map(has_plain, settings))


def hash_of(kind: str, typed: object) -> str:
    """Hash of settings and of references to secrets, never of a secret's value.

    Settings equal to their defaults do not count, so that a later release with more settings gives
    the same hash.
    """
    data = msgspec.json.encode([kind, _canonical(typed)], order="sorted")
    return hashlib.blake2b(data, digest_size=HASH_BYTES).hexdigest()


def _canonical(value: object) -> object:
    if isinstance(value, Secret) and value.plain is not None:
        return {"plain": True}
    if isinstance(value, msgspec.Struct):
        return {
            each.name: _canonical(getattr(value, each.name))
            for each in msgspec.structs.fields(type(value))
            if not _is_default(each, getattr(value, each.name))
        }
    if isinstance(value, Mapping):
        return {str(name): _canonical(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    return value


def _is_default(each: msgspec.structs.FieldInfo, value: object) -> bool:
    if each.default_factory is not msgspec.NODEFAULT:
        return bool(value == each.default_factory())
    return each.default is not msgspec.NODEFAULT and bool(value == each.default)


def shape_of(typed: object) -> str:
    """Settings on one line for people: no value of a secret, of maps the names alone."""
    return shown(" ".join(_shape(typed, "")))[: limits.SHAPE_LEN]


def _shape(value: object, path: str) -> list[str]:
    if isinstance(value, Secret):
        return [f"{path}={{{value.told}}}"]
    if isinstance(value, msgspec.Struct):
        return [
            part
            for each in msgspec.structs.fields(type(value))
            if not _is_default(each, inner := getattr(value, each.name))
            for part in _shape(inner, f"{path}.{each.name}" if path else each.name)
        ]
    if isinstance(value, Mapping):
        return [f"{path}=[{','.join(map(str, value))}]"]
    if isinstance(value, list | tuple):
        scalars = [each for each in value if isinstance(each, str | int | float)]
        return [f"{path}=[{','.join(map(str, scalars))}]"]
    return [f"{path}={str(value)[:_WORD]}"]


def shown(text: str) -> str:
    """Return text of printable ASCII, so that its bytes are its characters."""
    return "".join(each if " " <= each <= "~" else "?" for each in text)


def name_fault(name: str) -> str:
    return "" if is_name(name) else "the name of the file is no name of a connection"
