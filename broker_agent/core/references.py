"""References to secrets in the settings of a profile; their values are read elsewhere."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from schemas.spans import DAY_S

# Fields of a `Secret` of which exactly one is set.
SOURCES: Final = ("credential", "file", "env", "command", "vault", "plain")
_Path = Annotated[str, Meta(min_length=1, max_length=1024)]


class Secret(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A reference to a secret; exactly one of its fields is set.

    credential: of the service manager. file: an absolute path. env: a variable of the agent.
    command: an argv that prints it, within 10 s. vault: `PATH#KEY`. plain: the value itself, in a
    file that nobody else may read. ttl_s: seconds for which a value is used, 0: as long as the
    worker that has read it.
    """

    credential: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,255}$(?!\n)")] | None = None
    file: _Path | None = None
    env: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$(?!\n)")] | None = None
    command: Annotated[list[_Path], Meta(min_length=1, max_length=64)] | None = None
    vault: Annotated[str, Meta(pattern=r"^[^#\s/][^#\s]*/[^#\s]+#[^#\s]+$(?!\n)")] | None = None
    plain: Annotated[str, Meta(min_length=1, max_length=65536)] | None = None
    ttl_s: Annotated[float, Meta(ge=0, le=DAY_S)] = 0.0

    @property
    def source(self) -> str:
        """The field that is set."""
        return next((name for name in SOURCES if getattr(self, name) is not None), "")

    def __repr__(self) -> str:
        return f"Secret({self.told})"

    @property
    def told(self) -> str:
        """The reference for people: `file:/etc/mesh/erp.pw`; of a command its program alone."""
        match self.source:
            case "plain" | "":
                return self.source
            case "command":
                return f"command:{(self.command or [''])[0]}"
            case source:
                return f"{source}:{getattr(self, source)}"


class Vault(msgspec.Struct, frozen=True, kw_only=True):
    """Access to a Vault server; as in the agent's settings `connectors.vault`.

    token_file: of a token that an agent of Vault renews; else role_id and secret_id_file are
    exchanged for one (AppRole).
    """

    address: str = ""
    namespace: str = ""
    ca: str = ""
    token_file: str = ""
    role_id: str = ""
    secret_id_file: str = ""


def reference_fault(secret: Secret) -> str:
    """Return what is wrong with a reference, or an empty text."""
    given = [name for name in SOURCES if getattr(secret, name) is not None]
    if len(given) != 1:
        return f"names {' and '.join(given) or 'no source'}; give one of {', '.join(SOURCES)}"
    path = secret.file or (secret.command or ["/"])[0]
    if not path.startswith("/") or "\0" in path:
        return f"{given[0]} begins with an absolute path"
    return ""


def references(settings: Any) -> dict[str, Secret]:  # noqa: ANN401  (any part of settings)
    """References of a profile by the dotted names of their fields: `password`, `auth.token`."""
    return dict(_walk(settings, ""))


def references_in(settings: object, path: str = "") -> dict[str, Secret]:
    """As `references`, of a file whose kind has no type here: each table that is a reference."""
    if isinstance(settings, Mapping) and set(settings) & set(SOURCES):
        try:
            return {path: msgspec.convert(settings, Secret)}
        except msgspec.ValidationError:
            pass
    found: dict[str, Secret] = {}
    for name, inner in parts_of(settings):
        found |= references_in(inner, f"{path}.{name}" if path else name)
    return found


def without_values(settings: object) -> Any:  # noqa: ANN401
    """Return settings without the values of secrets that are in them, for a check elsewhere."""
    if isinstance(settings, Mapping):
        return {
            name: "-" if name == "plain" and isinstance(inner, str) else without_values(inner)
            for name, inner in settings.items()
        }
    return [*map(without_values, settings)] if isinstance(settings, list) else settings


def _walk(value: object, path: str) -> Iterator[tuple[str, Secret]]:
    if isinstance(value, Secret):
        yield path, value
        return
    for name, inner in parts_of(value):
        yield from _walk(inner, f"{path}.{name}" if path else name)


def parts_of(value: object) -> Iterator[tuple[str, object]]:
    """Yield the named parts of a struct, a map or a list; nothing of another value."""
    if isinstance(value, msgspec.Struct):
        yield from ((name, getattr(value, name)) for name in value.__struct_fields__)
    elif isinstance(value, Mapping):
        yield from ((str(name), inner) for name, inner in value.items())
    elif isinstance(value, list | tuple):
        yield from ((str(number), inner) for number, inner in enumerate(value))
